//! The plug is pulled at moments that the seed decides: the agent dies, and of all its files only what it synced is
//! left for sure. Nothing that was acknowledged is lost, and it starts again without help.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::crash::{SHORT_SILENCE, Scene};
use crate::gateway::{Gateway, gateway_town};
use crate::plug::Disk;
use crate::process::program;
use crate::queue::until_by;
use crate::scenario::Run;

/// It is pulled within this time after the agent was ready, or, each third time, was started.
const AFTER: Duration = Duration::from_millis(400);
/// Cuts without a pause. Then all that is acknowledged has to arrive.
const BREATH: u64 = 20;
/// How often a new gateway is cut off, within this time after it was started.
const CUTS_AT_FIRST: u64 = 10;
const FIRST_START: Duration = Duration::from_millis(300);

/// The agent as built.
///
/// # Errors
/// Something is lost, twice, out of order, or the agent does not start.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let cuts = if run.long { 1_000 } else { 20 };
    let mut disk = Disk::mount(&run.folder.join("agent"))?;
    let mut scene = scene(run)?;
    storm(run, &mut scene, &mut disk, cuts)?;
    run.note("cuts", cuts);
    scene.end(run)?.judge(cuts)
}

/// New gateways, whose plug is pulled while they start for the first time: their keys, their seal key, their place at
/// the atServer and the queue are all being made.
///
/// # Errors
/// One does not start without help.
pub(super) fn run_first_starts(run: &mut Run) -> Result<()> {
    let gateways = if run.long { 50 } else { 4 };
    let mut random = run.random();
    for number in 1..=gateways {
        let folder = run.subfolder(&number.to_string())?;
        let town = gateway_town(&folder)?;
        let mut disk = Disk::mount(&folder.join("agent"))?;
        let mut gateway = Gateway::new(&town, "")?;
        gateway.take_keys_in(&town)?;
        for _ in 0..CUTS_AT_FIRST {
            gateway.launch()?;
            // This is the fault itself, not a wait for anything.
            std::thread::sleep(random.time(FIRST_START));
            gateway.kill()?;
            disk.pull(&mut random)?;
        }
        gateway.start()?;
        let is_alone = |status: &Value| status["agent"]["standing"]["is"] == "alone";
        until_by(|| gateway.status(), "gateway that is one after all", is_alone)?;
        gateway.stop()?;
        run.progress(&format!("{number} of {gateways} gateways"));
    }
    run.note("gateways", gateways);
    run.note("cuts", gateways * CUTS_AT_FIRST);
    Ok(())
}

/// A disk that says that it has synced, and has not, must be found out.
///
/// # Errors
/// Nothing was lost.
pub(super) fn run_on_a_lying_disk(run: &mut Run) -> Result<()> {
    let mut disk = Disk::mount(&run.folder.join("agent"))?;
    let mut scene = scene(run)?;
    scene.silence = SHORT_SILENCE;
    disk.lie();
    storm(run, &mut scene, &mut disk, 3)?;
    ensure!(scene.end(run)?.accounts.lost() > 0, "the lie was not noticed: no reading was lost");
    Ok(())
}

fn scene(run: &Run) -> Result<Scene> {
    Scene::set(run, vec![program("atedge-agent")?.display().to_string()], "")
}

/// Pulls it so many times.
fn storm(run: &Run, scene: &mut Scene, disk: &mut Disk, cuts: u64) -> Result<()> {
    let mut random = run.random();
    for cut in 1..=cuts {
        // This is the fault itself, not a wait for anything.
        std::thread::sleep(random.time(AFTER));
        scene.gateway.kill()?;
        disk.pull(&mut random)?;
        match random.below(3) {
            0 if cut % BREATH != 0 => scene.gateway.launch()?,
            _ => scene.gateway.start()?,
        }
        if cut % BREATH == 0 {
            scene.catch_up()?;
            run.progress(&format!("{cut} of {cuts} cuts"));
        }
    }
    Ok(())
}
