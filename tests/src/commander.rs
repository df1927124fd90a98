//! Who commands a gateway's device: asks again under the same key until told what became of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::gateway::{GATEWAY, NAMESPACE, READER};
use crate::process::{PATIENCE, run};
use crate::town::Town;

/// Pause before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What becomes of a command, as its gateway says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It was carried out.
    Done,
    /// It was not.
    Failed,
    /// It may have been or not.
    Unknown,
}

impl Told {
    /// The last line of `atedge cmd --json`; `None` where it says nothing final, so that asking again makes sense.
    fn read(said: &str) -> Option<Self> {
        let last: Value = serde_json::from_str(said.lines().last()?).ok()?;
        match last["payload"]["state"].as_str()? {
            "done" => Some(Self::Done),
            "failed" => Some(Self::Failed),
            "unknown" => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// A command that is to be sent to the gateway by the reader.
pub struct Order {
    command: Command,
    folder: PathBuf,
}

impl Order {
    /// Calls `device.command` with an argument, as `name=value`, under an idempotency key.
    ///
    /// # Errors
    /// The tool has not been built.
    pub fn new(town: &Town, name: &str, argument: &str, key: &str) -> Result<Self> {
        let mut command = town.tool(&["cmd", GATEWAY, name, argument, "--as", READER, "--json"])?;
        command.args(["--namespace", NAMESPACE, "--key", key, "--wait", "2s"]);
        Ok(Self { command, folder: town.folder.clone() })
    }

    /// Sends it until told what became of it; also gives how often it was sent.
    ///
    /// # Errors
    /// Nobody says within [`PATIENCE`].
    pub fn follow(mut self) -> Result<(Told, u64)> {
        let since = Instant::now();
        for times in 1.. {
            let ended = run("cmd", &mut self.command, &self.folder)?;
            if let Some(told) = Told::read(&String::from_utf8_lossy(&ended.stdout)) {
                return Ok((told, times));
            }
            let why = String::from_utf8_lossy(&ended.stderr);
            ensure!(since.elapsed() < PATIENCE, "{:?} never had an outcome: {}", self.command, why.trim());
            std::thread::sleep(ASK_AGAIN);
        }
        unreachable!("numbers do not end")
    }
}

/// What was told of commands, against what was carried out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Told done.
    pub done: u64,
    /// Told failed.
    pub failed: u64,
    /// Told unknown.
    pub unknown: u64,
    /// Carried out more than once.
    pub twice: u64,
    /// Told done, and never carried out.
    pub not_done: u64,
    /// Told failed, and carried out all the same.
    pub not_failed: u64,
}

impl Outcomes {
    /// Compares what was told, by topic, with how often each topic was published to.
    #[must_use]
    pub fn of(told: &BTreeMap<String, Told>, published: &BTreeMap<String, u64>) -> Self {
        let mut outcomes = Self::default();
        for (topic, told) in told {
            let times = published.get(topic).copied().unwrap_or_default();
            outcomes.twice += u64::from(times > 1);
            match told {
                Told::Done => outcomes.done += 1,
                Told::Failed => outcomes.failed += 1,
                Told::Unknown => outcomes.unknown += 1,
            }
            outcomes.not_done += u64::from(*told == Told::Done && times == 0);
            outcomes.not_failed += u64::from(*told == Told::Failed && times > 0);
        }
        outcomes
    }

    /// As figures.
    #[must_use]
    pub fn figures(&self) -> Value {
        json!({
            "done": self.done, "failed": self.failed, "unknown": self.unknown, "twice": self.twice,
            "not_done": self.not_done, "not_failed": self.not_failed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_outcome_of_the_gateway_is_final() {
        let line = |state: &str, payload: &str| format!("{{\"state\":\"{state}\",\"payload\":{payload}}}\n");
        let said = line("delivered", "null") + &line("done", "{\"state\":\"done\"}");
        assert_eq!(Told::read(&said), Some(Told::Done));
        assert_eq!(Told::read(&line("failed", "{\"state\":\"failed\"}")), Some(Told::Failed));
        assert_eq!(Told::read(&line("failed", "{\"state\":\"unknown\"}")), Some(Told::Unknown));
        assert_eq!(Told::read(&line("rejected", "{\"state\":\"expired\"}")), None);
        assert_eq!(Told::read(&line("unknown", "null")), None);
        assert_eq!(Told::read(""), None);
    }

    #[test]
    fn every_untruth_is_counted_as_what_it_is() {
        let told = [
            ("a", Told::Done),
            ("b", Told::Done),
            ("c", Told::Done),
            ("d", Told::Failed),
            ("e", Told::Failed),
            ("f", Told::Unknown),
            ("g", Told::Unknown),
        ];
        let told = told.map(|(topic, told)| (topic.to_owned(), told)).into();
        let published = [("a", 1), ("b", 2), ("e", 1), ("f", 1)];
        let published = published.map(|(topic, times)| (topic.to_owned(), times)).into();
        let expected = Outcomes { done: 3, failed: 2, unknown: 2, twice: 1, not_done: 1, not_failed: 1 };
        assert_eq!(Outcomes::of(&told, &published), expected);
    }
}
