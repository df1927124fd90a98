//! The newest values of a device, as one record that a reader may get at any time.

use std::collections::BTreeMap;

use atedge_adapters::{DeviceName, PointName, StreamName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ClockState, Record, VERSION, fragment, parse_fragment};

/// The newest value of each point, by stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latest(BTreeMap<StreamName, BTreeMap<PointName, Record>>);

#[derive(Serialize, Deserialize)]
struct Wire {
    atedge: u32,
    device: DeviceName,
    clk: ClockState,
    /// For each stream a SenML pack (RFC 8428), in which each entry has a time of its own.
    streams: BTreeMap<StreamName, Vec<Value>>,
}

impl Latest {
    /// Takes in what is newer than what it has.
    pub fn take(&mut self, stream: &StreamName, record: &Record) {
        let points = self.0.entry(stream.clone()).or_default();
        for point in &record.points {
            let one = Record { points: vec![point.clone()], ..*record };
            match points.get_mut(&point.name) {
                Some(known) if known.time_us > record.time_us => {}
                Some(known) => *known = one,
                None => drop(points.insert(point.name.clone(), one)),
            }
        }
    }

    /// Takes in what another has that is newer, or that it has not.
    pub fn merge(&mut self, other: &Self) {
        for (stream, points) in &other.0 {
            points.values().for_each(|record| self.take(stream, record));
        }
    }

    /// What there is of these streams, as JSON; `None` if there is nothing.
    pub fn to_json(
        &self,
        device: &DeviceName,
        clock: ClockState,
        of: impl Fn(&StreamName) -> bool,
    ) -> Option<String> {
        let pack = |points: &BTreeMap<PointName, Record>| {
            points.values().filter_map(|record| serde_json::from_str(&fragment(record)).ok()).collect()
        };
        let of = self.0.iter().filter(|(stream, _)| of(stream));
        let streams: BTreeMap<_, _> = of.map(|(stream, points)| (stream.clone(), pack(points))).collect();
        let wire = Wire { atedge: VERSION, device: device.clone(), clk: clock, streams };
        (!wire.streams.is_empty()).then(|| serde_json::to_string(&wire).expect("names and numbers are JSON"))
    }

    /// Reads what [`Latest::to_json`] wrote. What cannot be read in it is left out: it will be written anew.
    pub fn from_json(json: &[u8]) -> Self {
        let mut latest = Self::default();
        let Ok(wire) = serde_json::from_slice::<Wire>(json) else { return latest };
        for (stream, pack) in wire.streams {
            for record in pack.iter().filter_map(|entry| parse_fragment(&entry.to_string()).ok()) {
                latest.take(&stream, &record);
            }
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use atedge_adapters::{Point, Value as Read};

    use super::*;

    fn record(seq: u64, time_us: i64, points: &[(&str, i64)]) -> Record {
        let point = |(name, value): &(&str, i64)| Point {
            name: name.parse().unwrap(),
            value: Read::Integer(*value),
            unit: None,
        };
        Record { seq, time_us, points: points.iter().map(point).collect() }
    }

    #[test]
    fn each_point_is_as_new_as_it_was_read() {
        let (process, alarms): (StreamName, StreamName) =
            ("process".parse().unwrap(), "alarms".parse().unwrap());
        let mut latest = Latest::default();
        latest.take(&process, &record(1, 1_000_000, &[("t", 20), ("p", 3)]));
        latest.take(&process, &record(2, 2_000_000, &[("t", 21)]));
        latest.take(&process, &record(3, 1_500_000, &[("t", 99)]));
        latest.take(&alarms, &record(1, 1_000_000, &[("level", 1)]));
        let device = "boiler".parse().unwrap();
        let json = latest.to_json(&device, ClockState::Sync, |stream| *stream == process).unwrap();
        let shown: Value = serde_json::from_str(&json).unwrap();
        let pack = serde_json::json!([
            { "bt": 1.0, "n": "p", "v": 3, "seq": 1 },
            { "bt": 2.0, "n": "t", "v": 21, "seq": 2 },
        ]);
        let expected = serde_json::json!({
            "atedge": 1, "device": "boiler", "clk": "sync", "streams": { "process": pack },
        });
        assert_eq!(shown, expected);
        assert!(latest.to_json(&device, ClockState::Sync, |_| false).is_none());

        // The next run of the agent finds it again, and goes on.
        let mut next = Latest::default();
        next.take(&process, &record(1, 3_000_000, &[("t", 22)]));
        next.merge(&Latest::from_json(json.as_bytes()));
        let json = next.to_json(&device, ClockState::Sync, |_| true).unwrap();
        let shown: Value = serde_json::from_str(&json).unwrap();
        let pack = &shown["streams"]["process"];
        assert_eq!((&pack[0]["v"], &pack[1]["v"]), (&Value::from(3), &Value::from(22)));
        assert_eq!(Latest::from_json(b"{}"), Latest::default());
    }
}
