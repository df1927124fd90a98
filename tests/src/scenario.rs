//! What a scenario is, and how one is run and reported.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::random::Random;

/// Numbers worth keeping, by name; they stand in the scenario's line.
pub type Figures = Map<String, Value>;

/// A test with whole processes.
pub struct Scenario {
    /// Which run of `tests/run` it belongs to.
    pub group: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it does. An error is a failed scenario; what it noted until then is reported all the same.
    pub run: fn(&mut Run) -> Result<()>,
}

/// One run of a scenario.
pub struct Run {
    /// Where its processes keep their files and logs.
    pub folder: PathBuf,
    /// In full length.
    pub long: bool,
    /// Where all its chance comes from.
    pub seed: u64,
    /// The figures so far.
    pub figures: Figures,
}

impl Run {
    /// The sequence of the run's seed.
    #[must_use]
    pub fn random(&self) -> Random {
        Random::new(self.seed)
    }

    /// Notes a figure.
    pub fn note(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// Says on standard error how far the scenario is.
    #[expect(clippy::print_stderr, reason = "progress for who looks on")]
    pub fn progress(&self, text: &str) {
        eprintln!("   {text}");
    }

    /// A folder of its own within the run's.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }
}

/// A seed for a run that was given none.
#[must_use]
pub fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Small enough to be read by whatever reads the JSON line.
    Random::new(since.as_secs() ^ u64::from(since.subsec_nanos())).below(1 << 48)
}

impl Scenario {
    /// Runs it in a folder of its own and gives its line. The folder is kept if it failed.
    ///
    /// # Errors
    /// There is no folder to run in.
    pub fn run(&self, seed: u64, long: bool) -> Result<Outcome> {
        let folder = tempfile::Builder::new().prefix(&format!("atedge-{}-", self.name)).tempdir()?;
        let mut run = Run { folder: folder.path().to_owned(), long, seed, figures: Figures::new() };
        let result = (self.run)(&mut run);
        let mut line = json!({ "name": self.name, "seed": seed });
        let members = line.as_object_mut().expect("an object was just made");
        members.append(&mut run.figures);
        match &result {
            Ok(()) => members.insert("verdict".into(), "pass".into()),
            Err(error) => {
                members.insert("verdict".into(), "fail".into());
                members.insert("why".into(), format!("{error:#}").into())
            }
        };
        let logs = result.is_err().then(|| folder.keep());
        Ok(Outcome { line, logs })
    }
}

/// How a run ended.
pub struct Outcome {
    /// One JSON object: name, seed, figures, verdict.
    pub line: Value,
    /// The folder of a run that failed.
    pub logs: Option<PathBuf>,
}

impl Outcome {
    /// Where to look for the reason.
    #[must_use]
    pub fn logs(&self) -> Option<&Path> {
        self.logs.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_in_the_line_also_of_a_failed_run() {
        let fails = Scenario {
            group: "none",
            name: "fails",
            run: |run| {
                run.note("tried", run.random().below(1) + 3);
                anyhow::bail!("it is raining")
            },
        };
        let outcome = fails.run(7, false).unwrap();
        assert_eq!(
            outcome.line.to_string(),
            r#"{"name":"fails","seed":7,"tried":3,"verdict":"fail","why":"it is raining"}"#
        );
        std::fs::remove_dir_all(outcome.logs().unwrap()).unwrap();
        let passes = Scenario { group: "none", name: "passes", run: |_| Ok(()) };
        let outcome = passes.run(8, false).unwrap();
        assert_eq!(outcome.line["verdict"], "pass");
        assert!(outcome.logs().is_none());
    }
}
