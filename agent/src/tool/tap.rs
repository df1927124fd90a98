//! `tap`: readings as they come in.

use atedge_service::Exit;
use clap::Args;

use super::agent::{AgentArgs, done};
use super::{Complaint, complain, run, say};
use crate::control::Ask;
use crate::tap::{Shown, Tapped};

/// Show readings live, of all adapters or of one, as they come in.
#[derive(Debug, Args)]
#[command(after_help = "Example: atedge-agent tap boiler\n\n\
    Nothing is taken away from its readers, and nothing waits for this command: when it is slow, lines are left \
    out and counted. Payloads are shown to root and the agent's user alone.")]
pub struct Tap {
    /// An adapter or a device; all where absent.
    of: Option<String>,
    #[command(flatten)]
    agent: AgentArgs,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// End after so many lines.
    #[arg(long, value_name = "LINES")]
    count: Option<u64>,
}

impl Tap {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(async { self.show() })
    }

    fn show(&self) -> Result<Exit, Complaint> {
        let mut call = self.agent.call(&Ask::Tap { of: self.of.clone() })?;
        done(call.answer::<()>()?)?;
        let mut shown = 0;
        while self.count.is_none_or(|count| shown < count) {
            let Some(tapped) = call.next_line::<Tapped>()? else {
                complain(format_args!("the agent has ended"));
                return Ok(Exit::Failed);
            };
            match serde_json::to_string(&tapped) {
                Ok(line) if self.json => say(format_args!("{line}")),
                _ => say(format_args!("{}", line(&tapped))),
            }
            shown += 1;
        }
        Ok(Exit::Done)
    }
}

/// What a person reads.
fn line(tapped: &Tapped) -> String {
    match tapped {
        Tapped::Reading { adapter, device, stream, time_ms, points } => {
            let points: Vec<String> = points.iter().map(Shown::to_string).collect();
            format!("{} {adapter}  {device}/{stream}  {}", time(*time_ms), points.join("  "))
        }
        Tapped::Refused { adapter, device, time_ms, why } => {
            let device = device.as_deref().unwrap_or("?");
            format!("{} {adapter}  {device}  refused: {why}", time(*time_ms))
        }
        Tapped::Lost { lines } => format!("… {lines} lines were left out: this terminal was too slow"),
    }
}

/// The time of day, UTC.
fn time(ms: i64) -> String {
    let of_day = ms.rem_euclid(86_400_000);
    let (seconds, ms) = (of_day / 1000, of_day % 1000);
    format!("{:02}:{:02}:{:02}.{ms:03}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reading_is_one_line() {
        let reading = Tapped::Reading {
            adapter: "rs485".into(),
            device: "boiler".to_owned(),
            stream: "process".to_owned(),
            time_ms: 1_795_305_600_000 + 45_296_007,
            points: vec![
                Shown { n: "temp".to_owned(), v: json!(21.5), u: Some("Cel".to_owned()) },
                Shown { n: "state".to_owned(), v: json!("on"), u: None },
            ],
        };
        assert_eq!(line(&reading), "12:34:56.007Z rs485  boiler/process  temp=21.5 Cel  state=\"on\"");
    }
}
