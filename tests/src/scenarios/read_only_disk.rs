//! The disk under a gateway's queue fails and turns read-only: the gateway says so at once, acknowledges nothing any more,
//! and once the disk was mended, all that it did acknowledge is there.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::crash::Scene;
use crate::process::program;
use crate::scenario::Run;
use crate::small_disk::Disk;

/// Size of the disk, in MiB.
const DISK: u64 = 32;
/// How soon it has to say so.
const ALARM: Duration = Duration::from_secs(10);
/// How long devices go on while it is.
const WATCHED: Duration = Duration::from_secs(2);

/// See above.
///
/// # Errors
/// A promise is broken.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let disk = Disk::mount(&run.folder.join("agent"), DISK).context("no disk of its own; this needs root")?;
    let agent = program("atedge-agent")?.display().to_string();
    let mut scene = Scene::set(run, vec![agent], "")?;
    let mut slowest = Duration::ZERO;
    for _ in 0..if run.long { 20 } else { 1 } {
        disk.fail()?;
        let alarm = scene.gateway.until_disk(false)?;
        slowest = slowest.max(alarm);
        let log = scene.gateway.log()?;
        ensure!(log.contains("the disk takes nothing"), "its log does not say so");
        // This is the fault itself: the devices go on.
        sleep(WATCHED);
        scene.gateway.kill()?;
        disk.replug()?;
        scene.ensure_kept()?;
        scene.gateway.start()?;
    }
    run.note("alarm_within_ms", u64::try_from(slowest.as_millis())?);
    ensure!(slowest <= ALARM, "it says so only after {slowest:?}");
    scene.end(run)?.judge_acknowledged()?;
    drop(disk);
    Ok(())
}
