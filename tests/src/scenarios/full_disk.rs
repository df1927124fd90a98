//! The disk under a gateway's queue fills up and has room again, while nobody takes its log either: nothing is
//! acknowledged that is not kept, nobody has to lend a hand, and nothing is lost.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::crash::Scene;
use crate::process::program;
use crate::scenario::Run;
use crate::small_disk::{Disk, fill};

/// Size of the disk, in MiB, and bytes that are left free of it, at most.
const DISK: u64 = 24;
const SOME_ROOM: u64 = 256 << 10;
/// How soon it has to store again.
const HEALED: Duration = Duration::from_secs(5);
/// How long it is watched that nothing is acknowledged.
const WATCHED: Duration = Duration::from_millis(1500);

/// Fills it, some times.
///
/// # Errors
/// A promise is broken.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let rounds = if run.long { 50 } else { 2 };
    let disk = Disk::mount(&run.folder.join("agent"), DISK).context("no disk of its own; this needs root")?;
    let agent = program("atedge-agent")?.display().to_string();
    let mute = ["sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"].map(str::to_owned);
    let settings = "[outbox]\nmin_free = \"0%\"\n";
    let mut scene = Scene::set(run, mute.into_iter().chain([agent]).collect(), settings)?;
    let id = scene.gateway.process()?.id();
    let filler = scene.gateway.state().join("filler");
    let mut random = run.random();
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        fill(&filler, random.below(SOME_ROOM))?;
        scene.gateway.until_disk(false)?;
        let before = scene.acknowledged()?;
        // This is the fault itself: the devices go on.
        sleep(WATCHED);
        ensure!(scene.acknowledged()? == before, "a full disk was acknowledged to devices");
        fs::remove_file(&filler)?;
        slowest = slowest.max(scene.gateway.until_disk(true)?);
    }
    run.note("rounds", rounds);
    run.note("healed_within_ms", u64::try_from(slowest.as_millis())?);
    ensure!(slowest <= HEALED, "it stores only {slowest:?} after there was room");
    ensure!(scene.gateway.process()?.id() == id, "it is another process");
    scene.end(run)?.judge(1)?;
    drop(disk);
    Ok(())
}
