//! The disk under a gateway's queue fills up and has room again, while nobody takes its log either: nothing is
//! acknowledged that is not kept, nobody has to lend a hand, and nothing is lost.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::crash::Scene;
use crate::process::{program, sabotaged_agent};
use crate::random::Random;
use crate::scenario::Run;
use crate::small_disk::{Disk, fill};

/// Size of the disk, in MiB, and bytes that are left free of it, at most.
const DISK: u64 = 24;
const SOME_ROOM: u64 = 256 << 10;
/// How soon it has to store again.
const HEALED: Duration = Duration::from_secs(5);
/// How long devices go on while the disk is full.
const WATCHED: Duration = Duration::from_millis(1500);

/// Fills it, some times.
///
/// # Errors
/// A promise is broken.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let rounds = if run.long { 50 } else { 2 };
    let mut full = Full::set(run, vec![program("atedge-agent")?.display().to_string()])?;
    let id = full.scene.gateway.process()?.id();
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        full.fill()?;
        full.scene.ensure_kept()?;
        slowest = slowest.max(full.free()?);
    }
    run.note("rounds", rounds);
    run.note("healed_within_ms", u64::try_from(slowest.as_millis())?);
    ensure!(slowest <= HEALED, "it stores only {slowest:?} after there was room");
    ensure!(full.scene.gateway.process()?.id() == id, "it is another process");
    full.scene.end(run)?.judge(1)
}

/// An agent that acknowledges before the commit must be found out.
///
/// # Errors
/// All that it acknowledged was kept, or there is no such agent.
pub(super) fn run_sabotaged(run: &mut Run) -> Result<()> {
    let mut full = Full::set(run, sabotaged_agent()?)?;
    full.fill()?;
    ensure!(full.scene.ensure_kept().is_err(), "the sabotage was not noticed");
    Ok(())
}

/// A gateway with its devices, and the disk under its queue.
struct Full {
    scene: Scene,
    /// What takes the room.
    filler: PathBuf,
    random: Random,
    /// Taken out after those who use it are gone.
    #[expect(dead_code, reason = "held for as long as it is used")]
    disk: Disk,
}

impl Full {
    fn set(run: &Run, agent: Vec<String>) -> Result<Self> {
        let disk =
            Disk::mount(&run.folder.join("agent"), DISK).context("no disk of its own; this needs root")?;
        let mute = ["sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"].map(str::to_owned);
        let settings = "[outbox]\nmin_free = \"0%\"\n";
        let scene = Scene::set(run, mute.into_iter().chain(agent).collect(), settings)?;
        let filler = scene.gateway.state().join("filler");
        Ok(Self { scene, filler, random: run.random(), disk })
    }

    /// Fills the disk, until the agent says that it takes nothing, and a while longer. What was too much at once may
    /// find room all the same, in smaller groups or where SQLite's log begins anew.
    fn fill(&mut self) -> Result<()> {
        fill(&self.filler, self.random.below(SOME_ROOM))?;
        self.scene.gateway.until_disk(false)?;
        sleep(WATCHED);
        Ok(())
    }

    /// Makes room; how long it took the agent to store again.
    fn free(&self) -> Result<Duration> {
        fs::remove_file(&self.filler)?;
        self.scene.gateway.until_disk(true)
    }
}
