//! `queue`: the queue on disk, whether the agent runs or not.

use std::path::PathBuf;

use atedge_adapters::units::Duration;
use atedge_adapters::{DeviceName, StreamName};
use atedge_service::Exit;
use clap::{Args, Subcommand};
use serde_json::json;

use super::agent::StateArgs;
use super::{Complaint, run, say};
use crate::clock::{Clock as _, SystemClock};
use crate::outbox::{Backlog, ConfirmedBy, LaneStat, Stat, Which, export, list, purge, stat_from_outside};
use crate::payload::Batch;

/// Look at the queue on disk, copy it, or take something out.
#[derive(Debug, Subcommand)]
pub enum Queue {
    /// How much waits, and for whom; also while the agent runs.
    #[command(after_help = "Example: atedge-agent queue stat --state state --json")]
    Stat(StatArgs),
    /// What waits, by device, stream and boot; also while the agent runs.
    #[command(after_help = "Example: atedge-agent queue list --stream process")]
    List(ListArgs),
    /// Print records, a JSON object each; also while the agent runs. They stay in the queue. What is printed is no
    /// longer sealed.
    #[command(after_help = "Example: atedge-agent queue export --device boiler > boiler.jsonl")]
    Export(WhichArgs),
    /// Take records out for good, of an agent that does not run. Readers are told that they are lost.
    #[command(after_help = "Example: atedge-agent queue purge --stream debug --older-than 2d --yes")]
    Purge(PurgeArgs),
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

/// Which records.
#[derive(Debug, Args)]
pub struct WhichArgs {
    #[command(flatten)]
    state: StateArgs,
    /// Only this stream.
    #[arg(long, value_name = "NAME")]
    stream: Option<StreamName>,
    /// Only this device.
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceName>,
    /// Only what was captured so long ago, as in `2d`.
    #[arg(long, value_name = "TIME")]
    older_than: Option<Duration>,
}

/// What is listed, and how.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Print a JSON object a line.
    #[arg(long)]
    json: bool,
}

/// What is taken out.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// It cannot be undone: say that it is meant.
    #[arg(long)]
    yes: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Queue {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(async {
            match self {
                Self::Stat(args) => args.show(),
                Self::List(args) => args.show(),
                Self::Export(args) => args.export(),
                Self::Purge(args) => args.purge(),
            }
        })
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

impl WhichArgs {
    fn folder(&self) -> &PathBuf {
        &self.state.state
    }

    fn which(&self) -> Which {
        let now_us = SystemClock::start().now().wall_us;
        let before = |age: Duration| now_us - i64::try_from(age.get().as_micros()).unwrap_or(i64::MAX);
        Which {
            stream: self.stream.clone(),
            device: self.device.clone(),
            before_us: self.older_than.map(before),
        }
    }

    fn export(&self) -> Result<Exit, Complaint> {
        let print = |batch: Batch| say(format_args!("{}", batch.to_json()));
        let damaged = export(self.folder(), &self.which(), print).map_err(Complaint::failed)?;
        if damaged > 0 {
            return Err(Complaint::failed(format_args!("{damaged} records are damaged and were left out")));
        }
        Ok(Exit::Done)
    }
}

impl ListArgs {
    fn show(&self) -> Result<Exit, Complaint> {
        for lane in list(self.which.folder(), &self.which.which()).map_err(Complaint::failed)? {
            match serde_json::to_string(&lane) {
                Ok(line) if self.json => say(format_args!("{line}")),
                _ => {
                    let LaneStat { device, stream, boot, records, gaps, .. } = &lane;
                    let numbers = lane
                        .first
                        .zip(lane.last)
                        .map_or_else(String::new, |(first, last)| format!(" #{first}-{last}"));
                    say(format_args!(
                        "{device}/{stream} {boot}  {records} records{numbers}, {gaps} lost and not yet told"
                    ));
                }
            }
        }
        Ok(Exit::Done)
    }
}

impl PurgeArgs {
    fn purge(&self) -> Result<Exit, Complaint> {
        let (folder, which) = (self.which.folder(), self.which.which());
        if !self.yes {
            let lanes = list(folder, &which).map_err(Complaint::failed)?;
            let records: u64 = lanes.iter().map(|lane| lane.records).sum();
            return Err(Complaint::usage(format_args!(
                "up to {records} records would be lost for good; add `--yes` if that is meant"
            )));
        }
        let purged = purge(folder, &which, SystemClock::start().now()).map_err(Complaint::failed)?;
        match self.json {
            true => say(format_args!("{}", json!({ "purged": purged }))),
            false => say(format_args!("{purged} records are gone; their readers will be told")),
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
