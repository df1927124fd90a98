//! Summaries of windows of time. Pure: the time is handed in.

use std::collections::BTreeMap;
use std::time::Instant;

use super::summary::Sum;
use super::{MOST_POINTS, Source, WindowConfig};
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
        if let Some(sum) = self.sources.get_mut(source).and_then(|points| points.get_mut(&point.name)) {
            sum.add(&point.value);
            return true;
        }
        let is_large = matches!(point.value, Value::Data { .. });
        if self.points >= MOST_POINTS || is_large {
            return false;
        }
        self.sources.entry(source.clone()).or_default().insert(point.name.clone(), Sum::of(point));
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
            let points: Vec<_> =
                sums.into_iter().flat_map(|(name, sum)| sum.points(&name, &self.config.with)).collect();
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
}
