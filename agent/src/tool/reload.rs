//! `reload`: has a running agent follow its changed configuration.

use atedge_service::Exit;
use clap::Args;

use super::agent::AgentArgs;
use super::{Complaint, run, say};
use crate::control::Ask;
use crate::difference::Difference;

/// Follow the changed configuration, without a restart: what did not change is not touched.
#[derive(Debug, Args)]
#[command(after_help = "Example: atedge-agent reload\n\n\
    An adapter whose table did not change keeps running. A configuration with an error is shown and changes \
    nothing (exit code 2). [gateway] needs a restart.")]
pub struct Reload {
    #[command(flatten)]
    agent: AgentArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Reload {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(async { self.reload() })
    }

    fn reload(&self) -> Result<Exit, Complaint> {
        let difference: Difference = self.agent.ask(&Ask::Reload {})?;
        match serde_json::to_string(&difference) {
            Ok(line) if self.json => say(format_args!("{line}")),
            _ => say(format_args!("{difference}")),
        }
        Ok(Exit::Done)
    }
}
