//! What goes, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use at_protocol::AtSign;
use atedge_adapters::StreamName;
use rusqlite::{OptionalExtension as _, params};

use super::StreamPolicy;
use super::send::FlowKey;
use super::store::{LaneId, Store, text};
use super::timefix::{Steady, signed};
use crate::clock::Stamp;
use crate::failpoint::Failpoint;
use crate::payload::{Boot, Cause};

/// Lost because their time was up, by one round of [`Outbox::expire`](super::Outbox::expire).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Records that some reader had not got.
    pub records: u64,
    /// Records that silent readers were passed over for.
    pub passed_over: u64,
    /// When to look again: soon enough for the shortest time that something is kept, and no sooner.
    pub again_after: Duration,
}

/// Between two rounds at least.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// Between two rounds at most.
const MOST_PAUSE: Duration = Duration::from_secs(60);
/// While there is much to do, what so many confirmations have made free is deleted in one go: as much as fits into
/// memory for pages, so that each page is written once.
const TOGETHER: usize = 64;
/// Above every number of a record: SQLite counts to here.
const MOST: u64 = i64::MAX as u64;

/// A lane as it is cleared.
pub(super) struct Aging {
    pub(super) id: LaneId,
    pub(super) stream: StreamName,
    pub(super) boot: Boot,
}

/// Lanes that may have records which nobody needs any more.
#[derive(Default)]
pub(super) struct Spent {
    lanes: BTreeSet<LaneId>,
    /// How often one was put there since they were last cleared.
    times: usize,
}

impl Spent {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

impl Store {
    /// There may be records of `lane` that all of its readers have or will never get: they go before the next COMMIT,
    /// or, while there is much to do, before one that is soon to come.
    pub(super) fn retire(&mut self, lane: LaneId) {
        self.spent.lanes.insert(lane);
        self.spent.times += 1;
    }

    /// Deletes what was retired, unless there is much to do and not yet enough of it.
    pub(super) fn clear_some(&mut self) -> rusqlite::Result<()> {
        if self.spent.is_empty() || (self.is_busy && self.spent.times < TOGETHER) {
            return Ok(());
        }
        self.clear()
    }

    /// Deletes what all readers of the lanes that were retired have or will never get, and such a lane itself when it is
    /// of an earlier boot and nothing is left to be said of it. Without readers nothing goes.
    pub(super) fn clear(&mut self) -> rusqlite::Result<()> {
        let Spent { lanes, .. } = std::mem::take(&mut self.spent);
        let mut spans = Vec::new();
        for lane in &lanes {
            let Some(needed) = self.needed_from(*lane)? else { continue };
            let mut select = self.db.prepare_cached("SELECT id FROM span WHERE lane = ? AND last < ?")?;
            for id in select.query_map(params![lane, needed], |row| row.get::<_, i64>(0))? {
                spans.push(id?);
            }
            self.trim_span(*lane, 0, needed - 1)?;
        }
        // Neighbours one after the other: what was captured together lies together.
        spans.sort_unstable();
        let mut delete = self.db.prepare_cached("DELETE FROM span WHERE id = ?")?;
        for id in &spans {
            delete.execute([id])?;
        }
        if !spans.is_empty() {
            Failpoint::RecordsDeleted.pass();
        }
        lanes.into_iter().try_for_each(|lane| self.close_lane(lane))
    }

    /// Forgets a lane of an earlier boot that has neither records nor gaps left.
    fn close_lane(&self, lane: LaneId) -> rusqlite::Result<()> {
        let closed = self
            .db
            .prepare_cached(
                "DELETE FROM lane WHERE id = ?1 AND boot <> ?2
                 AND NOT EXISTS (SELECT 1 FROM span WHERE lane = ?1)
                 AND NOT EXISTS (SELECT 1 FROM gap WHERE lane = ?1)",
            )?
            .execute(params![lane, self.boot.to_string()])?;
        if closed > 0 {
            Failpoint::LaneClosed.pass();
            self.db.prepare_cached("DELETE FROM cursor WHERE lane = ?")?.execute([lane])?;
        }
        Ok(())
    }

    /// Deletes records older than their stream's time to live, passes over readers that have confirmed
    /// nothing for as long as their stream holds, and deletes segment keys that nothing needs.
    pub(super) fn expire(&mut self, now: Stamp) -> rusqlite::Result<Expired> {
        self.clear()?;
        let lanes: Vec<Aging> = self
            .db
            .prepare_cached("SELECT id, stream, boot FROM lane")?
            .query_map([], |row| Ok(Aging { id: row.get(0)?, stream: text(row, 1)?, boot: text(row, 2)? }))?
            .collect::<Result<_, _>>()?;
        let now = self.steady(now)?;
        self.note_who_confirmed(now)?;
        let mut expired = Expired::default();
        let mut oldest_segment = self.segment()?;
        for lane in lanes {
            expired.records += self.expire_lane(&lane, now)?;
            expired.passed_over += self.pass_over(&lane, now)?;
            let first: Option<i64> = self
                .db
                .prepare_cached("SELECT segment FROM span WHERE lane = ? ORDER BY last LIMIT 1")?
                .query_row([lane.id], |row| row.get(0))
                .optional()?;
            oldest_segment = oldest_segment.min(first.unwrap_or(i64::MAX));
            self.close_lane(lane.id)?;
        }
        self.forget_began()?;
        if let Some(now_us) = now.us {
            self.see(now_us)?;
            let before = now_us - micros(self.longest_ttl());
            self.db.prepare_cached("DELETE FROM aside WHERE time_us < ?")?.execute([before])?;
        }
        let aside: Option<i64> =
            self.db.prepare_cached("SELECT min(segment) FROM aside")?.query_row([], |row| row.get(0))?;
        oldest_segment = oldest_segment.min(aside.unwrap_or(i64::MAX));
        self.db.prepare_cached("DELETE FROM segment WHERE id < ?")?.execute([oldest_segment])?;
        if expired.records > 0 {
            self.count("expired", expired.records)?;
        }
        let kept = self.options.streams.values().map(|policy| policy.ttl.min(policy.hold));
        expired.again_after = (kept.min().unwrap_or(MOST_PAUSE) / 4).clamp(LEAST_PAUSE, MOST_PAUSE);
        Ok(expired)
    }

    /// A lane's records are in the order of their capture: from the first on, all that are too old go.
    fn expire_lane(&self, lane: &Aging, now: Steady) -> rusqlite::Result<u64> {
        let ttl = self.policy(&lane.stream).map_or_else(|| self.longest_ttl(), |policy| policy.ttl);
        let (Some(oldest), Some(last)) = (self.first_record(lane.id)?, self.last_older(lane, ttl, now)?)
        else {
            return Ok(0);
        };
        self.drop_records(lane.id, oldest, last, Cause::Expired)
    }

    /// Readers that have been silent for too long are owed a gap in place of what was held so long.
    fn pass_over(&mut self, lane: &Aging, now: Steady) -> rusqlite::Result<u64> {
        let Some(StreamPolicy { hold, readers, .. }) = self.policy(&lane.stream) else { return Ok(0) };
        let hold = *hold;
        let is_silent = |reader: &&AtSign| {
            let heard_us = self.heard.get(&(lane.stream.clone(), (*reader).clone())).copied().unwrap_or(0);
            signed(now.mono_us.saturating_sub(heard_us)) > micros(hold)
        };
        let silent: Vec<AtSign> = readers.iter().filter(is_silent).cloned().collect();
        let mut passed_over = 0;
        for reader in silent {
            if let (Some(first), Some(last)) =
                (self.first_record(lane.id)?, self.last_older(lane, hold, now)?)
            {
                passed_over += self.lose(lane.id, reader.as_str(), first, last, Cause::Silent)?;
                self.retire(lane.id);
            }
        }
        Ok(passed_over)
    }

    /// Those who confirmed something since the last time were heard of.
    fn note_who_confirmed(&mut self, now: Steady) -> rusqlite::Result<()> {
        for FlowKey { lane, reader } in std::mem::take(&mut self.confirmed) {
            let stream: Option<StreamName> = self
                .db
                .prepare_cached("SELECT stream FROM lane WHERE id = ?")?
                .query_row([lane], |row| text(row, 0))
                .optional()?;
            if let Some(stream) = stream {
                self.heard.insert((stream, reader), now.mono_us);
            }
        }
        Ok(())
    }

    pub(super) fn first_record(&self, lane: LaneId) -> rusqlite::Result<Option<u64>> {
        self.db
            .prepare_cached("SELECT first FROM span WHERE lane = ? ORDER BY last LIMIT 1")?
            .query_row([lane], |row| row.get(0))
            .optional()
    }

    /// The last record of `lane` before the first that is younger than `age`, or was committed with one that is. Within one boot the time since
    /// its start tells, which never jumps. Of earlier boots only the wall clock knows, as it was when it was first
    /// right; as long as it never was, in this run or at capture, nothing is old.
    pub(super) fn last_older(
        &self,
        lane: &Aging,
        age: Duration,
        now: Steady,
    ) -> rusqlite::Result<Option<u64>> {
        let (sql, before) = if lane.boot == self.boot {
            ("mono_us >= ?", signed(now.mono_us) - micros(age))
        } else if let Some(now_us) = now.us {
            ("(free OR time_us >= ?)", now_us - micros(age))
        } else {
            return Ok(None);
        };
        let younger: Option<u64> = self
            .db
            .prepare_cached(&format!(
                "SELECT first FROM span WHERE lane = ? AND {sql} ORDER BY last LIMIT 1"
            ))?
            .query_row(params![lane.id, before], |row| row.get(0))
            .optional()?;
        self.db
            .prepare_cached("SELECT max(last) FROM span WHERE lane = ? AND last < ?")?
            .query_row(params![lane.id, younger.unwrap_or(MOST)], |row| row.get(0))
    }

    pub(super) fn policy(&self, stream: &StreamName) -> Option<&StreamPolicy> {
        self.options.streams.get(stream)
    }

    fn longest_ttl(&self) -> Duration {
        let ttls = self.options.streams.values().map(|policy| policy.ttl);
        ttls.max().unwrap_or(super::DEFAULT_TTL)
    }
}

/// Microseconds, as the database has them.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
