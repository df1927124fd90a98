//! `status`: how a running agent is.

use atedge_service::Exit;
use clap::Args;
use serde_json::json;

use super::agent::{AgentArgs, done};
use super::queue::print_stat;
use super::{Complaint, complain, run, say};
use crate::control::Ask;
use crate::control::caller::CallError;
use crate::look::Status as Seen;
use crate::outbox::stat_from_outside;
use crate::payload::ClockState;
use crate::reach::{Reached, ServerStatus};
use crate::standing::{FROZEN, Standing};
use crate::tally::State;
use crate::voice::VoiceStatus;

/// Show how the agent is: its connection, its adapters, what waits.
#[derive(Debug, Args)]
#[command(after_help = "Example: atedge-agent status --json\n\n\
    Where no agent runs, that is said (exit code 1), and what waits on disk is shown.")]
pub struct Status {
    #[command(flatten)]
    agent: AgentArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(async { self.show() })
    }

    fn show(&self) -> Result<Exit, Complaint> {
        let mut call = match self.agent.call(&Ask::Status {}) {
            Err(down @ CallError::Down { .. }) => return Ok(self.show_without(&down)),
            other => other?,
        };
        let seen: Seen = done(call.answer()?)?;
        if self.json {
            say(format_args!("{}", json!({ "running": true, "agent": seen })));
        } else {
            lines(&seen).iter().for_each(|line| say(format_args!("{line}")));
            print_stat(&seen.queue);
        }
        Ok(Exit::Done)
    }

    /// What can be seen without the agent.
    fn show_without(&self, down: &CallError) -> Exit {
        let queue = stat_from_outside(&self.agent.state.state);
        if self.json {
            let seen = json!({
                "running": false, "why": down.to_string(), "queue": queue.as_ref().ok(),
                "queue_why": queue.as_ref().err().map(ToString::to_string),
            });
            say(format_args!("{seen}"));
            return Exit::Failed;
        }
        complain(format_args!("{down}."));
        match queue {
            Ok(stat) => {
                say(format_args!("On disk, without the agent:"));
                print_stat(&stat);
            }
            Err(error) => complain(format_args!("Nor can its queue be looked at: {error}.")),
        }
        Exit::Failed
    }
}

/// What a person reads.
fn lines(seen: &Seen) -> Vec<String> {
    let Seen { version, gateway, boot, uptime_s, now_ms, clock, memory_kib, server, own, adapters, .. } =
        seen;
    let for_how_long = |since_ms: i64| span(u64::try_from((now_ms - since_ms) / 1000).unwrap_or(0));
    let memory = memory_kib.map(|kib| format!(", {} MiB of memory", kib / 1024)).unwrap_or_default();
    let clock = match clock {
        ClockState::Sync => "is right",
        ClockState::Free => "is not synchronised: times of readings are not to be relied on",
    };
    let reached = |server: &ServerStatus| match server.reached {
        Reached::Untried => "was not tried yet".to_owned(),
        Reached::Yes => format!("reached for {}", for_how_long(server.since_ms)),
        Reached::No => {
            let why = server.why.as_deref().unwrap_or_default();
            format!("not reached for {}: {why}", for_how_long(server.since_ms))
        }
    };
    let mut lines = vec![
        format!("{gateway} has run for {}, version {version}, boot {boot}{memory}", span(*uptime_s)),
        format!("clock            {clock}"),
        format!("atServer         {}", reached(server)),
    ];
    if let Some(why) = &seen.disk {
        lines.push(format!("disk             takes nothing, so devices wait: {why}; free it or mend it"));
    }
    match &seen.standing {
        Standing::Unknown | Standing::Alone => {}
        Standing::Unwatched { why } => {
            lines.push(format!("standing         a clone would go unnoticed: {why}"))
        }
        Standing::Frozen { other } => {
            lines.push(format!("FROZEN           {FROZEN} (the other: boot {other})"))
        }
    }
    for (device, VoiceStatus { atsign, server }) in own {
        lines.push(format!("{device:16} as {atsign} {}", reached(server)));
    }
    for (name, adapter) in adapters {
        let state = match adapter.state {
            State::Starting => "starting",
            State::Running => "running",
            State::Degraded => "degraded",
            State::Waiting => "waiting",
            State::Failed => "failed",
        };
        let last = match adapter.last_reading_ms {
            Some(at) => format!("last reading {} ago", for_how_long(at)),
            None => "no reading yet".to_owned(),
        };
        let counts = adapter.counts;
        lines.push(format!(
            "{name:16} {state}, {last}, {} kept, {} repeated, {} refused, {} suppressed, {} dropped",
            counts.kept, counts.repeated, counts.refused, counts.suppressed, counts.dropped
        ));
        if let Some(why) = &adapter.why {
            lines.push(format!("{:16} {why}", ""));
        } else if let Some(fault) = &adapter.last_error {
            lines.push(format!("{:16} {} ago: {}", "", for_how_long(fault.at_ms), fault.what));
        }
    }
    lines
}

/// A span of time, as people say it.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_its_reason() {
        let seen: Seen = serde_json::from_value(json!({
            "version": "1", "gateway": "@gw", "boot": "3-0", "uptime_s": 7300, "now_ms": 500_000, "clock": "free",
            "memory_kib": 6144, "receipts": 0, "commands": {},
            "server": { "reached": "no", "since_ms": 380_000, "why": "no route to host", "sent": 1, "put_off": 0,
                "refused": 0, "unreached": 4, "reconnects": 0 },
            "adapters": {
                "scale": { "state": "waiting", "why": "/dev/ttyUSB0: unplugged", "kept": 0, "repeated": 0, "refused": 0, "suppressed": 0, "dropped": 0,
                    "refused_as": {}, "last_reading_ms": null, "last_error": null },
                "shop": { "state": "running", "why": null, "kept": 7, "repeated": 1, "refused": 2, "suppressed": 0, "dropped": 0, "refused_as": {},
                    "last_reading_ms": 497_000, "last_error": { "at_ms": 100_000, "what": "no route" } },
            },
            "queue": { "epoch": 3, "records": 5, "bytes": 4096, "oldest_ms": null, "aside": 0, "repeats": 1,
                "expired": 0, "damaged": 0, "dropped": 0, "thinned": 0, "readers": [] },
        }))
        .unwrap();
        let lines = lines(&seen);
        assert_eq!(lines[0], "@gw has run for 2 h, version 1, boot 3-0, 6 MiB of memory");
        assert!(lines[1].contains("not synchronised"));
        assert_eq!(
            lines[2],
            "atServer         not reached for 120 s: no route to host".replace("120 s", "2 min")
        );
        assert_eq!(
            lines[3],
            "scale            waiting, no reading yet, 0 kept, 0 repeated, 0 refused, 0 suppressed, 0 dropped"
        );
        assert_eq!(lines[4], "                 /dev/ttyUSB0: unplugged");
        assert_eq!(
            lines[5],
            "shop             running, last reading 3 s ago, 7 kept, 1 repeated, 2 refused, 0 suppressed, 0 dropped"
        );
        assert_eq!(lines[6], "                 6 min ago: no route");
    }
}
