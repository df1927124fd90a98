//! Summaries of windows of time. Pure: the time is handed in.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{MOST_POINTS, Source, Summary, WindowConfig};
use crate::decode::MAX_POINTS;
use crate::grid::turn_after;
use crate::{Point, PointName, Reading, Value};

/// The open window of an adapter. It is on a grid, so that windows follow each other without gaps.
pub(super) struct Windows {
    config: WindowConfig,
    end: Instant,
    sources: BTreeMap<Source, BTreeMap<PointName, Sum>>,
    points: usize,
}

/// What was said of a point.
#[derive(Debug)]
struct Sum {
    unit: Option<String>,
    last: Value,
    /// Of the numbers; nothing where there was none.
    numbers: Option<Numbers>,
}

#[derive(Debug, Clone, Copy)]
struct Numbers {
    count: f64,
    mean: f64,
    min: f64,
    max: f64,
}

impl Numbers {
    fn with(before: Option<Self>, number: f64) -> Self {
        let Some(Self { count, mean, min, max }) = before else {
            return Self { count: 1.0, mean: number, min: number, max: number };
        };
        let count = count + 1.0;
        // The halves keep what is between two large numbers from being too large.
        let mean = mean + 2.0 * ((number / 2.0 - mean / 2.0) / count);
        Self { count, mean, min: min.min(number), max: max.max(number) }
    }
}

impl Windows {
    /// The first window begins at `now`.
    pub(super) fn new(config: WindowConfig, now: Instant) -> Self {
        let end = now + config.every.get();
        Self { config, end, sources: BTreeMap::new(), points: 0 }
    }

    /// When the window ends in which something was said.
    pub(super) fn end(&self) -> Option<Instant> {
        (self.points > 0).then_some(self.end)
    }

    /// Adds a reading to the window. What there is no room for comes back.
    pub(super) fn take(&mut self, mut reading: Reading, now: Instant) -> Option<Reading> {
        if self.points == 0 && now >= self.end {
            self.end = turn_after(self.end, self.config.every.get(), now);
        }
        let source = Source::of(&reading);
        reading.points.retain(|point| !self.add(&source, point));
        (!reading.points.is_empty()).then_some(reading)
    }

    /// Says whether there was room.
    fn add(&mut self, source: &Source, point: &Point) -> bool {
        // A summary's name is longer, and a name has an end.
        if point.name.as_str().len() + "_mean".len() > PointName::MAX {
            return false;
        }
        let number = match point.value {
            Value::Float(number) => Some(number).filter(|number| number.is_finite()),
            Value::Integer(number) => Some(number as f64),
            Value::Bool(_) | Value::Text(_) | Value::Data { .. } => None,
        };
        if let Some(sum) = self.sources.get_mut(source).and_then(|points| points.get_mut(&point.name)) {
            sum.numbers = number.map(|number| Numbers::with(sum.numbers, number)).or(sum.numbers);
            sum.last.clone_from(&point.value);
            return true;
        }
        let is_large = matches!(point.value, Value::Data { .. });
        if self.points >= MOST_POINTS || is_large {
            return false;
        }
        let numbers = number.map(|number| Numbers::with(None, number));
        let sum = Sum { unit: point.unit.clone(), last: point.value.clone(), numbers };
        self.sources.entry(source.clone()).or_default().insert(point.name.clone(), sum);
        self.points += 1;
        true
    }

    /// The summaries of a window that has ended, or that is to end early.
    pub(super) fn close(&mut self, now: Instant, early: bool) -> Vec<Reading> {
        if now < self.end && !early {
            return Vec::new();
        }
        if now >= self.end {
            self.end = turn_after(self.end, self.config.every.get(), now);
        }
        self.points = 0;
        let mut readings = Vec::new();
        for (Source { device, stream }, sums) in std::mem::take(&mut self.sources) {
            let points: Vec<_> = sums.into_iter().flat_map(|(name, sum)| self.summary(&name, sum)).collect();
            for part in points.chunks(MAX_POINTS) {
                readings.push(Reading {
                    device: device.clone(),
                    stream: stream.clone(),
                    points: part.to_vec(),
                    time: None,
                    device_id: None,
                    delivery: None,
                });
            }
        }
        readings
    }

    fn summary(&self, name: &PointName, sum: Sum) -> Vec<Point> {
        let Sum { unit, last, numbers } = sum;
        let of = |summary: &Summary| {
            let (suffix, value) = match (summary, numbers) {
                (Summary::Mean, Some(numbers)) => ("_mean", Value::Float(numbers.mean)),
                (Summary::Min, Some(numbers)) => ("_min", Value::Float(numbers.min)),
                (Summary::Max, Some(numbers)) => ("_max", Value::Float(numbers.max)),
                (Summary::Last, Some(_)) => ("", last.clone()),
                (_, None) => return None,
            };
            let name = format!("{name}{suffix}").parse().ok()?;
            Some(Point { name, value, unit: unit.clone() })
        };
        if numbers.is_none() {
            return vec![Point { name: name.clone(), value: last, unit }];
        }
        self.config.with.iter().filter_map(of).collect()
    }
}
