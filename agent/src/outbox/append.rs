//! Taking records in, each capture once.

use std::sync::Arc;

use atedge_adapters::{Delivery, DeviceName, Point, StreamName};
use rusqlite::params;

use super::Keep;
use super::store::{LaneId, Store};
use crate::clock::Stamp;
use crate::payload::{Cause, ClockState, Lane, Record};

/// How many ids of devices' own are remembered, over all devices: more than MQTT brokers may keep
/// unacknowledged for one session (65,535, MQTT 5 §3.1.2.11.3), so that no redelivery outlives its id.
const DEVICE_IDS: i64 = 1 << 18;

/// A reading that is fit for the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Capture {
    /// The device that was read.
    pub device: DeviceName,
    /// The stream it belongs to.
    pub stream: StreamName,
    /// When it arrived, by our clocks.
    pub taken: Stamp,
    /// When it was taken by the device's own clock, in microseconds since 1970, where it has one.
    pub own_time_us: Option<i64>,
    /// What was read.
    pub points: Vec<Point>,
    /// The device's own id for it; never kept twice.
    pub device_id: Option<String>,
    /// How its sender may repeat it.
    pub delivery: Option<Delivery>,
}

/// What became of a capture. Either way it may be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is a record now.
    New {
        /// Device, stream and boot.
        lane: Arc<Lane>,
        /// Its number there.
        seq: u64,
    },
    /// It is in the queue, or was: a repeat.
    Repeated,
    /// The queue is full of what is more important: its number is a gap.
    Dropped,
}

impl Store {
    /// Takes a capture in; what finds no room gets a number all the same, and is lost under it.
    pub(super) fn append(&mut self, capture: &Capture, room: bool) -> rusqlite::Result<Appended> {
        if let Some(delivery) = &capture.delivery
            && self.delivered(delivery)?
        {
            self.count("repeats", 1)?;
            return Ok(Appended::Repeated);
        }
        if let Some(id) = &capture.device_id
            && !self.first_time(capture, id)?
        {
            self.count("repeats", 1)?;
            return Ok(Appended::Repeated);
        }
        let (lane_id, lane, seq) = self.next_number(&capture.device, &capture.stream)?;
        if !room {
            self.drop_records(lane_id, seq, seq, Cause::Full)?;
            self.count("dropped", 1)?;
            return Ok(Appended::Dropped);
        }
        let taken = capture.taken;
        let time_us = capture.own_time_us.unwrap_or(taken.wall_us);
        let record = Record { seq, time_us, points: capture.points.clone() };
        let own_time = capture.own_time_us.is_some();
        if taken.state == ClockState::Free && !own_time {
            self.note_free(&capture.device, &capture.stream)?;
        }
        if self.policy(&capture.stream).is_some_and(|policy| policy.keep == Keep::Latest) {
            self.supersede(lane_id, &lane, seq)?;
        }
        self.insert(lane_id, &lane, &record, taken, own_time)?;
        Ok(Appended::New { lane, seq })
    }

    /// The record `seq` takes the place of those before it that were not sent to a reader, in the lanes of earlier
    /// boots too.
    fn supersede(&mut self, id: LaneId, lane: &Lane, seq: u64) -> rusqlite::Result<()> {
        self.supersede_in(id, seq - 1)?;
        if seq > 1 {
            return Ok(());
        }
        let earlier: Vec<(LaneId, u64)> = self
            .db
            .prepare_cached("SELECT id, next FROM lane WHERE device = ? AND stream = ? AND id <> ?")?
            .query_map(params![lane.device.as_str(), lane.stream.as_str(), id], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<Result<_, _>>()?;
        earlier.into_iter().try_for_each(|(id, next)| self.supersede_in(id, next - 1))
    }

    /// What was not sent to a reader, up to the number `last`, it will not get.
    fn supersede_in(&mut self, lane: LaneId, last: u64) -> rusqlite::Result<()> {
        self.growing.remove(&lane);
        let readers: Vec<(String, u64)> = self
            .db
            .prepare_cached("SELECT reader, sent FROM cursor WHERE lane = ? AND sent < ?")?
            .query_map(params![lane, last], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        for (reader, sent) in &readers {
            self.lose(lane, reader, sent + 1, last, Cause::Superseded)?;
        }
        // Those that were sent to anybody stay until they are confirmed, and what was committed with them.
        let most: u64 = self
            .db
            .prepare_cached("SELECT ifnull(max(sent), 0) FROM cursor WHERE lane = ?")?
            .query_row([lane], |row| row.get(0))?;
        self.db
            .prepare_cached("DELETE FROM span WHERE lane = ? AND first > ? AND last <= ?")?
            .execute(params![lane, most, last])?;
        Ok(())
    }

    fn first_time(&self, capture: &Capture, id: &str) -> rusqlite::Result<bool> {
        let new = self
            .db
            .prepare_cached("INSERT OR IGNORE INTO device_id(device, stream, id) VALUES(?, ?, ?)")?
            .execute(params![capture.device.as_str(), capture.stream.as_str(), id])?;
        if new > 0 {
            let oldest = self.db.last_insert_rowid() - DEVICE_IDS;
            self.db.prepare_cached("DELETE FROM device_id WHERE n <= ?")?.execute([oldest])?;
        }
        Ok(new > 0)
    }
}
