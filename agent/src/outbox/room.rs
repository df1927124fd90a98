//! Room for one more record, made as its stream says.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use atedge_adapters::StreamName;
use rusqlite::{OptionalExtension as _, params};

use super::log::beside;
use super::store::{LaneId, Store, WAL_KEPT, free_bytes, text, used_bytes};
use super::{FILE, MinFree, Priority, WhenFull};
use crate::clock::Stamp;
use crate::payload::{Boot, Cause};

/// Records of one lane that are dropped in one go.
const DROP: u64 = 64;
/// What is made free beyond what is needed, at least and at most, so that it need not be done for every record.
const MARGIN: std::ops::RangeInclusive<u64> = (64 << 10)..=(1 << 20);
/// A file system with less left than it should have still takes records if the database has this much of its
/// own to put them.
const OWN_ROOM: u64 = 256 << 10;
/// What the log may grow to: it is cut back to [`WAL_KEPT`], but a group goes into it whole before that.
const LOG_MOST: u64 = 2 * WAL_KEPT as u64;
/// What one group may add to a log that is larger than that already, since somebody who reads keeps it from being cut
/// back.
const GROUP_MOST: u64 = 4 << 20;
/// Pause between two looks for records that are too old, or that can be thinned, while the outbox is full.
const LOOK_AGAIN_US: u64 = 10_000_000;

/// Whether a record may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It may.
    Free,
    /// It must wait.
    Blocked,
    /// It is the least important there is, and is dropped itself.
    None,
}

/// When the costly ways to make room were last gone in vain, in microseconds since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried {
    expire: Option<u64>,
    thin: Option<u64>,
}

impl Store {
    /// Whether a record of `stream` may come in at `now`, after making room for it if need be.
    pub(super) fn room_for(&mut self, stream: &StreamName, now: Stamp) -> rusqlite::Result<Room> {
        let Some(policy) = self.policy(stream) else {
            let last = Priority::default();
            return Ok(if self.has_room(self.options.limit(last))? { Room::Free } else { Room::Blocked });
        };
        let (priority, ways) = (policy.priority, policy.full.clone());
        let drops = policy.allows(WhenFull::DropOldest);
        let limit = self.options.limit(priority);
        if self.has_room(limit)? {
            return Ok(Room::Free);
        }
        self.clear()?;
        let margin = (self.options.max_bytes / 64).clamp(*MARGIN.start(), *MARGIN.end());
        let enough = limit.saturating_sub(margin);
        let recently = |tried: Option<u64>| tried.is_some_and(|at| now.mono_us < at + LOOK_AGAIN_US);
        for way in ways {
            match way {
                WhenFull::Expire if recently(self.tried.expire) => {}
                WhenFull::Expire => {
                    self.expire(now)?;
                    self.tried.expire = Some(now.mono_us);
                }
                WhenFull::Thin if recently(self.tried.thin) => {}
                WhenFull::Thin => {
                    if !self.thin(priority, enough, now)? {
                        self.tried.thin = Some(now.mono_us);
                    }
                }
                WhenFull::DropOldest => self.drop_oldest(priority, enough)?,
                WhenFull::Block => break,
            }
            if self.has_room(limit)? {
                return Ok(Room::Free);
            }
        }
        Ok(if drops { Room::None } else { Room::Blocked })
    }

    /// Whether less than `limit` bytes are in use, and the disk has enough left.
    pub(super) fn has_room(&self, limit: u64) -> rusqlite::Result<bool> {
        Ok(used_bytes(&self.db)? + self.growing_bytes() < limit
            && (self.disk_has_room() || free_bytes(&self.db)? >= OWN_ROOM))
    }

    /// Whether the file system would keep what must stay free, if the log grew to its size.
    fn disk_has_room(&self) -> bool {
        // Where nobody can tell, the disk itself says when it is full.
        let Ok(disk) = rustix::fs::statvfs(&self.options.folder) else { return true };
        let least = match self.options.min_free {
            MinFree::Bytes(0) | MinFree::Percent(0) => return true,
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => disk.f_blocks * disk.f_frsize / 100 * u64::from(percent),
        };
        let log = beside(&self.options.folder.join(FILE), "-wal");
        let log = log.metadata().map_or(0, |file| file.len());
        let grown = LOG_MOST.min(disk.f_blocks * disk.f_frsize / 8);
        let group = GROUP_MOST.min(disk.f_blocks * disk.f_frsize / 8);
        disk.f_bavail * disk.f_frsize >= least + grown.saturating_sub(log).max(group)
    }

    /// Drops the oldest records that no stream keeps for sure, of the least important streams first and of none
    /// that is more important than `priority`, until no more than `enough` bytes are in use.
    fn drop_oldest(&mut self, priority: Priority, enough: u64) -> rusqlite::Result<()> {
        let mut dropped = 0;
        for class in self.droppable(priority) {
            let mut heads = BinaryHeap::new();
            for (lane, boot) in self.lanes_of(&class)? {
                heads.extend(
                    self.head(lane)?.map(|(seq, mono_us)| Reverse((boot.epoch(), mono_us, lane, seq))),
                );
            }
            while !self.has_room(enough)?
                && let Some(Reverse((epoch, _, lane, first))) = heads.pop()
            {
                let last = self.last_of_some(lane, first)?;
                dropped += self.drop_records(lane, first, last, Cause::Full)?;
                heads.extend(self.head(lane)?.map(|(seq, mono_us)| Reverse((epoch, mono_us, lane, seq))));
            }
        }
        if dropped > 0 {
            self.count("dropped", dropped)?;
        }
        Ok(())
    }

    /// The streams that may be dropped for one of `priority`, in classes of equal importance, the least first.
    fn droppable(&self, priority: Priority) -> Vec<Vec<StreamName>> {
        let mut classes = std::collections::BTreeMap::<Reverse<Priority>, Vec<StreamName>>::new();
        for (stream, policy) in &self.options.streams {
            if policy.priority >= priority && policy.allows(WhenFull::DropOldest) {
                classes.entry(Reverse(policy.priority)).or_default().push(stream.clone());
            }
        }
        classes.into_values().collect()
    }

    /// The lanes of `streams`.
    pub(super) fn lanes_of(&self, streams: &[StreamName]) -> rusqlite::Result<Vec<(LaneId, Boot)>> {
        let mut lanes = Vec::new();
        let mut select = self.db.prepare_cached("SELECT id, boot FROM lane WHERE stream = ?")?;
        for stream in streams {
            for lane in select.query_map([stream.as_str()], |row| Ok((row.get(0)?, text(row, 1)?)))? {
                lanes.push(lane?);
            }
        }
        Ok(lanes)
    }

    /// The last of as many records from `first` on as are dropped in one go, and of those committed with it.
    fn last_of_some(&self, lane: LaneId, first: u64) -> rusqlite::Result<u64> {
        let mut select = self
            .db
            .prepare_cached("SELECT last FROM span WHERE lane = ? AND last >= ? ORDER BY last LIMIT ?")?;
        let mut rows = select.query(params![lane, first, DROP])?;
        let mut last = first;
        while last < first + DROP - 1
            && let Some(row) = rows.next()?
        {
            last = row.get(0)?;
        }
        Ok(last)
    }

    /// The first record of a lane, and when it was captured; never after the end of its row, as damage may have it, so
    /// that the row goes when its records do.
    fn head(&self, lane: LaneId) -> rusqlite::Result<Option<(u64, u64)>> {
        self.db
            .prepare_cached(
                "SELECT min(first, last), mono_us FROM span WHERE lane = ? ORDER BY last LIMIT 1",
            )?
            .query_row(params![lane], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
    }
}
