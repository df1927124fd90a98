//! A server with 256 MiB of memory and clients who ask for more: it says no, and lives.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::process::Process;
use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::{Setup, Town};
use crate::wire::Wire;

const ALICE: &str = "@alice";
const CEILING: u64 = 256 * 1024 * 1024;
/// What an operator of such a machine would write: see the setting's manual.
const TABLES: &str = "[limits.node]\nbuffers = 50331648\n";
/// And what the packaged service has in its environment: large pieces of memory go back at once.
const UNDER: &[&str] = &["env", "MALLOC_MMAP_THRESHOLD_=262144"];
/// Clients at the same time with the largest values.
const CLIENTS: usize = 12;
/// A value that just fits into a line.
const LARGE: usize = at_protocol::line::MAX_AUTHENTICATED - 200;

/// Values of 10 MB in and out by many at once, JSON without end, and a `scan` over very many keys.
///
/// # Errors
/// The server died, or answered with anything but data or a named error.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let keys = if run.long { 1_000_000 } else { 20_000 };
    let town =
        Town::with(&run.folder, &[&[ALICE]], &Setup { tables: TABLES, under: UNDER, ..Setup::default() })?;
    let ceiling = Ceiling::over(town.nodes[0].process()?)?;
    run.note("ceiling", if ceiling.is_some() { "cgroup v1" } else { "resident set size" });
    let owner = Owner::new(&town.tenant(ALICE)?.secret)?;
    owner.activate(ALICE, &mut town.dial(ALICE)?)?;
    let signed_in = || -> Result<Wire> {
        let mut wire = town.dial(ALICE)?;
        owner.sign_in(ALICE, &mut wire)?;
        Ok(wire)
    };
    let (mut data, mut refused) = (0_usize, 0_usize);
    let mut count = |answers: Vec<String>| -> Result<()> {
        for answer in answers {
            if answer.starts_with("data:") {
                data += 1;
            } else {
                ensure!(answer.starts_with("error:AT"), "answered {answer:.80}");
                refused += 1;
            }
        }
        Ok(())
    };
    let large = "x".repeat(LARGE);
    for (phase, line) in
        [("in", format!("update:large{ALICE} {large}")), ("out", format!("llookup:large{ALICE}"))]
    {
        let wires = (0..CLIENTS).map(|_| signed_in()).collect::<Result<Vec<_>>>()?;
        count(all_at_once(wires, &line)?)?;
        run.note(&format!("peak_kib_{phase}"), town.nodes[0].process()?.peak_kib()?);
    }
    let deep = "[".repeat(500_000);
    for line in [
        format!("enroll:request:{{\"appName\":{deep}"),
        format!("update:json:{{\"atKey\":{deep}"),
        format!("from:{ALICE}:clientConfig:{deep}"),
        format!("batch:{deep}"),
        format!("config:block:add:{}", "@x ".repeat(300_000)),
    ] {
        count(all_at_once(vec![signed_in()?], &line)?)?;
    }
    let mut wire = signed_in()?;
    fill(&mut wire, keys)?;
    let wires = (0..4).map(|_| signed_in()).collect::<Result<Vec<_>>>()?;
    count(all_at_once(wires, "scan")?)?;
    run.note("keys", keys);
    run.note("answered", data);
    run.note("refused", refused);
    let peak = town.nodes[0].process().and_then(Process::peak_kib).context("the server is gone")?;
    run.note("peak_kib", peak);
    ensure!(wire.ask("noop:0")?.starts_with("data:ok"), "the server does not answer any more");
    ensure!(peak * 1024 <= CEILING, "the server needed {peak} KiB");
    if let Some(ceiling) = ceiling {
        ensure!(ceiling.killed()? == 0, "the kernel has killed for want of memory");
    }
    Ok(())
}

/// Says the same line on all connections at a time; the beginnings of the answers.
fn all_at_once(wires: Vec<Wire>, line: &str) -> Result<Vec<String>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            wires.into_iter().map(|mut wire| scope.spawn(move || whole_answer(&mut wire, line))).collect();
        threads.into_iter().map(|thread| thread.join().ok().context("a client's thread")?).collect()
    })
}

/// Reads an answer to its end, a record at a time, and keeps only its beginning.
fn whole_answer(wire: &mut Wire, line: &str) -> Result<String> {
    // The server may refuse before it has read all of it.
    let said = wire.say(format!("{line}\n").as_bytes());
    let mut answer = String::new();
    let mut last = String::new();
    while !last.ends_with('@') {
        match wire.hear() {
            Ok(Some(record)) => last = record,
            Ok(None) if !answer.is_empty() => break,
            Ok(None) => anyhow::bail!("hung up on without a word after {line:.40}"),
            Err(error) if said.is_err() && !answer.is_empty() => {
                drop(error);
                break;
            }
            Err(error) => return Err(error),
        }
        if answer.len() < 200 {
            answer.push_str(&last);
        }
    }
    Ok(answer)
}

/// Very many records, pipelined.
fn fill(wire: &mut Wire, keys: usize) -> Result<()> {
    const BURST: usize = 500;
    for first in (0..keys).step_by(BURST) {
        let burst: String = (first..first + BURST)
            .map(|number| format!("update:reading{number:07}.process.boiler.plant7{ALICE} x\n"))
            .collect();
        wire.say(burst.as_bytes())?;
        let mut answers = 0;
        while answers < BURST {
            let heard = wire.hear()?.context("hung up on while writing")?;
            ensure!(!heard.contains("error:"), "not written: {heard:.80}");
            answers += heard.matches("data:").count();
        }
    }
    Ok(())
}

/// A memory limit of the kernel's, removed when dropped.
struct Ceiling(PathBuf);

impl Ceiling {
    /// `None` where this process may not set one.
    fn over(process: &Process) -> Result<Option<Self>> {
        let folder = PathBuf::from(format!("/sys/fs/cgroup/memory/atedge-test-{}", process.id()));
        if std::fs::create_dir(&folder).is_err() {
            return Ok(None);
        }
        let ceiling = Self(folder);
        let set = |file: &str, value: String| std::fs::write(ceiling.0.join(file), value).is_ok();
        let is_set = set("memory.limit_in_bytes", CEILING.to_string())
            && set("cgroup.procs", process.id().to_string());
        Ok(is_set.then_some(ceiling))
    }

    /// Processes that were killed for want of memory.
    fn killed(&self) -> Result<u64> {
        let control = std::fs::read_to_string(self.0.join("memory.oom_control"))?;
        let line = control.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(line.unwrap_or("0").trim().parse()?)
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // It goes once the process has; an empty group left behind limits nobody.
        let root = self.0.with_file_name("cgroup.procs");
        if let Ok(members) = std::fs::read_to_string(self.0.join("cgroup.procs")) {
            for member in members.lines() {
                std::fs::write(&root, member).ok();
            }
        }
        std::fs::remove_dir(&self.0).ok();
    }
}
