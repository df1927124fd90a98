//! The disk under a gateway's queue fails now and again, at writing, at syncing, at opening: nothing is acknowledged that is
//! not kept, the gateway goes on by itself, and nothing is lost.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::crash::Scene;

use crate::process::{Process, program};
use crate::random::Random;
use crate::scenario::Run;

/// How long it fails at a time.
const FAILING: Duration = Duration::from_secs(4);
/// Calls of the system that may fail, with their errors. One in so many does.
const CALLS: [(&str, &str, u64); 6] = [
    ("pwrite64", "ENOSPC", 20),
    ("pwrite64", "EIO", 20),
    ("fdatasync", "EIO", 10),
    ("fsync", "EIO", 3),
    ("ftruncate", "EIO", 2),
    ("openat", "EIO", 4),
];

/// See above.
///
/// # Errors
/// A promise is broken.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let rounds = if run.long { 100 } else { 3 };
    let agent = program("atedge-agent")?.display().to_string();
    let scene = Scene::set(run, vec![agent], "")?;
    let mut random = run.random();
    let mut failures = 0;
    for round in 0..rounds {
        let trace = scene.town.folder.join(format!("failing-{round}"));
        let failing = fail(&scene, &trace, &mut random)?;
        // This is the fault itself.
        sleep(FAILING);
        failing.terminate()?;
        let said = std::fs::read_to_string(&trace)?;
        failures += said.matches("(INJECTED)").count();
        scene.gateway.until_disk(true)?;
    }
    run.note("rounds", rounds);
    run.note("failures", failures);
    run.note("there_after_all", scene.gateway.log()?.matches("on the disk after all").count());
    let outcome = scene.end(run)?;
    outcome.judge_acknowledged()?;
    ensure!(failures >= rounds, "only {failures} calls failed");
    // A group whose COMMIT failed may be on disk all the same, and must not be stored again.
    ensure!(outcome.captured_again() == 0, "captured again {} times", outcome.captured_again());
    Ok(())
}

/// Has calls of the agent about its queue fail until this ends.
fn fail(scene: &Scene, trace: &std::path::Path, random: &mut Random) -> Result<Process> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=pwrite64,fdatasync,fsync,ftruncate,openat", "-o"]).arg(trace);
    for file in ["outbox.db", "outbox.db-wal"] {
        command.arg("-P").arg(scene.gateway.state().join(file));
    }
    let which = random.place(2);
    for (index, (call, error, one_in)) in CALLS.into_iter().enumerate() {
        // A call can fail in one way only.
        if index == 1 - which {
            continue;
        }
        let first = 1 + random.below(one_in);
        command.args(["-e", &format!("inject={call}:error={error}:when={first}+{one_in}")]);
    }
    command.args(["-p", &scene.gateway.process()?.id().to_string()]);
    Process::start("strace", &mut command, &scene.town.folder)
        .context("strace is needed: apt-get install strace")
}
