//! `check`: whether the configuration makes sense.

use atedge_service::Exit;
use atedge_service::config::{ConfigError, layered};
use clap::Args;
use serde_json::json;

use super::{Complaint, ConfigArgs, run, say};
use crate::config::{self, AgentConfig, Loaded};

/// Check the configuration, offline: all that is wrong with it, at once.
#[derive(Debug, Args)]
#[command(after_help = "Example: atedge-agent check --config agent.toml\n\n\
    Nothing is connected to or opened but the key files; `atedge-agent doctor` does that.")]
pub struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(async { self.check() })
    }

    fn load(&self) -> Result<AgentConfig, ConfigError> {
        let Loaded { config, sources, .. } = config::load(&layered(&self.config.config))?;
        ConfigError::all(config.check_device_keys(&sources))?;
        Ok(config)
    }

    fn check(&self) -> Result<Exit, Complaint> {
        let config = match self.load() {
            Ok(config) => config,
            Err(error) if self.json => {
                let errors: Vec<_> = error.problems().collect();
                say(format_args!("{}", json!({ "ok": false, "errors": errors })));
                return Ok(Exit::Usage);
            }
            Err(error) => return Err(Complaint { text: error.to_string(), exit: Exit::Usage }),
        };
        let (adapters, streams, commands) = (config.adapter.len(), config.stream.len(), config.command.len());
        let (gateway, devices) = (&config.gateway.atsign, config.device.len());
        if self.json {
            let summary = json!({
                "ok": true, "gateway": gateway, "devices": devices, "adapters": adapters, "streams": streams, "commands": commands,
            });
            say(format_args!("{summary}"));
        } else {
            let own = match devices {
                0 => String::new(),
                devices => format!("{} with an atSign of their own, ", counted(devices, "device")),
            };
            let [adapters, streams, commands] =
                [(adapters, "adapter"), (streams, "stream"), (commands, "command")]
                    .map(|(number, noun)| counted(number, noun));
            say(format_args!("{gateway}: {own}{adapters}, {streams}, {commands}. All is well."));
        }
        Ok(Exit::Done)
    }
}

/// So many of something.
fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
