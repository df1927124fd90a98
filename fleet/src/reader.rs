//! A reader of telemetry: opens batches, tells repeats from news, and says what it has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use at_protocol::{AtSign, Timestamp};
use atedge_adapters::{DeviceName, StreamName};
use atedge_agent::payload::name::{parse_telemetry, receipt};
use atedge_agent::payload::{Batch, Boot, Coverage, Lane, Record};
use serde::{Deserialize, Serialize};

/// Lanes that are remembered, each a (gateway, device, stream, boot); the oldest is forgotten beyond, so
/// that a hostile gateway cannot fill memory.
const MAX_LANES: usize = 100_000;
/// Ranges that are remembered of one lane. With this many, only what follows on one of them is taken; an
/// honest gateway then sends what is missing first.
const MAX_RANGES: usize = 1024;
/// How long a lane is remembered after its boot has ended, in milliseconds: 30 days.
const REMEMBERED_MS: i64 = 30 * 24 * 60 * 60 * 1000;
/// At most one receipt a lane in this time, in milliseconds.
const RECEIPT_EVERY_MS: i64 = 1000;

/// Whose lane: every gateway counts for itself.
type Source = (AtSign, Lane);

/// What a reader has, of every gateway that sends to it. A reader that does not keep it, by
/// [`Reader::to_lines`], takes what it is sent again as news when it starts anew.
#[derive(Debug, Default)]
pub struct Reader {
    lanes: BTreeMap<Source, Kept>,
    order: VecDeque<Source>,
    unconfirmed: BTreeSet<(Source, String)>,
}

#[derive(Debug, Default)]
struct Kept {
    had: Coverage,
    /// When something of it last came, in milliseconds since the epoch.
    at: i64,
    /// When a receipt for it was last due, likewise.
    confirmed: Option<i64>,
}

impl Kept {
    /// Whether a receipt may go at `now`. Where the clock was set back, it may.
    fn may_confirm(&self, now: Timestamp) -> bool {
        self.confirmed.is_none_or(|last| !(last..last + RECEIPT_EVERY_MS).contains(&now.as_millis()))
    }
}

/// A lane on disk.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    gateway: AtSign,
    device: DeviceName,
    stream: StreamName,
    boot: Boot,
    at: i64,
    had: Coverage,
}

/// A batch, and which of its records are news.
#[derive(Debug)]
pub struct Opened {
    /// The batch.
    pub batch: Batch,
    /// For each record whether it had come before.
    pub duplicate: Vec<bool>,
    /// For each of its gaps, how many records are lost that were not known to be.
    pub lost: Vec<u64>,
}

/// A receipt that is due.
#[derive(Debug, PartialEq, Eq)]
pub struct Due {
    /// The gateway that waits for it.
    pub to: AtSign,
    /// The name under which it goes.
    pub name: String,
    /// Its JSON.
    pub json: String,
    /// Names its lane: of several that wait, only the latest counts.
    pub lane: String,
}

impl Reader {
    /// Takes a notification's content; `None` if it is no telemetry, or more than is remembered.
    pub fn take(&mut self, from: &AtSign, name: &str, plain: &[u8], now: Timestamp) -> Option<Opened> {
        let (_, namespace) = name.rsplit_once(".tel.")?;
        let (device, stream) = parse_telemetry(name, namespace)?;
        let batch = Batch::from_json(plain).ok()?;
        // The name travels outside the seal: it must not say something else.
        if (&batch.lane.device, &batch.lane.stream) != (&device, &stream) {
            return None;
        }
        let source = (from.clone(), batch.lane.clone());
        if self.lanes.get(&source).is_some_and(|kept| !fits(&kept.had, &batch)) {
            return None;
        }
        let kept = self.lane(source.clone())?;
        kept.at = now.as_millis();
        let lost = batch.gaps.iter().map(|gap| kept.had.take_gap(*gap)).collect();
        let duplicate = batch.records.iter().map(|Record { seq, .. }| !kept.had.take_record(*seq)).collect();
        self.unconfirmed.insert((source, namespace.to_owned()));
        Some(Opened { batch, duplicate, lost })
    }

    fn lane(&mut self, source: Source) -> Option<&mut Kept> {
        if !self.lanes.contains_key(&source) {
            self.order.push_back(source.clone());
            if self.order.len() > MAX_LANES {
                let oldest = self.order.pop_front()?;
                self.lanes.remove(&oldest);
            }
        }
        Some(self.lanes.entry(source).or_default())
    }

    /// Whether receipts are owed, now or later.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    /// Whether a receipt is due at `now`, and so something is to be kept first.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.unconfirmed.iter().any(|(source, _)| self.may_confirm(source, now))
    }

    fn may_confirm(&self, source: &Source, now: Timestamp) -> bool {
        self.lanes.get(source).is_none_or(|kept| kept.may_confirm(now))
    }

    /// The receipts that are due at `now` for what was taken since the last call; a repeat is confirmed again. Those of
    /// a lane that had one within the last second are owed.
    pub fn receipts(&mut self, now: Timestamp) -> Vec<Due> {
        let all = std::mem::take(&mut self.unconfirmed);
        let (due, owed) = all.into_iter().partition(|(source, _)| self.may_confirm(source, now));
        self.unconfirmed = owed;
        let due = BTreeSet::into_iter(due).filter_map(|((gateway, lane), namespace)| {
            let kept = self.lanes.get_mut(&(gateway.clone(), lane.clone()))?;
            kept.confirmed = Some(now.as_millis());
            Some(Due {
                name: receipt(&lane.device, &lane.stream, &namespace),
                json: kept.had.receipt(lane.boot).to_json(),
                lane: format!("{}.{}.{}", lane.stream, lane.device, lane.boot),
                to: gateway,
            })
        });
        due.collect()
    }

    /// All receipts that are owed: nothing will come after them.
    pub fn last_receipts(&mut self) -> Vec<Due> {
        self.lanes.values_mut().for_each(|kept| kept.confirmed = None);
        self.receipts(Timestamp::from_millis(0))
    }

    /// Forgets lanes whose boot ended long ago: nothing came for 30 days, and the device has a later boot.
    pub fn forget(&mut self, now: Timestamp) {
        let of = |(gateway, lane): &Source| (gateway.clone(), lane.device.clone(), lane.stream.clone());
        let mut latest = BTreeMap::new();
        for source in self.lanes.keys() {
            latest.insert(of(source), source.1.boot);
        }
        self.lanes.retain(|source, kept| {
            kept.at > now.as_millis() - REMEMBERED_MS || latest.get(&of(source)) == Some(&source.1.boot)
        });
        self.order.retain(|source| self.lanes.contains_key(source));
    }

    /// All that it has, one JSON object a lane and line, oldest first.
    #[must_use]
    pub fn to_lines(&self) -> String {
        let mut lines = String::new();
        for source in &self.order {
            let Some(kept) = self.lanes.get(source) else { continue };
            let (gateway, Lane { device, stream, boot }) = source.clone();
            let line = Line { gateway, device, stream, boot, at: kept.at, had: kept.had.clone() };
            lines += &serde_json::to_string(&line).expect("names and numbers are always JSON");
            lines.push('\n');
        }
        lines
    }

    /// What [`Reader::to_lines`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_lines(lines: &str) -> serde_json::Result<Self> {
        let mut reader = Self::default();
        for line in lines.lines() {
            let Line { gateway, device, stream, boot, at, had } = serde_json::from_str(line)?;
            if let Some(kept) = reader.lane((gateway, Lane { device, stream, boot })) {
                *kept = Kept { had, at, confirmed: None };
            }
        }
        Ok(reader)
    }
}

/// Whether a batch makes a lane's memory no larger than it may be.
fn fits(had: &Coverage, batch: &Batch) -> bool {
    let numbers = || batch.records.iter().map(|record| record.seq);
    let is_dense = numbers().zip(numbers().skip(1)).all(|(one, next)| one.checked_add(1) == Some(next));
    let starts = || numbers().take(1).chain(batch.gaps.iter().map(|gap| gap.first));
    had.count() < MAX_RANGES || (is_dense && starts().all(|seq| had.touches(seq)))
}

#[cfg(test)]
mod tests {
    use atedge_adapters::{Point, Value};
    use atedge_agent::payload::{Boot, ClockState};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_795_350_000_000)
    }

    fn batch() -> String {
        numbered(1, &[1, 2])
    }

    fn numbered(epoch: u64, numbers: &[u64]) -> String {
        let lane = Lane {
            device: "oven".parse().unwrap(),
            stream: "process".parse().unwrap(),
            boot: Boot::new(epoch, 1),
        };
        let point = Point { name: "temp".parse().unwrap(), value: Value::Float(21.5), unit: None };
        let record = |seq| Record { seq, time_us: 1_795_350_000_000_000, points: vec![point.clone()] };
        Batch {
            lane,
            clock: ClockState::Sync,
            mono_us: 0,
            records: numbers.iter().map(|seq| record(*seq)).collect(),
            gaps: Vec::new(),
        }
        .to_json()
    }

    #[test]
    fn a_repeat_is_no_news_and_is_confirmed_again() {
        let gateway: AtSign = "@gw".parse().unwrap();
        let mut reader = Reader::default();
        let opened = reader.take(&gateway, "process.oven.tel.plant7", batch().as_bytes(), now()).unwrap();
        assert_eq!(opened.duplicate, [false, false]);
        let due = reader.receipts(now());
        assert_eq!((due.len(), due[0].name.as_str()), (1, "receipt.process.oven.plant7"));
        assert!(due[0].json.contains(r#""upto":2"#) && !reader.owes());
        assert_eq!(
            reader.take(&gateway, "process.oven.tel.plant7", batch().as_bytes(), now()).unwrap().duplicate,
            [true, true]
        );
        assert!(reader.owes() && !reader.is_due(now().plus_millis(999)));
        assert_eq!(reader.receipts(now().plus_millis(999)), [], "one a second");
        assert!(reader.is_due(now().plus_millis(1000)));
        assert_eq!(reader.receipts(now().plus_millis(1000)), due);
        assert!(!reader.owes());
        let other: AtSign = "@other".parse().unwrap();
        assert_eq!(
            reader.take(&other, "process.oven.tel.plant7", batch().as_bytes(), now()).unwrap().duplicate,
            [false, false]
        );
    }

    #[test]
    fn what_is_no_telemetry_or_says_two_things_is_left_alone() {
        let gateway: AtSign = "@gw".parse().unwrap();
        let mut reader = Reader::default();
        assert!(reader.take(&gateway, "hello.plant7", b"hi", now()).is_none());
        assert!(reader.take(&gateway, "process.kiln.tel.plant7", batch().as_bytes(), now()).is_none());
        assert!(reader.take(&gateway, "process.oven.tel.plant7", b"{}", now()).is_none());
        assert!(reader.receipts(now()).is_empty());
    }

    #[test]
    fn what_is_kept_is_known_after_a_start_and_forgotten_when_long_over() {
        let gateway: AtSign = "@gw".parse().unwrap();
        let name = "process.oven.tel.plant7";
        let mut reader = Reader::default();
        for epoch in [1, 2] {
            reader.take(&gateway, name, numbered(epoch, &[1, 3]).as_bytes(), now()).unwrap();
        }
        let lines = reader.to_lines();
        assert_eq!(
            lines.lines().next(),
            Some(
                r#"{"gateway":"@gw","device":"oven","stream":"process","boot":"1-0000000000000001","at":1795350000000,"had":{"records":[[1,1],[3,3]],"gaps":[]}}"#
            )
        );
        let mut again = Reader::from_lines(&lines).unwrap();
        assert_eq!(again.to_lines(), lines);
        assert!(!again.owes());
        let opened = again.take(&gateway, name, numbered(1, &[1, 2]).as_bytes(), now()).unwrap();
        assert_eq!(opened.duplicate, [true, false]);
        assert!(again.receipts(now())[0].json.contains(r#""upto":3,"missing":[]"#));
        again.forget(now().plus_millis(29 * 24 * 60 * 60 * 1000));
        assert_eq!(again.to_lines().lines().count(), 2);
        again.forget(now().plus_millis(31 * 24 * 60 * 60 * 1000));
        let left = again.to_lines();
        assert!(left.lines().count() == 1 && left.contains("\"boot\":\"2-"), "the latest boot may go on");
        assert!(Reader::from_lines("{}\n").is_err());
    }

    #[test]
    fn holes_without_end_are_not_remembered() {
        let gateway: AtSign = "@gw".parse().unwrap();
        let mut reader = Reader::default();
        let mut take = |numbers: &[u64]| {
            reader.take(&gateway, "process.oven.tel.plant7", numbered(1, numbers).as_bytes(), now()).is_some()
        };
        let holes: Vec<u64> = (1..=1024).map(|number| 2 * number).collect();
        assert!(holes.chunks(128).all(&mut take));
        assert!(!take(&[9001]) && !take(&[9000, 9002]) && !take(&[3, 8999]), "a further hole");
        assert!(take(&[1, 2, 3]) && take(&[8, 9, 10]), "what was missing");
        assert!(take(&[9001]), "now there is room");
    }
}
