//! `doctor`: looks at all that the agent needs, one after the other, and says what to do where something is wrong.

mod at_rest;
mod finding;
mod here;
mod there;

use std::path::Path;

use atedge_service::Exit;
use atedge_service::config::layered;
use clap::Args;
use serde_json::json;

use self::finding::{Finding, Verdict};
use super::agent::AgentArgs;
use super::{Complaint, ConfigArgs, Progress, run, say};
use crate::config::{self, Loaded};
use crate::control::Ask;
use crate::control::caller::CallError;
use crate::seal::holder::Holder;
use crate::seal::{Place, Seal};

/// Look at all that the agent needs: what is wrong, why, and what to do. It need not run.
#[derive(Debug, Args)]
#[command(after_help = "Example: sudo -u atedge-agent atedge-agent doctor\n\n\
    Run it as the agent's user, or as root, to see what the agent sees. Nothing is changed. The exit code is 1 when \
    something is wrong.")]
pub struct Doctor {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    agent: AgentArgs,
    /// Do not connect to the directory and the atServer.
    #[arg(long)]
    offline: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(self.look())
    }

    async fn look(self) -> Result<Exit, Complaint> {
        let progress = Progress::new();
        progress.at(format_args!("looking …"));
        let findings = self.findings().await;
        progress.clear();
        let is_well = findings.iter().all(|finding| finding.verdict != Verdict::Bad);
        if self.json {
            say(format_args!("{}", json!({ "ok": is_well, "findings": findings })));
        } else {
            findings.iter().for_each(|finding| say(format_args!("{finding}")));
        }
        Ok(if is_well { Exit::Done } else { Exit::Failed })
    }

    async fn findings(&self) -> Vec<Finding> {
        let state = &self.agent.state.state;
        let mut findings = vec![self.daemon()];
        let config = match config::load(&layered(&self.config.config)) {
            Ok(Loaded { config, .. }) => {
                let says = format!("{} makes sense", self.config.config.display());
                findings.push(Finding::good("configuration", says));
                Some(config)
            }
            Err(error) => {
                findings.push(Finding::bad(
                    "configuration",
                    error,
                    "correct it; `atedge-agent check` looks again",
                ));
                // What can be understood of it is looked at all the same.
                config::load_offline(&layered(&self.config.config)).ok()
            }
        };
        findings.push(here::state_folder(state));
        let seal = Seal::look(Place::of(state));
        findings.push(at_rest::seal_key(&seal, state, Holder::of_credential(Path::new("/"))));
        let seal = seal.as_ref().ok();
        findings.push(here::clock());
        let Some(config) = config else {
            findings.push(Finding::skipped("the rest", "needs a configuration"));
            return findings;
        };
        findings.push(here::disk(state, config.outbox.max.get()));
        findings.push(at_rest::keys(&config.gateway.keys, state, seal));
        let own = config.device.values().map(|device| at_rest::keys(&device.keys, state, seal));
        findings.extend(own);
        findings.extend(here::ports(&config.adapter));
        if self.offline {
            findings.push(Finding::skipped("atServer", "--offline"));
        } else {
            findings.extend(there::road(&config, state, seal).await);
        }
        findings
    }

    fn daemon(&self) -> Finding {
        match self.agent.call(&Ask::Status {}) {
            Ok(_) => Finding::good("agent", "it runs; `atedge-agent status` shows how it is"),
            Err(CallError::Down { .. }) => {
                Finding::note("agent", "it does not run", "`systemctl start atedge-agent`")
            }
            Err(error) => Finding::note("agent", error, "run this command as the agent's user or as root"),
        }
    }
}
