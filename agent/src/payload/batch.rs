//! A batch of records: an envelope of ours around a SenML pack (RFC 8428).

use std::fmt::Write as _;

use atedge_adapters::{DeviceName, Point, PointName, StreamName, Value};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Number;

use super::{Boot, Gap, Lane, VERSION};

/// Whether the gateway's clock was set right when a record was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockState {
    /// Its times are right; no later correction applies.
    Sync,
    /// It ran free: the times are right only among themselves.
    Free,
}

/// One reading, under its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its number in its lane, from 1.
    pub seq: u64,
    /// When it was taken, in microseconds since 1970.
    pub time_us: i64,
    /// What was read, at least one point.
    pub points: Vec<Point>,
}

/// Records of one lane that travel together.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Device, stream and boot of all its records.
    pub lane: Lane,
    /// The state of the clock, the same for all its records.
    pub clock: ClockState,
    /// The gateway's monotonic time at the first record, in microseconds since its boot.
    pub mono_us: u64,
    /// The records, ascending by number.
    pub records: Vec<Record>,
    /// What the reader will not get, ascending by number and apart, from each other and from the records.
    pub gaps: Vec<Gap>,
}

/// Why bytes are no [`Batch`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidBatch {
    /// Not the JSON of a batch.
    #[error("not a batch: {0}")]
    Json(#[from] serde_json::Error),
    /// A version that this program does not read.
    #[error("a batch of version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// A record without number or time, or numbers that do not ascend.
    #[error("a batch whose record {0} has no time or comes out of order")]
    Order(usize),
    /// A gap that makes no sense: backwards, out of order, or over a record that came with it.
    #[error("a batch whose gap {0} makes no sense")]
    Gap(usize),
    /// A point whose name, value or base64 is none.
    #[error("a batch whose point {0:?} cannot be read")]
    Point(String),
}

/// The first members of the envelope; `senml` follows them.
#[derive(Serialize)]
struct Head<'a> {
    atedge: u32,
    device: &'a DeviceName,
    stream: &'a StreamName,
    boot: Boot,
    clk: ClockState,
    mono: f64,
}

#[derive(Deserialize)]
struct Wire {
    atedge: u32,
    device: DeviceName,
    stream: StreamName,
    boot: Boot,
    clk: ClockState,
    mono: f64,
    senml: Vec<Entry>,
    #[serde(default)]
    gaps: Vec<Gap>,
}

/// One SenML record: a point, and with the first point of a reading its time.
#[derive(Deserialize)]
struct Entry {
    bt: Option<f64>,
    n: String,
    u: Option<String>,
    v: Option<Number>,
    vs: Option<String>,
    vb: Option<bool>,
    vd: Option<String>,
    /// Content type of `vd` (RFC 9193).
    ct: Option<String>,
    seq: u64,
}

/// The same, of what is borrowed.
#[derive(Serialize, Default)]
struct Said<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    bt: Option<f64>,
    n: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    u: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    v: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vs: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vb: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ct: Option<&'a str>,
    seq: u64,
}

/// The point of a record that sets the times of its lane right: the wall-clock time at which the gateway's
/// monotonic time was 0, in seconds since 1970. It holds for records that came with a free clock.
pub const TIMEFIX: &str = "timefix";

impl Record {
    /// The record that says when the monotonic time of its boot began, in microseconds since 1970.
    pub fn timefix(seq: u64, time_us: i64, began_us: i64) -> Self {
        let name = TIMEFIX.parse().expect("a name of a few letters");
        let point = Point { name, value: Value::Float(seconds(began_us)), unit: Some("s".into()) };
        Self { seq, time_us, points: vec![point] }
    }

    /// What [`Record::timefix`] was made with, if it is one.
    pub fn as_timefix(&self) -> Option<i64> {
        match self.points.as_slice() {
            [Point { name, value: Value::Float(began), .. }] if name.as_str() == TIMEFIX => {
                Some(micros(*began))
            }
            _ => None,
        }
    }
}

impl Batch {
    /// The gateway's monotonic time at `record`, one of its own, in microseconds: to be added to what a
    /// [`Record::as_timefix`] says, where the clock was free.
    pub fn mono_of(&self, record: &Record) -> i64 {
        let first = self.records.first().map_or(record.time_us, |first| first.time_us);
        i64::try_from(self.mono_us).unwrap_or(i64::MAX).saturating_add(record.time_us - first)
    }

    /// Its JSON.
    pub fn to_json(&self) -> String {
        let fragments: Vec<String> = self.records.iter().map(fragment).collect();
        envelope(&self.lane, self.clock, self.mono_us, &fragments, &self.gaps)
    }

    /// Reads what [`Batch::to_json`] wrote; members it does not know are left alone.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn from_json(json: &[u8]) -> Result<Self, InvalidBatch> {
        let wire: Wire = serde_json::from_slice(json)?;
        if wire.atedge != VERSION {
            return Err(InvalidBatch::Version(wire.atedge));
        }
        let records = records_of(wire.senml)?;
        if let Some(index) = first_senseless(&wire.gaps, &records) {
            return Err(InvalidBatch::Gap(index));
        }
        Ok(Self {
            lane: Lane { device: wire.device, stream: wire.stream, boot: wire.boot },
            clock: wire.clk,
            mono_us: u64::try_from(micros(wire.mono)).unwrap_or(0),
            records,
            gaps: wire.gaps,
        })
    }
}

/// The records that SenML records make: those that follow each other with one number are points of one.
fn records_of(entries: Vec<Entry>) -> Result<Vec<Record>, InvalidBatch> {
    let mut records: Vec<Record> = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        match records.last_mut() {
            Some(record) if record.seq == entry.seq => record.points.push(entry.point()?),
            last => {
                let ascends = last.is_none_or(|record| record.seq < entry.seq);
                let time = entry.bt.filter(|_| ascends).ok_or(InvalidBatch::Order(index))?;
                records.push(Record { seq: entry.seq, time_us: micros(time), points: vec![entry.point()?] });
            }
        }
    }
    Ok(records)
}

/// The record that [`fragment`] was made of.
///
/// # Errors
/// When the text is something else.
pub fn parse_fragment(text: &str) -> Result<Record, InvalidBatch> {
    let records = records_of(serde_json::from_str(&format!("[{text}]"))?)?;
    match <[Record; 1]>::try_from(records) {
        Ok([record]) => Ok(record),
        Err(others) => Err(InvalidBatch::Order(others.len())),
    }
}

/// The index of the first gap that is backwards, not after the one before, or over a record.
fn first_senseless(gaps: &[Gap], records: &[Record]) -> Option<usize> {
    let mut after = 0;
    gaps.iter().position(|gap| {
        let at = records.partition_point(|record| record.seq < gap.first);
        let over_a_record = records.get(at).is_some_and(|record| record.seq <= gap.last);
        let senseless = gap.first <= after || gap.last < gap.first || over_a_record;
        after = gap.last;
        senseless
    })
}

/// The SenML records of one reading, without the brackets around them: how a record waits in the outbox,
/// so that a batch is made by joining them.
///
/// A float must be finite; JSON has no other (`null` stands in its place).
pub fn fragment(record: &Record) -> String {
    let texts = record.points.iter().map(|point| match &point.value {
        Value::Text(text) => text.len(),
        Value::Data { bytes, .. } => bytes.len() * 4 / 3,
        Value::Float(_) | Value::Integer(_) | Value::Bool(_) => 0,
    });
    let mut out = Vec::with_capacity(96 * record.points.len() + texts.sum::<usize>());
    for (index, point) in record.points.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let said = Said {
            bt: (index == 0).then(|| seconds(record.time_us)),
            n: point.name.as_str(),
            u: point.unit.as_deref(),
            seq: record.seq,
            ..Said::of(&point.value)
        };
        serde_json::to_writer(&mut out, &said).expect(ALWAYS_JSON);
    }
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// The same fragment with another time.
pub fn retimed(fragment: &str, time_us: i64) -> String {
    let rest = fragment.strip_prefix(r#"{"bt":"#).and_then(|rest| rest.split_once(','));
    match rest {
        Some((_, rest)) => format!(r#"{{"bt":{},{rest}"#, json(&seconds(time_us))),
        None => fragment.to_owned(),
    }
}

/// The batch made of the [`fragment`]s of its records, in order, and its gaps.
pub fn envelope(lane: &Lane, clock: ClockState, mono_us: u64, fragments: &[String], gaps: &[Gap]) -> String {
    let mono = mono_us as f64 / 1e6;
    let Lane { device, stream, boot } = lane;
    let head = json(&Head { atedge: VERSION, device, stream, boot: *boot, clk: clock, mono });
    let body: usize = fragments.iter().map(|fragment| fragment.len() + 1).sum();
    let mut out = String::with_capacity(head.len() + body + 80);
    out.push_str(head.strip_suffix('}').unwrap_or(&head));
    out.push_str(r#","senml":["#);
    for (index, fragment) in fragments.iter().enumerate() {
        match fragment.strip_prefix('{') {
            Some(rest) if index == 0 => {
                write!(out, r#"{{"bn":"{device}/",{rest}"#).expect("a String takes everything")
            }
            _ => {
                out.push(',');
                out.push_str(fragment);
            }
        }
    }
    out.push(']');
    if !gaps.is_empty() {
        out.push_str(r#","gaps":"#);
        out.push_str(&json(&gaps));
    }
    out.push('}');
    out
}

impl<'a> Said<'a> {
    fn of(value: &'a Value) -> Self {
        let empty = Self::default();
        match value {
            Value::Float(number) => Self { v: Number::from_f64(*number), ..empty },
            Value::Integer(number) => Self { v: Some((*number).into()), ..empty },
            Value::Bool(truth) => Self { vb: Some(*truth), ..empty },
            Value::Text(text) => Self { vs: Some(text), ..empty },
            Value::Data { bytes, content_type } => {
                Self { vd: Some(URL_SAFE_NO_PAD.encode(bytes)), ct: content_type.as_deref(), ..empty }
            }
        }
    }
}

impl Entry {
    fn point(self) -> Result<Point, InvalidBatch> {
        let value = match (self.v, self.vb, self.vs, self.vd) {
            (Some(number), None, None, None) => {
                number.as_i64().map_or_else(|| number.as_f64().map(Value::Float), |n| Some(Value::Integer(n)))
            }
            (None, Some(truth), None, None) => Some(Value::Bool(truth)),
            (None, None, Some(text), None) => Some(Value::Text(text)),
            (None, None, None, Some(text)) => {
                URL_SAFE_NO_PAD.decode(text).ok().map(|bytes| Value::Data { bytes, content_type: self.ct })
            }
            _ => None,
        };
        let point = |value| Some(Point { name: self.n.parse::<PointName>().ok()?, value, unit: self.u });
        value.and_then(point).ok_or_else(|| InvalidBatch::Point(self.n.chars().take(64).collect()))
    }
}

/// Why it cannot fail.
const ALWAYS_JSON: &str = "text and finite numbers are always JSON";

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect(ALWAYS_JSON)
}

/// Exact to the microsecond until the year 2106: below 2^32 seconds, floats are half a microsecond apart.
fn seconds(time_us: i64) -> f64 {
    time_us as f64 / 1e6
}

fn micros(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::payload::Cause;

    fn lane() -> Lane {
        Lane {
            device: "boiler".parse().unwrap(),
            stream: "process".parse().unwrap(),
            boot: Boot::new(41, 0x9f0c),
        }
    }

    fn point(name: &str, value: Value, unit: Option<&str>) -> Point {
        Point { name: name.parse().unwrap(), value, unit: unit.map(str::to_owned) }
    }

    #[test]
    fn the_wire_form_is_this() {
        let records = vec![
            Record {
                seq: 84_213,
                time_us: 1_795_350_000_250_000,
                points: vec![
                    point("supply_temp", Value::Float(62.1), Some("Cel")),
                    point(
                        "frame",
                        Value::Data {
                            bytes: vec![0xff, 0xfe],
                            content_type: Some("application/cbor".into()),
                        },
                        None,
                    ),
                ],
            },
            Record {
                seq: 84_215,
                time_us: 1_795_350_001_000_000,
                points: vec![point("on", Value::Bool(true), None)],
            },
        ];
        let batch = Batch {
            lane: lane(),
            clock: ClockState::Sync,
            mono_us: 83_211_500_000,
            records,
            gaps: vec![Gap { first: 84_200, last: 84_212, cause: Cause::Full }],
        };
        let expected = concat!(
            r#"{"atedge":1,"device":"boiler","stream":"process","boot":"41-0000000000009f0c","clk":"sync","mono":83211.5,"senml":["#,
            r#"{"bn":"boiler/","bt":1795350000.25,"n":"supply_temp","u":"Cel","v":62.1,"seq":84213},"#,
            r#"{"n":"frame","vd":"__4","ct":"application/cbor","seq":84213},"#,
            r#"{"bt":1795350001.0,"n":"on","vb":true,"seq":84215}],"gaps":[[84200,84212,"full"]]}"#,
        );
        assert_eq!(batch.to_json(), expected);
        assert_eq!(Batch::from_json(expected.as_bytes()).unwrap(), batch);
    }

    #[test]
    fn a_time_is_set_right_at_its_source_and_at_its_reader() {
        let (early, began) = (1_795_305_600_000_000, 1_800_000_000_250_000);
        let points = vec![point("t", Value::Integer(1), None), point("bt", Value::Integer(2), None)];
        let record = |seq, time_us| Record { seq, time_us, points: points.clone() };
        assert_eq!(retimed(&fragment(&record(7, early)), began), fragment(&record(7, began)));

        let records = vec![record(1, early), record(2, early + 5_000_000)];
        let batch =
            Batch { lane: lane(), clock: ClockState::Free, mono_us: 60_000_000, records, gaps: vec![] };
        let fix = Record::timefix(3, began + 90_000_000, began);
        let began = parse_fragment(&fragment(&fix)).unwrap().as_timefix().unwrap();
        let right: Vec<i64> = batch.records.iter().map(|record| began + batch.mono_of(record)).collect();
        assert_eq!(right, [1_800_000_060_250_000, 1_800_000_065_250_000]);
        assert_eq!(batch.records[0].as_timefix(), None);
    }

    #[test]
    fn refuses_what_is_no_batch() {
        let with = |senml: &str| {
            let json = format!(
                r#"{{"atedge":1,"device":"d","stream":"s","boot":"1-0000000000000001","clk":"free","mono":0,"senml":[{senml}]}}"#
            );
            Batch::from_json(json.as_bytes())
        };
        assert!(with(r#"{"bt":1,"n":"a","v":1,"seq":1}"#).is_ok());
        assert!(matches!(with(r#"{"n":"a","v":1,"seq":1}"#), Err(InvalidBatch::Order(0))), "no time");
        let back = r#"{"bt":1,"n":"a","v":1,"seq":2},{"bt":1,"n":"a","v":1,"seq":1}"#;
        assert!(matches!(with(back), Err(InvalidBatch::Order(1))));
        for bad in [
            r#"{"bt":1,"n":"a","seq":1}"#,
            r#"{"bt":1,"n":"a","v":1,"vb":true,"seq":1}"#,
            r#"{"bt":1,"n":"A B","v":1,"seq":1}"#,
            r#"{"bt":1,"n":"a","vd":"*","seq":1}"#,
        ] {
            assert!(matches!(with(bad), Err(InvalidBatch::Point(_))), "{bad}");
        }
        assert!(matches!(Batch::from_json(b"[]"), Err(InvalidBatch::Json(_))));
    }

    #[test]
    fn refuses_gaps_that_make_no_sense() {
        let with = |gaps: &str| {
            let json = format!(
                r#"{{"atedge":1,"device":"d","stream":"s","boot":"1-0000000000000001","clk":"free","mono":0,"senml":[{{"bt":1,"n":"a","v":1,"seq":5}}],"gaps":{gaps}}}"#
            );
            Batch::from_json(json.as_bytes())
        };
        assert_eq!(with(r#"[[1,4,"full"],[6,6,"thinned"]]"#).unwrap().gaps.len(), 2);
        for (bad, index) in [
            (r#"[[0,1,"full"]]"#, 0),
            (r#"[[4,3,"full"]]"#, 0),
            (r#"[[4,5,"full"]]"#, 0),
            (r#"[[1,9,"full"]]"#, 0),
            (r#"[[1,2,"full"],[2,3,"full"]]"#, 1),
        ] {
            assert!(matches!(with(bad), Err(InvalidBatch::Gap(at)) if at == index), "{bad}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<f64>()
                .prop_filter("JSON has finite numbers only", |v| v.is_finite())
                .prop_map(Value::Float),
            any::<i64>().prop_map(Value::Integer),
            any::<bool>().prop_map(Value::Bool),
            any::<String>().prop_map(Value::Text),
            (any::<Vec<u8>>(), any::<Option<String>>())
                .prop_map(|(bytes, content_type)| Value::Data { bytes, content_type }),
        ]
    }

    fn points() -> impl Strategy<Value = Vec<Point>> {
        let one = ("[a-z0-9_-]{1,48}", value(), any::<Option<String>>())
            .prop_map(|(name, value, unit)| Point { name: name.parse().unwrap(), value, unit });
        prop::collection::vec(one, 1..4)
    }

    proptest! {
        #[test]
        fn every_batch_comes_back(
            clock in prop_oneof![Just(ClockState::Sync), Just(ClockState::Free)],
            mono_us in 0u64..1 << 50,
            readings in prop::collection::vec((1u64..1000, 0i64..1_000_000 << 32, points()), 0..8),
        ) {
            let mut seq = 0;
            let records = readings.into_iter().map(|(step, time_us, points)| {
                seq += step;
                Record { seq, time_us, points }
            }).collect();
            let gaps = if seq > 0 { vec![Gap { first: seq + 1, last: seq + 9, cause: Cause::Expired }] } else { Vec::new() };
            let batch = Batch { lane: lane(), clock, mono_us, records, gaps };
            prop_assert_eq!(Batch::from_json(batch.to_json().as_bytes()).unwrap(), batch);
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(Batch::from_json(&bytes).is_err());
        }
    }
}
