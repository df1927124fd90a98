//! The running agent, as commands reach it.

use std::path::PathBuf;

use atedge_service::Exit;
use clap::Args;
use serde::de::DeserializeOwned;

use super::Complaint;
use crate::control::caller::{Call, CallError};
use crate::control::{Answer, Ask, place};

/// Where the queue is.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// The folder of the queue.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/atedge/agent")]
    pub state: PathBuf,
}

/// Which agent.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The folder of its queue.
    #[command(flatten)]
    pub state: StateArgs,
    /// Its socket; without, /run/atedge/agent/agent.sock for the default --state, else agent.sock in that folder.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl AgentArgs {
    /// Where the agent listens.
    pub fn socket(&self) -> PathBuf {
        place(&self.state.state, self.socket.clone())
    }

    pub(super) fn call(&self, ask: &Ask) -> Result<Call, CallError> {
        Call::new(&self.socket(), ask)
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, Complaint> {
        done(self.call(ask)?.answer()?)
    }
}

/// The result of an ask that was done.
pub(super) fn done<T>(answer: Answer<T>) -> Result<T, Complaint> {
    match answer {
        Answer::Done(result) => Ok(result),
        // The configuration's errors say themselves that they are errors.
        Answer::Refused(text) if text.starts_with("error:") => Err(Complaint { text, exit: Exit::Usage }),
        Answer::Refused(why) => Err(Complaint::usage(why)),
        Answer::Failed(why) => Err(Complaint::failed(why)),
    }
}

impl From<CallError> for Complaint {
    fn from(error: CallError) -> Self {
        Self::failed(error)
    }
}
