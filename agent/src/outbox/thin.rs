//! Many records become one: for a full queue, a coarse past is better than none.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use atedge_adapters::report::{Sum, Summary};
use atedge_adapters::{PointName, StreamName};
use rusqlite::params;

use super::keep::{Aging, micros};
use super::span::Span;
use super::store::{LaneId, Store};
use super::timefix::Steady;
use super::{Priority, Thin, WhenFull};
use crate::clock::Stamp;
use crate::payload::{Cause, Lane, Record, parse_fragment};

/// Records that are looked at in one go.
const LOOK: u64 = 1024;

impl Store {
    /// Thins streams that allow it, the least important first and none that is more important than `priority`,
    /// until no more than `enough` bytes are in use. Returns whether there was anything to thin.
    pub(super) fn thin(&mut self, priority: Priority, enough: u64, now: Stamp) -> rusqlite::Result<bool> {
        let now = self.steady(now)?;
        let mut streams: Vec<(Priority, StreamName, Thin)> = Vec::new();
        for (stream, policy) in &self.options.streams {
            if policy.priority >= priority && policy.allows(WhenFull::Thin) {
                streams.push((policy.priority, stream.clone(), policy.thin.clone()));
            }
        }
        streams.sort_by_key(|(priority, ..)| std::cmp::Reverse(*priority));
        let mut thinned = 0;
        for (_, stream, rules) in streams {
            for (id, boot) in self.lanes_of(std::slice::from_ref(&stream))? {
                let lane = Aging { id, stream: stream.clone(), boot };
                while !self.has_room(enough)? {
                    let Some(gone) = self.thin_lane(&lane, &rules, now)? else { break };
                    thinned += gone;
                }
            }
        }
        if thinned > 0 {
            self.count("thinned", thinned)?;
        }
        Ok(thinned > 0)
    }

    /// Thins the next records of one lane; returns how many went, `None` if no more are old enough.
    fn thin_lane(&mut self, lane: &Aging, rules: &Thin, now: Steady) -> rusqlite::Result<Option<u64>> {
        let Some(old) = self.last_older(lane, rules.after, now)? else { return Ok(None) };
        let (name, after) = self.unthinned(lane)?;
        let spans = self.some_spans(lane.id, after + 1, old)?;
        let to = micros(rules.to).max(1);
        let all: u64 = spans.iter().map(Span::len).sum();
        let mut windows: Vec<Vec<Span>> = Vec::new();
        for span in spans {
            match windows.last_mut() {
                Some(window) if window[0].time_us.div_euclid(to) == span.time_us.div_euclid(to) => {
                    window.push(span)
                }
                _ => windows.push(vec![span]),
            }
        }
        // More of the last window may be yet to come, or to be old enough.
        if windows.len() > 1 || all < LOOK {
            windows.pop();
        }
        let Some(last) = windows.last().and_then(|window| window.last()).map(|span| span.last) else {
            return Ok(None);
        };
        let mut gone = 0;
        for window in windows {
            gone += self.thin_window(lane.id, &name, &window, &rules.with)?;
        }
        self.db
            .prepare_cached("UPDATE lane SET thinned = ? WHERE id = ?")?
            .execute(params![last, lane.id])?;
        Ok(Some(gone))
    }

    /// The last of a window stands for all. Records that were committed together are in one window, that of the last
    /// of them.
    fn thin_window(
        &mut self,
        lane: LaneId,
        name: &Lane,
        window: &[Span],
        with: &[Summary],
    ) -> rusqlite::Result<u64> {
        let (mut records, mut last) = (Vec::new(), None);
        for span in window {
            let Some(opened) = self.open_span(name, span)? else { return Ok(0) };
            for stored in opened {
                let Ok(record) = parse_fragment(&stored.text) else { return Ok(0) };
                records.push(record);
                last = Some(stored);
            }
        }
        let (Some(first), Some(last), Some(summary)) = (records.first(), last, summarise(&records, with))
        else {
            return Ok(0);
        };
        let (first, end) = (first.seq, last.seq - 1);
        if end < first {
            return Ok(0);
        }
        self.replace_span(lane, name, last, &summary)?;
        self.drop_records(lane, first, end, Cause::Thinned)?;
        Ok(end + 1 - first)
    }

    /// The lane, and the last number in it that was thinned or sent.
    fn unthinned(&self, lane: &Aging) -> rusqlite::Result<(Lane, u64)> {
        self.db
            .prepare_cached(
                "SELECT device, max(thinned, ifnull((SELECT max(sent) FROM cursor WHERE lane = lane.id), 0))
                 FROM lane WHERE id = ?",
            )?
            .query_row([lane.id], |row| {
                let device = super::store::text(row, 0)?;
                Ok((Lane { device, stream: lane.stream.clone(), boot: lane.boot }, row.get(1)?))
            })
    }

    /// The spans of a lane that have records from `first` to `last` and no others, up to so many that are looked at.
    fn some_spans(&self, lane: LaneId, first: u64, last: u64) -> rusqlite::Result<Vec<Span>> {
        let (mut spans, mut records) = (Vec::new(), 0);
        let mut select = self.db.prepare_cached(Span::SELECT)?;
        let mut rows = select.query(params![lane, first])?;
        while records < LOOK
            && let Some(row) = rows.next()?
        {
            let span = Span::read(row)?;
            if span.last > last {
                break;
            }
            if span.first >= first {
                records += span.len();
                spans.push(span);
            }
        }
        Ok(spans)
    }
}

/// One record with the number and the time of the last, and of each point what `with` says.
fn summarise(records: &[Record], with: &[Summary]) -> Option<Record> {
    let last = records.last()?;
    let mut sums: BTreeMap<&PointName, Sum> = BTreeMap::new();
    for point in records.iter().flat_map(|record| &record.points) {
        match sums.entry(&point.name) {
            Entry::Vacant(place) => _ = place.insert(Sum::of(point)),
            Entry::Occupied(mut sum) => sum.get_mut().add(&point.value),
        }
    }
    let points = sums.into_iter().flat_map(|(name, sum)| sum.points(name, with)).collect();
    Some(Record { points, ..last.clone() })
}

#[cfg(test)]
mod tests {
    use atedge_adapters::{Point, Value};

    use super::*;

    fn record(seq: u64, points: &[(&str, Value)]) -> Record {
        let point = |(name, value): &(&str, Value)| Point {
            name: name.parse().unwrap(),
            value: value.clone(),
            unit: Some("Cel".into()),
        };
        Record {
            seq,
            time_us: 1_800_000_000_000_000 + seq as i64,
            points: points.iter().map(point).collect(),
        }
    }

    #[test]
    fn numbers_are_summed_up_and_of_words_the_last_stays() {
        let records = [
            record(1, &[("t", Value::Float(20.0)), ("on", Value::Bool(true))]),
            record(2, &[("t", Value::Integer(26))]),
            record(3, &[("t", Value::Float(23.0)), ("on", Value::Bool(false))]),
        ];
        let all = [Summary::Mean, Summary::Min, Summary::Max, Summary::Last];
        let one = summarise(&records, &all).unwrap();
        assert_eq!((one.seq, one.time_us), (3, records[2].time_us));
        let got: Vec<(&str, &Value)> =
            one.points.iter().map(|point| (point.name.as_str(), &point.value)).collect();
        assert_eq!(
            got,
            [
                ("on", &Value::Bool(false)),
                ("t_mean", &Value::Float(23.0)),
                ("t_min", &Value::Float(20.0)),
                ("t_max", &Value::Float(26.0)),
                ("t", &Value::Float(23.0)),
            ]
        );
    }

    #[test]
    fn a_name_without_room_for_a_suffix_keeps_its_last_value() {
        let long = "t".repeat(46);
        let records = [record(1, &[(&long, Value::Float(1.0))]), record(2, &[(&long, Value::Float(2.0))])];
        let one = summarise(&records, &[Summary::Mean]).unwrap();
        assert_eq!(one.points, records[1].points);
    }
}
