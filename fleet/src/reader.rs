//! A reader of telemetry: opens batches, tells repeats from news, and says what it has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use at_protocol::AtSign;
use atedge_agent::payload::name::{parse_telemetry, receipt};
use atedge_agent::payload::{Batch, Coverage, Lane, Record};

/// Lanes that are remembered, each a (gateway, device, stream, boot); the oldest is forgotten beyond, so
/// that a hostile gateway cannot fill memory.
const MAX_LANES: usize = 100_000;

/// Whose lane: every gateway counts for itself.
type Source = (AtSign, Lane);

/// What a reader has, of every gateway that sends to it. Kept in memory: a reader that starts anew takes
/// what it is sent again as news.
#[derive(Debug, Default)]
pub struct Reader {
    lanes: BTreeMap<Source, Coverage>,
    order: VecDeque<Source>,
    unconfirmed: BTreeSet<(Source, String)>,
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
    /// Takes a notification's content; `None` if it is no telemetry.
    pub fn take(&mut self, from: &AtSign, name: &str, plain: &[u8]) -> Option<Opened> {
        let (_, namespace) = name.rsplit_once(".tel.")?;
        let (device, stream) = parse_telemetry(name, namespace)?;
        let batch = Batch::from_json(plain).ok()?;
        // The name travels outside the seal: it must not say something else.
        if (&batch.lane.device, &batch.lane.stream) != (&device, &stream) {
            return None;
        }
        let source = (from.clone(), batch.lane.clone());
        if !self.lanes.contains_key(&source) {
            self.order.push_back(source.clone());
            if self.order.len() > MAX_LANES {
                let oldest = self.order.pop_front()?;
                self.lanes.remove(&oldest);
            }
        }
        let had = self.lanes.entry(source.clone()).or_default();
        let lost = batch.gaps.iter().map(|gap| had.take_gap(*gap)).collect();
        let duplicate = batch.records.iter().map(|Record { seq, .. }| !had.take_record(*seq)).collect();
        self.unconfirmed.insert((source, namespace.to_owned()));
        Some(Opened { batch, duplicate, lost })
    }

    /// The receipts for all that was taken since the last call; a repeat is confirmed again.
    pub fn receipts(&mut self) -> Vec<Due> {
        let due =
            std::mem::take(&mut self.unconfirmed).into_iter().filter_map(|((gateway, lane), namespace)| {
                let had = self.lanes.get(&(gateway.clone(), lane.clone()))?;
                Some(Due {
                    name: receipt(&lane.device, &lane.stream, &namespace),
                    json: had.receipt(lane.boot).to_json(),
                    lane: format!("{}.{}.{}", lane.stream, lane.device, lane.boot),
                    to: gateway,
                })
            });
        due.collect()
    }
}

#[cfg(test)]
mod tests {
    use atedge_adapters::{Point, Value};
    use atedge_agent::payload::{Boot, ClockState};

    use super::*;

    fn batch() -> String {
        let lane = Lane {
            device: "oven".parse().unwrap(),
            stream: "process".parse().unwrap(),
            boot: Boot::new(1, 1),
        };
        let point = Point { name: "temp".parse().unwrap(), value: Value::Float(21.5), unit: None };
        let record = |seq| Record { seq, time_us: 1_795_350_000_000_000, points: vec![point.clone()] };
        Batch {
            lane,
            clock: ClockState::Sync,
            mono_us: 0,
            records: vec![record(1), record(2)],
            gaps: Vec::new(),
        }
        .to_json()
    }

    #[test]
    fn a_repeat_is_no_news_and_is_confirmed_again() {
        let gateway: AtSign = "@gw".parse().unwrap();
        let mut reader = Reader::default();
        let opened = reader.take(&gateway, "process.oven.tel.plant7", batch().as_bytes()).unwrap();
        assert_eq!(opened.duplicate, [false, false]);
        let due = reader.receipts();
        assert_eq!((due.len(), due[0].name.as_str()), (1, "receipt.process.oven.plant7"));
        assert!(due[0].json.contains(r#""upto":2"#) && reader.receipts().is_empty());
        assert_eq!(
            reader.take(&gateway, "process.oven.tel.plant7", batch().as_bytes()).unwrap().duplicate,
            [true, true]
        );
        assert_eq!(reader.receipts(), due);
        let other: AtSign = "@other".parse().unwrap();
        assert_eq!(
            reader.take(&other, "process.oven.tel.plant7", batch().as_bytes()).unwrap().duplicate,
            [false, false]
        );
    }

    #[test]
    fn what_is_no_telemetry_or_says_two_things_is_left_alone() {
        let gateway: AtSign = "@gw".parse().unwrap();
        let mut reader = Reader::default();
        assert!(reader.take(&gateway, "hello.plant7", b"hi").is_none());
        assert!(reader.take(&gateway, "process.kiln.tel.plant7", batch().as_bytes()).is_none());
        assert!(reader.take(&gateway, "process.oven.tel.plant7", b"{}").is_none());
        assert!(reader.receipts().is_empty());
    }
}
