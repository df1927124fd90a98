//! `claim`: the owner's word on which box is the gateway.

use atedge_service::Exit;
use clap::Args;
use serde_json::json;

use super::agent::AgentArgs;
use super::{Complaint, run, say};
use crate::control::Ask;
use crate::standing::Claimed;

/// Say that this box is the gateway, where another was there as well and it froze.
#[derive(Debug, Args)]
#[command(after_help = "Example: atedge-agent claim\n\n\
    A gateway freezes when its disk was cloned or restored from a backup, or when a new box has its keys: `status` \
    says so. Claim it on the box that is to go on; whatever is left of the other freezes within half a minute of being \
    online. What waited on this one is sent then.")]
pub struct Claim {
    #[command(flatten)]
    agent: AgentArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Claim {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(async { self.claim() })
    }

    fn claim(&self) -> Result<Exit, Complaint> {
        let claimed: Claimed = self.agent.ask(&Ask::Claim {})?;
        match self.json {
            true => say(format_args!("{}", json!(claimed))),
            false => say(format_args!("This box is the gateway, boot {}.", claimed.boot)),
        }
        Ok(Exit::Done)
    }
}
