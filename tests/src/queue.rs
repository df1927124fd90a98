//! The queue of an agent, seen from outside and from its reader.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process::{PATIENCE, Process, program, run};
use crate::town::Town;

/// Between two looks at a queue: nobody tells when it has changed.
const LOOK: Duration = Duration::from_millis(100);

/// What `atedge-agent queue stat` says of the agent's state in `folder`.
///
/// # Errors
/// There is no queue there.
pub fn stat(folder: &Path) -> Result<Value> {
    stat_by(&mut Command::new(program("atedge-agent")?), folder)
}

/// The same by `agent`, a command that runs the agent's program.
///
/// # Errors
/// There is no queue there.
pub fn stat_by(agent: &mut Command, folder: &Path) -> Result<Value> {
    agent.args(["queue", "stat", "--json", "--state"]).arg(folder);
    let output = run("stat", agent, folder.parent().unwrap_or(folder))?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!("queue stat said {} {}", output.status, String::from_utf8_lossy(&output.stderr))
    })
}

/// Looks at a queue until it is as `enough` wants it; the last look.
///
/// # Errors
/// It is not so within [`PATIENCE`].
pub fn until(folder: &Path, what: &str, enough: impl FnMut(&Value) -> bool) -> Result<Value> {
    until_by(|| stat(folder), what, enough)
}

/// The same with another way to look.
///
/// # Errors
/// It is not so within [`PATIENCE`].
pub fn until_by(
    mut look: impl FnMut() -> Result<Value>,
    what: &str,
    mut enough: impl FnMut(&Value) -> bool,
) -> Result<Value> {
    let end = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(stat) if enough(&stat) => return Ok(stat),
            Ok(stat) if Instant::now() > end => bail!("no {what} within {PATIENCE:?}: {stat}"),
            Err(error) if Instant::now() > end => return Err(error),
            Ok(_) | Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// How many numbers a stat says that a reader of a stream has not confirmed.
#[must_use]
pub fn unconfirmed(stat: &Value, stream: &str, reader: &str) -> u64 {
    backlog(stat, stream, reader)["unconfirmed"].as_u64().unwrap_or(0)
}

/// How many records a stat says that a reader of a stream has lost, by cause.
#[must_use]
pub fn lost(stat: &Value, stream: &str, reader: &str) -> BTreeMap<String, u64> {
    serde_json::from_value(backlog(stat, stream, reader)["lost"].clone()).unwrap_or_default()
}

fn backlog<'a>(stat: &'a Value, stream: &str, reader: &str) -> &'a Value {
    let is = |backlog: &&Value| backlog["stream"] == stream && backlog["reader"] == reader;
    stat["readers"].as_array().into_iter().flatten().find(is).unwrap_or(&Value::Null)
}

/// A reader that takes all streams of a gateway, and counts.
pub struct Listener {
    process: Process,
    /// By stream, the points of the records that were new, in the order in which they came.
    pub records: BTreeMap<String, Vec<Value>>,
    /// By stream, how many records are lost, by cause.
    pub lost: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Listener {
    /// Starts `atedge watch` as `atsign`; it confirms what it prints.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(town: &Town, atsign: &str) -> Result<Self> {
        let listener = Self::start_without_link(town, atsign)?;
        listener.process.line()?.context("atedge watch ended")?;
        Ok(listener)
    }

    /// The same, where its server is yet to come.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_without_link(town: &Town, atsign: &str) -> Result<Self> {
        let mut command = town.tool(&["watch", atsign, "--json", "--confirm"])?;
        let name = format!("watch-{}", atsign.trim_start_matches('@'));
        let process = Process::start(&name, &mut command, &town.folder)?;
        Ok(Self { process, records: BTreeMap::new(), lost: BTreeMap::new() })
    }

    /// The next line about a record that is new; `None` if none comes for `patience`.
    ///
    /// # Errors
    /// It ends, or prints what it should not.
    pub fn next(&mut self, patience: Duration) -> Result<Option<Value>> {
        loop {
            let Ok(line) = self.process.line_within(patience) else { return Ok(None) };
            let line: Value = serde_json::from_str(&line.context("atedge watch ended")?)?;
            if line["seq"].is_u64() && line["duplicate"] == false {
                return Ok(Some(line));
            }
        }
    }

    /// Listens until `enough` says so, or nothing has come for `patience`; says whether it was enough.
    ///
    /// # Errors
    /// It ends, or prints what it should not.
    pub fn until(&mut self, patience: Duration, mut enough: impl FnMut(&Self) -> bool) -> Result<bool> {
        while !enough(self) {
            let Ok(line) = self.process.line_within(patience) else { return Ok(false) };
            let line: Value = serde_json::from_str(&line.context("atedge watch ended")?)?;
            let stream = line["stream"].as_str().unwrap_or_default().to_owned();
            if let Some(lost) = line["lost"].as_u64() {
                let cause = line["cause"].as_str().context("a gap without a cause")?.to_owned();
                *self.lost.entry(stream).or_default().entry(cause).or_default() += lost;
            } else if line["seq"].is_u64() && line["duplicate"] == false {
                self.records.entry(stream).or_default().push(line);
            }
        }
        Ok(true)
    }

    /// How many records of a stream came, and how many are lost.
    #[must_use]
    pub fn accounted(&self, stream: &str) -> (u64, u64) {
        let records = self.records.get(stream).map_or(0, |records| records.len() as u64);
        (records, self.lost.get(stream).into_iter().flat_map(BTreeMap::values).sum())
    }
}
