//! The plug is pulled at moments that the seed decides: the agent dies, and of all its files only what it synced is
//! left for sure. Nothing that was acknowledged is lost, and it starts again without help.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::crash::{SHORT_SILENCE, Scene};
use crate::plug::Disk;
use crate::process::program;
use crate::scenario::Run;

/// It is pulled within this time after the agent was ready, or, each third time, was started.
const AFTER: Duration = Duration::from_millis(400);
/// Cuts without a pause. Then all that is acknowledged has to arrive.
const BREATH: u64 = 20;

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
