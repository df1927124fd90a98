//! `queue`: the queue on disk, looked at from outside, whether the agent runs or not.

use atedge_service::Exit;
use clap::{Args, Subcommand};

use super::agent::StateArgs;
use super::{Complaint, run, say};
use crate::outbox::{Backlog, ConfirmedBy, Stat, stat_from_outside};

/// Look at the queue on disk.
#[derive(Debug, Subcommand)]
pub enum Queue {
    /// How much waits, and for whom; also while the agent runs.
    #[command(after_help = "Example: atedge-agent queue stat --state state --json")]
    Stat(StatArgs),
}

/// What is shown, and how.
#[derive(Debug, Args)]
pub struct StatArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Queue {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        let Self::Stat(args) = self;
        run(async { args.show() })
    }
}

impl StatArgs {
    fn show(&self) -> Result<Exit, Complaint> {
        let stat = stat_from_outside(&self.state.state).map_err(Complaint::failed)?;
        match serde_json::to_string(&stat) {
            Ok(line) if self.json => say(format_args!("{line}")),
            _ => print_stat(&stat),
        }
        Ok(Exit::Done)
    }
}

/// What the queue holds, a line each.
pub(super) fn print_stat(stat: &Stat) {
    say(format_args!("records waiting  {}", stat.records));
    say(format_args!("bytes in use     {}", stat.bytes));
    say(format_args!("set aside        {}", stat.aside));
    say(format_args!("repeats dropped  {}", stat.repeats));
    say(format_args!("expired          {}", stat.expired));
    say(format_args!("dropped          {}", stat.dropped));
    say(format_args!("thinned          {}", stat.thinned));
    say(format_args!("damaged          {}", stat.damaged));
    for reader in &stat.readers {
        let Backlog { stream, reader, unconfirmed, confirmed_by, lost } = reader;
        let by = match confirmed_by {
            ConfirmedBy::Receipt => "receipt",
            ConfirmedBy::Delivery => "delivery",
        };
        say(format_args!("{stream} → {reader}  {unconfirmed} not confirmed by {by}"));
        for (cause, records) in lost {
            say(format_args!("{stream} → {reader}  {records} lost: {cause}"));
        }
    }
}
