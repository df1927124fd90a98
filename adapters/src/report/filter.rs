//! What has changed. Pure: the time is handed in.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use super::{MOST_POINTS, OwnDeadbands, ReportConfig, ReportOn, Source};
use crate::{DeviceName, Point, PointName, Reading, Value};

/// Knows what was reported last of each point.
pub(super) struct Filter {
    whole: bool,
    deadband: f64,
    deadbands: HashMap<PointName, f64>,
    own: OwnDeadbands,
    heartbeat: Option<Duration>,
    known: HashMap<Source, HashMap<PointName, Known>>,
    points: usize,
    numbers: RandomState,
}

/// A point's last report.
#[derive(Debug, Clone, Copy)]
struct Known {
    value: Last,
    at: Instant,
}

/// A value to compare with. Of what may be long it is a number by which it is known again.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Last {
    Float(f64),
    Integer(i64),
    Bool(bool),
    Text(u64),
    Data(u64),
}

impl Last {
    /// Whether `new` is something else, by more than `deadband` where both are numbers.
    fn differs(self, new: Self, deadband: f64) -> bool {
        let apart = match (self, new) {
            // Whole numbers are compared as they are: large ones are not all floats.
            (Self::Integer(old), Self::Integer(new)) => old.abs_diff(new) as f64,
            (Self::Float(old), Self::Float(new)) => (old - new).abs(),
            (Self::Float(old), Self::Integer(new)) => (old - new as f64).abs(),
            (Self::Integer(old), Self::Float(new)) => (old as f64 - new).abs(),
            (old, new) => return old != new,
        };
        // What is no number is never within the deadband.
        !matches!(apart.partial_cmp(&deadband), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal))
    }
}

impl Filter {
    pub(super) fn new(rules: ReportConfig, own: OwnDeadbands) -> Self {
        Self {
            whole: rules.on == Some(ReportOn::Both),
            deadband: rules.deadband.unwrap_or_default(),
            deadbands: rules.deadbands.into_iter().collect(),
            own,
            heartbeat: rules.heartbeat.map(|heartbeat| heartbeat.get()),
            known: HashMap::new(),
            points: 0,
            numbers: RandomState::new(),
        }
    }

    /// Nothing counts as reported any more.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.points = 0;
    }

    /// What is to be reported of a reading; nothing when nothing has changed.
    pub(super) fn take(&mut self, mut reading: Reading, now: Instant) -> Option<Reading> {
        // What is repeated may not have been kept the first time. The outbox knows it again if it was.
        let repeated = reading.delivery.as_ref().is_some_and(|delivery| delivery.dup);
        let source = Source::of(&reading);
        let changed: Vec<bool> =
            reading.points.iter().map(|point| repeated || self.has_changed(&source, point, now)).collect();
        if !changed.contains(&true) {
            return None;
        }
        if !self.whole {
            let mut changed = changed.into_iter();
            reading.points.retain(|_| changed.next().unwrap_or(true));
        }
        for point in &reading.points {
            self.note(&source, point, now);
        }
        Some(reading)
    }

    fn has_changed(&self, source: &Source, point: &Point, now: Instant) -> bool {
        let Some(known) = self.known.get(source).and_then(|points| points.get(&point.name)) else {
            return true;
        };
        let is_due = self.heartbeat.is_some_and(|heartbeat| now.duration_since(known.at) >= heartbeat);
        is_due || known.value.differs(self.last(&point.value), self.deadband(&source.device, &point.name))
    }

    fn deadband(&self, device: &DeviceName, point: &PointName) -> f64 {
        let own = self.own.get(&(device.clone(), point.clone()));
        own.or_else(|| self.deadbands.get(point)).copied().unwrap_or(self.deadband)
    }

    fn note(&mut self, source: &Source, point: &Point, now: Instant) {
        let known = Known { value: self.last(&point.value), at: now };
        let points = self.known.entry(source.clone()).or_default();
        if let Some(old) = points.get_mut(&point.name) {
            *old = known;
        } else if self.points < MOST_POINTS {
            points.insert(point.name.clone(), known);
            self.points += 1;
        } else if points.is_empty() {
            self.known.remove(source);
        }
    }

    fn last(&self, value: &Value) -> Last {
        match value {
            Value::Float(number) => Last::Float(*number),
            Value::Integer(number) => Last::Integer(*number),
            Value::Bool(truth) => Last::Bool(*truth),
            Value::Text(text) => Last::Text(self.numbers.hash_one(text)),
            Value::Data { bytes, .. } => Last::Data(self.numbers.hash_one(bytes)),
        }
    }
}
