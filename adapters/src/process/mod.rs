//! Programs that speak for devices: the door for whatever has no adapter of its own.
//!
//! A program writes one JSON object a line to its standard output; each is a reading. What it is told comes as
//! lines on its standard input, which closes when it is to end. What it writes to its standard error is logged.
//!
//! As on a serial line, nothing is acknowledged to the program: what it has said between a crash of the gateway
//! and the reading's commit is gone, unless it says it again with the same `id`.

mod child;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::child::Program;
use crate::decode::{Decode, Decoder, IdFrom, Pointer, TimeFrom};
use crate::report::ReportConfig;
use crate::{Adapter, Command, ConfigError, DeviceName, Intake, PointName, Running, StreamName};

/// The longest line that may be configured, in bytes.
const LONGEST_LINE: usize = 1024 * 1024;

/// An adapter for a program: a table `[adapter.NAME]` with `type = "process"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// The program, by its whole path, and its arguments. No shell takes part.
    pub command: Vec<String>,
    /// Variables of its environment, besides `PATH`, `HOME` and `LANG`, which it gets from the agent: no other does,
    /// so that it learns nothing that is meant for the agent alone.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The device that it speaks for, or `{ from = "/device" }`: where each object names its own.
    pub device: DeviceFrom,
    /// The stream its readings belong to.
    pub stream: StreamName,
    /// Which parts of an object are points, by JSON Pointer; without, all numbers, strings and truth values at its
    /// top level.
    #[serde(default)]
    pub pick: BTreeMap<PointName, Pointer>,
    /// Where the device's own time stands.
    pub time: Option<TimeFrom>,
    /// Where the device's own id of a reading stands.
    pub id: Option<IdFrom>,
    /// The points' units, as SenML writes them (RFC 8428 §12.1).
    #[serde(default)]
    pub units: BTreeMap<PointName, String>,
    /// The most bytes of a line. A longer one is refused and counted.
    #[serde(default = "default_max")]
    pub max: usize,
    /// What is reported of all this, instead of `[defaults] report`.
    #[serde(default)]
    pub report: ReportConfig,
}

fn default_max() -> usize {
    64 * 1024
}

/// For which device a program speaks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected a device's name, or `{ from = \"/device\" }`")]
pub enum DeviceFrom {
    /// Always this one.
    Fixed(DeviceName),
    /// The one that each object names.
    Said(NameFrom),
}

/// Where the device's name stands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameFrom {
    /// A JSON Pointer (RFC 6901) to a string.
    pub from: Pointer,
}

impl DeviceFrom {
    fn fixed(&self) -> Option<&DeviceName> {
        match self {
            Self::Fixed(device) => Some(device),
            Self::Said(_) => None,
        }
    }
}

impl ProcessConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let Some(program) = self.command.first() else {
            return Err(ConfigError::at(
                "command",
                "expected a program, as in [\"/usr/bin/reader\", \"--fast\"]",
            ));
        };
        if !Path::new(program).is_absolute() {
            let what = format!("expected the program's whole path, beginning with `/`, not {program:?}");
            return Err(ConfigError::at("command", what));
        }
        if self.command.iter().any(|part| part.contains('\0')) {
            return Err(ConfigError::at("command", "no part of it can have a NUL"));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(ConfigError::at(
                    format!("env.{name}"),
                    "expected a name without `=`, and no NUL",
                ));
            }
        }
        if !(1..=LONGEST_LINE).contains(&self.max) {
            return Err(ConfigError::at("max", format!("expected 1 to {LONGEST_LINE}")));
        }
        Ok(())
    }

    pub(crate) fn build(self, name: String) -> Result<Box<dyn Adapter>, ConfigError> {
        self.check()?;
        Ok(Box::new(ProcessAdapter { name, config: self }))
    }

    /// The program's path; there is one in what was checked.
    fn program(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    fn decoder(&self) -> Decoder {
        Decoder {
            decode: Decode::Json {},
            pick: self.pick.clone(),
            time: self.time.clone(),
            id: self.id.clone(),
            device: match &self.device {
                DeviceFrom::Fixed(_) => None,
                DeviceFrom::Said(NameFrom { from }) => Some(from.clone()),
            },
            units: self.units.clone(),
        }
    }
}

struct ProcessAdapter {
    name: String,
    config: ProcessConfig,
}

impl Adapter for ProcessAdapter {
    fn run(
        self: Box<Self>,
        intake: Intake,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Running {
        let Self { name, config } = *self;
        Box::pin(async move {
            Program::new(name, config, intake).run(commands, stop).await;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCANNER: &str = r#"
        command = ["/usr/lib/plant/scanner", "--port", "1"]
        env = { LEVEL = "2" }
        device = "gate"
        stream = "tags"
        pick = { tag = "/tag/id" }
        time = { from = "/at", as = "unix_ms" }
        id = { from = "/n" }
    "#;

    #[test]
    fn the_documented_example_is_read() {
        let config: ProcessConfig = toml::from_str(SCANNER).unwrap();
        config.check().unwrap();
        assert_eq!((config.max, config.command.len()), (64 * 1024, 3));
    }

    #[test]
    fn wrong_values_are_named() {
        let config: ProcessConfig = toml::from_str(SCANNER).unwrap();
        let wrong = |change: fn(&mut ProcessConfig)| {
            let mut config = config.clone();
            change(&mut config);
            config.check().unwrap_err().setting
        };
        assert_eq!(wrong(|config| config.command.clear()), "command");
        assert_eq!(wrong(|config| config.command[0] = "scanner".to_owned()), "command");
        assert_eq!(wrong(|config| config.command[1].push('\0')), "command");
        assert_eq!(wrong(|config| drop(config.env.insert("A=B".to_owned(), String::new()))), "env.A=B");
        assert_eq!(wrong(|config| config.max = 0), "max");
        assert!(toml::from_str::<ProcessConfig>(&format!("{SCANNER}\nshell = true")).is_err());
        for device in ["\"Gate 1\"", "{ from = \"device\" }", "{ at = \"/device\" }"] {
            let text = SCANNER.replace("device = \"gate\"", &format!("device = {device}"));
            let error = toml::from_str::<ProcessConfig>(&text).unwrap_err().to_string();
            assert!(error.contains("expected a device's name"), "{error}");
        }
    }
}
