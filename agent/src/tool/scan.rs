//! `scan`: which Modbus units there are.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use atedge_adapters::AdapterConfig;
use atedge_adapters::modbus::{Presence, Probe, UnitId};
use atedge_adapters::units::Duration;
use atedge_service::Exit;
use clap::Args;
use serde_json::json;

use super::{Complaint, ConfigArgs, Progress, complain, run, say};

/// Find Modbus units: each number is asked once.
#[derive(Debug, Args)]
#[command(after_help = "Example: atedge-agent scan rs485 --units 1-32 --timeout 200ms\n\n\
    Asks each unit for its first holding register, over the way that the adapter is configured to take. \
    Nothing is written. Stop the agent meanwhile if it runs with this adapter.")]
pub struct Scan {
    /// The Modbus adapter, by its name in the configuration.
    adapter: String,
    /// Which numbers to try.
    #[arg(long, value_name = "FIRST-LAST", default_value = "1-247")]
    units: Numbers,
    /// How long each has to answer, instead of the adapter's `timeout`.
    #[arg(long, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Numbers of units, from the first to the last.
#[derive(Debug, Clone)]
pub(super) struct Numbers(pub(super) RangeInclusive<u8>);

impl FromStr for Numbers {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a number, or FIRST-LAST, from 0 to 255, as in 1-247";
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self(first..=last)),
            _ => Err(EXPECTED),
        }
    }
}

/// What was found out.
#[derive(Default)]
struct Found {
    units: BTreeMap<u8, Presence>,
}

impl Found {
    /// One that answers in time is not made late by what else is heard.
    fn note(&mut self, unit: UnitId, presence: Presence) {
        let known = self.units.entry(unit.0).or_insert_with(|| presence.clone());
        if matches!(presence, Presence::Answers | Presence::Refuses(_)) {
            *known = presence;
        }
    }
}

impl Scan {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(self.look())
    }

    async fn look(self) -> Result<Exit, Complaint> {
        let config = self.config.adapter(&self.adapter)?;
        let wrong = |error| Complaint::failed(format_args!("adapter {}: {error}", self.adapter));
        let mut probe = Probe::open(&config, self.timeout).await.map_err(wrong)?;
        let (progress, mut found) = (Progress::new(), Found::default());
        let last = *self.units.0.end();
        for number in self.units.0.clone() {
            progress.at(format_args!("unit {number} of {last}, {} found", found.units.len()));
            let heard = match probe.knock(UnitId(number)).await {
                Ok(heard) => heard,
                Err(error) => {
                    progress.clear();
                    let what =
                        format_args!("adapter {}: the way was lost at unit {number}: {error}", self.adapter);
                    return Err(Complaint::failed(what));
                }
            };
            for (unit, presence) in heard {
                found.note(unit, presence);
            }
        }
        progress.clear();
        Ok(self.report(&config, &found))
    }

    fn report(&self, config: &AdapterConfig, found: &Found) -> Exit {
        let configured: BTreeMap<u8, String> =
            config.units().map(|(id, unit)| (id.0, unit.device.to_string())).collect();
        let missing: BTreeMap<_, _> = configured
            .iter()
            .filter(|(number, _)| self.units.0.contains(number) && !found.units.contains_key(number))
            .collect();
        if self.json {
            let of = |(number, presence): (&u8, &Presence)| {
                let device = configured.get(number);
                json!({ "unit": number, "is": presence.kind(), "what": presence.to_string(), "device": device })
            };
            let units: Vec<_> = found.units.iter().map(of).collect();
            let silent: Vec<_> =
                missing.iter().map(|(number, device)| json!({ "unit": number, "device": device })).collect();
            say(format_args!("{}", json!({ "adapter": self.adapter, "units": units, "silent": silent })));
        } else {
            for (number, presence) in &found.units {
                let device = configured.get(number).map_or("not in the configuration", String::as_str);
                say(format_args!("unit {number:<3}  {presence}  ({device})"));
            }
            for (number, device) in missing {
                say(format_args!("unit {number:<3}  does not answer  ({device})"));
            }
        }
        if found.units.is_empty() {
            complain(format_args!(
                "no unit answered. On a serial line look at `baud`, `parity` and `stop_bits`, whether A and B are \
                 swapped, and at the line's ends; a slow unit needs a longer `--timeout`."
            ));
            return Exit::Failed;
        }
        Exit::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_one_or_a_range() {
        let read = |text: &str| text.parse::<Numbers>().map(|numbers| numbers.0);
        assert_eq!(read("1-247"), Ok(1..=247));
        assert_eq!(read("7"), Ok(7..=7));
        for wrong in ["", "-", "7-1", "1-256", "a-b", "1-2-3"] {
            assert!(read(wrong).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn who_answers_once_is_not_called_late() {
        let mut found = Found::default();
        found.note(UnitId(3), Presence::Late);
        assert_eq!(found.units[&3], Presence::Late);
        found.note(UnitId(3), Presence::Answers);
        found.note(UnitId(3), Presence::Late);
        assert_eq!(found.units[&3], Presence::Answers);
    }
}
