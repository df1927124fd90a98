//! What was promised against what arrived.
//!
//! A scenario's readings carry a number of their own, `n`, that is never used twice. The broker says
//! which of them were acknowledged; the reader says what came, under which id.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// One reading as `atedge watch --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The gateway that captured it.
    pub gateway: String,
    /// The device.
    pub device: String,
    /// The stream.
    pub stream: String,
    /// How often the gateway had been started when it captured this: the first part of the boot.
    pub epoch: u64,
    /// The boot.
    pub boot: String,
    /// Its place within device, stream and boot.
    pub seq: u64,
    /// The number that the scenario gave it.
    pub n: u64,
    /// The reader has had this id before.
    pub duplicate: bool,
}

impl Arrival {
    /// Reads a line; `None` for a line about something else.
    ///
    /// # Errors
    /// The line is no JSON, or a reading without its id or number.
    pub fn parse(line: &str) -> Result<Option<Self>> {
        let json: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line:.200}"))?;
        if json.get("seq").is_none() {
            return Ok(None);
        }
        let read = || {
            let boot = json["boot"].as_str()?;
            Some(Self {
                gateway: json["gateway"].as_str()?.to_owned(),
                device: json["device"].as_str()?.to_owned(),
                stream: json["stream"].as_str()?.to_owned(),
                epoch: boot.split('-').next()?.parse().ok()?,
                boot: boot.to_owned(),
                seq: json["seq"].as_u64()?,
                n: number(&json["points"]["n"])?,
                duplicate: json["duplicate"].as_bool()?,
            })
        };
        Ok(Some(read().with_context(|| format!("not a whole reading: {line:.300}"))?))
    }

    /// Its id without the sequence number: where it is to be in order.
    fn line(&self) -> (&str, &str, &str) {
        (&self.gateway, &self.device, &self.stream)
    }
}

/// A whole number, which JSON may have made a float of.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| format!("{:.0}", value.as_f64()?).parse().ok())
}

/// What came of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Readings acknowledged to the broker.
    pub acknowledged: u64,
    /// Acknowledged readings that never arrived.
    pub lost: u64,
    /// Readings that arrived under more than one id: captured again after a redelivery.
    pub captured_again: u64,
    /// Lines for an id that had been there before, and said so.
    pub raw_duplicates: u64,
    /// Ids that the reader gave twice as new.
    pub duplicates_after_dedup: u64,
    /// Neighbours of one stream of one device that are not in order.
    pub inversions: u64,
    /// Different ids that arrived.
    pub arrived: u64,
}

impl Account {
    /// Compares the numbers that were acknowledged with what arrived.
    #[must_use]
    pub fn of(acknowledged: &BTreeSet<u64>, arrivals: &[Arrival]) -> Self {
        let mut account = Self { acknowledged: count(acknowledged.len()), ..Self::default() };
        let mut ids = BTreeSet::new();
        let mut times: BTreeMap<u64, u64> = BTreeMap::new();
        let mut last: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for arrival in arrivals {
            let new = ids.insert((arrival.line(), arrival.boot.as_str(), arrival.seq));
            match (new, arrival.duplicate) {
                (_, true) => account.raw_duplicates += 1,
                (false, false) => account.duplicates_after_dedup += 1,
                (true, false) => {}
            }
            if new {
                *times.entry(arrival.n).or_default() += 1;
                let place = (arrival.epoch, arrival.seq);
                if last.insert(arrival.line(), place).is_some_and(|before| before >= place) {
                    account.inversions += 1;
                }
            }
        }
        account.arrived = count(ids.len());
        account.captured_again = times.values().map(|ids| ids - 1).sum();
        account.lost = count(acknowledged.iter().filter(|n| !times.contains_key(n)).count());
        account
    }
}

/// What an agent had committed when it died: the last number of each device, stream and boot. Numbers have no holes.
#[derive(Debug, Default)]
pub struct Committed(BTreeMap<(String, String, String), u64>);

impl Committed {
    /// The agent had committed everything of a device, stream and boot up to `last`.
    pub fn note(&mut self, lane: (String, String, String), last: u64) {
        let known = self.0.entry(lane).or_default();
        *known = last.max(*known);
    }

    /// How much it had committed of these devices.
    pub fn count(&self, of: impl Fn(&str) -> bool) -> u64 {
        self.0.iter().filter(|((device, ..), _)| of(device)).map(|(_, last)| last).sum()
    }

    /// How many of them never arrived.
    #[must_use]
    pub fn unseen(&self, arrivals: &[Arrival]) -> u64 {
        let mut seen: BTreeMap<(&str, &str, &str), BTreeSet<u64>> = BTreeMap::new();
        for arrival in arrivals {
            let lane = (arrival.device.as_str(), arrival.stream.as_str(), arrival.boot.as_str());
            seen.entry(lane).or_default().insert(arrival.seq);
        }
        let unseen = |((device, stream, boot), last): (&(String, String, String), &u64)| {
            let seen = seen.get(&(device.as_str(), stream.as_str(), boot.as_str()));
            last - seen.map_or(0, |seen| count(seen.range(1..=*last).count()))
        };
        self.0.iter().map(unseen).sum()
    }
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(boot: &str, seq: u64, n: u64, duplicate: bool) -> Arrival {
        let json = serde_json::json!({
            "gateway": "@gw", "device": "d", "stream": "s", "boot": boot, "seq": seq, "time": 1.5,
            "points": {"n": n}, "duplicate": duplicate, "id": "x",
        });
        Arrival::parse(&json.to_string()).unwrap().unwrap()
    }

    #[test]
    fn a_clean_run_is_clean() {
        let arrivals = [line("1-a", 0, 5, false), line("1-a", 1, 6, false), line("2-b", 0, 7, false)];
        let account = Account::of(&BTreeSet::from([5, 6, 7]), &arrivals);
        assert_eq!(account, Account { acknowledged: 3, arrived: 3, ..Account::default() });
    }

    #[test]
    fn every_fault_is_counted_as_what_it_is() {
        let arrivals = [
            line("2-b", 0, 5, false),
            line("2-b", 1, 5, false), // the same reading under a new id
            line("2-b", 1, 5, true),  // an id again, told
            line("2-b", 0, 5, false), // an id again, not told
            line("1-a", 7, 9, false), // an older boot behind a newer
        ];
        let account = Account::of(&BTreeSet::from([5, 8]), &arrivals);
        let expected = Account {
            acknowledged: 2,
            lost: 1,
            captured_again: 1,
            raw_duplicates: 1,
            duplicates_after_dedup: 1,
            inversions: 1,
            arrived: 3,
        };
        assert_eq!(account, expected);
    }

    #[test]
    fn what_was_committed_and_did_not_come_is_unseen() {
        let mut committed = Committed::default();
        let lane = |boot: &str| ("d".to_owned(), "s".to_owned(), boot.to_owned());
        committed.note(lane("1-a"), 3);
        committed.note(lane("1-a"), 2);
        committed.note(lane("2-b"), 1);
        let arrivals = [line("1-a", 1, 5, false), line("1-a", 3, 7, false), line("1-a", 4, 8, false)];
        assert_eq!(committed.unseen(&arrivals), 2);
    }

    #[test]
    fn lines_about_something_else_are_none_and_broken_ones_errors() {
        assert_eq!(Arrival::parse("{\"watching\":\"@ops\"}").unwrap(), None);
        assert!(Arrival::parse("{\"seq\":1}").is_err());
        assert!(Arrival::parse("nonsense").is_err());
    }
}
