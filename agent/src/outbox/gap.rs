//! What readers will not get: counted for each, kept until it has heard of it.
//!
//! Of each number between a reader's cursor and the end of its lane there is either a record in the queue
//! or a gap of that reader's, or both where the record is kept for another.

use at_protocol::AtSign;
use rusqlite::{OptionalExtension as _, params};

use super::store::{LaneId, Store};
use crate::failpoint::Failpoint;
use crate::payload::{Cause, Gap};

/// Most gaps that travel with one batch.
pub(super) const MOST_GAPS: usize = 256;

impl Store {
    /// Deletes the records from `first` to `last`: lost to all readers of `lane` that have not got them. Those that
    /// were committed with one before `first` stay for now, and the gap says that nobody gets them. Returns how many
    /// records went.
    pub(super) fn drop_records(
        &self,
        lane: LaneId,
        first: u64,
        last: u64,
        cause: Cause,
    ) -> rusqlite::Result<u64> {
        let mut delete = self.db.prepare_cached(
            "DELETE FROM span WHERE lane = ?1 AND last BETWEEN ?2 AND ?3 AND first >= ?2 RETURNING max(last - first + 1, 0)",
        )?;
        let mut gone = 0;
        for records in delete.query_map(params![lane, first, last], |row| row.get::<_, u64>(0))? {
            gone += records?;
        }
        gone += self.trim_span(lane, first, last)?;
        Failpoint::RecordsDropped.pass();
        let readers: Vec<String> = self
            .db
            .prepare_cached("SELECT reader FROM cursor WHERE lane = ? AND upto < ?")?
            .query_map(params![lane, last], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for reader in readers {
            self.lose(lane, &reader, first, last, cause)?;
        }
        Ok(gone)
    }

    /// The reader will not get the numbers from `first` to `last`. Those that it has, or that it lost
    /// before, count no second time. Returns how many count.
    pub(super) fn lose(
        &self,
        lane: LaneId,
        reader: &str,
        first: u64,
        last: u64,
        cause: Cause,
    ) -> rusqlite::Result<u64> {
        let upto: u64 = self
            .db
            .prepare_cached("SELECT upto FROM cursor WHERE lane = ? AND reader = ?")?
            .query_row(params![lane, reader], |row| row.get(0))?;
        let known = self.gaps(lane, reader, first, last, usize::MAX)?;
        let mut next = first.max(upto + 1);
        let mut lost = 0;
        for gap in known.iter().map(Some).chain([None]) {
            let end = gap.map_or(last, |gap| gap.first - 1);
            if next <= end {
                self.add_gap(lane, reader, Gap { first: next, last: end, cause })?;
                lost += end - next + 1;
            }
            next = gap.map_or(next, |gap| next.max(gap.last + 1));
        }
        if lost > 0 {
            self.db
                .prepare_cached(
                    "INSERT INTO lost SELECT stream, ?2, ?3, ?4 FROM lane WHERE id = ?1
                     ON CONFLICT DO UPDATE SET records = records + ?4",
                )?
                .execute(params![lane, reader, cause.as_str(), lost])?;
        }
        Ok(lost)
    }

    /// Adds a gap that overlaps no other, and makes one of it and its neighbours that have its cause.
    fn add_gap(&self, lane: LaneId, reader: &str, gap: Gap) -> rusqlite::Result<()> {
        let Gap { mut first, mut last, cause } = gap;
        let neighbour: Option<u64> = self
            .db
            .prepare_cached(
                "DELETE FROM gap WHERE lane = ? AND reader = ? AND first = ? AND cause = ? RETURNING last",
            )?
            .query_row(params![lane, reader, last + 1, cause.as_str()], |row| row.get(0))
            .optional()?;
        last = neighbour.unwrap_or(last);
        let neighbour: Option<u64> = self
            .db
            .prepare_cached(
                "SELECT first FROM gap WHERE lane = ? AND reader = ? AND first < ? AND last = ? AND cause = ?
                 ORDER BY first DESC LIMIT 1",
            )?
            .query_row(params![lane, reader, first, first - 1, cause.as_str()], |row| row.get(0))
            .optional()?;
        first = neighbour.unwrap_or(first);
        self.db.prepare_cached("INSERT OR REPLACE INTO gap VALUES(?, ?, ?, ?, ?)")?.execute(params![
            lane,
            reader,
            first,
            last,
            cause.as_str()
        ])?;
        Failpoint::GapWritten.pass();
        Ok(())
    }

    /// The gaps of a reader that have numbers from `first` to `last`, in order, `most` at most.
    pub(super) fn gaps(
        &self,
        lane: LaneId,
        reader: &str,
        first: u64,
        last: u64,
        most: usize,
    ) -> rusqlite::Result<Vec<Gap>> {
        // Gaps do not overlap: of those that begin before `first`, only the last can reach into it.
        let mut select = self.db.prepare_cached(
            "SELECT first, last, cause FROM gap WHERE lane = ?1 AND reader = ?2 AND last >= ?3 AND first <= ?4
             AND first >= ifnull((SELECT max(first) FROM gap WHERE lane = ?1 AND reader = ?2 AND first <= ?3), 0)
             ORDER BY first",
        )?;
        let rows = select.query_map(params![lane, reader, first, last], |row| {
            Ok(Gap { first: row.get(0)?, last: row.get(1)?, cause: Cause::of(row.get_ref(2)?.as_str()?) })
        })?;
        rows.take(most).collect()
    }

    /// The reader has heard of everything up to `upto`.
    pub(super) fn settle_gaps(&self, lane: LaneId, reader: &AtSign, upto: u64) -> rusqlite::Result<()> {
        let settled = params![lane, reader.as_str(), upto];
        self.db
            .prepare_cached("DELETE FROM gap WHERE lane = ?1 AND reader = ?2 AND first <= ?3 AND last <= ?3")?
            .execute(settled)?;
        self.db
            .prepare_cached("UPDATE gap SET first = ?3 + 1 WHERE lane = ?1 AND reader = ?2 AND first <= ?3")?
            .execute(settled)?;
        Ok(())
    }

    /// From which number on records of `lane` are still for somebody; `None` without readers.
    pub(super) fn needed_from(&self, lane: LaneId) -> rusqlite::Result<Option<u64>> {
        let cursors: Vec<(String, u64)> = self
            .db
            .prepare_cached("SELECT reader, upto FROM cursor WHERE lane = ?")?
            .query_map([lane], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut needed = None;
        for (reader, upto) in cursors {
            let mut next = upto + 1;
            while let Some(gap) = self.gaps(lane, &reader, next, next, 1)?.first() {
                next = gap.last + 1;
            }
            needed = Some(needed.map_or(next, |least: u64| least.min(next)));
        }
        Ok(needed)
    }

    /// After damage: what is neither a record nor a gap was lost by the disk.
    pub(super) fn count_all_holes(&mut self) -> rusqlite::Result<()> {
        let lanes: Vec<LaneId> = self
            .db
            .prepare("SELECT id FROM lane")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        lanes.into_iter().try_for_each(|lane| self.count_holes(lane))
    }

    fn count_holes(&self, lane: LaneId) -> rusqlite::Result<()> {
        let (next, least): (u64, Option<u64>) = self.db.query_row(
            "SELECT next, (SELECT min(upto) FROM cursor WHERE lane = lane.id) FROM lane WHERE id = ?",
            [lane],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let Some(mut before) = least else { return Ok(()) };
        let mut holes = Vec::new();
        let mut select =
            self.db.prepare("SELECT first, last FROM span WHERE lane = ? AND last > ? ORDER BY last")?;
        let mut rows = select.query(params![lane, before])?;
        while let Some(row) = rows.next()? {
            let (first, last): (u64, u64) = (row.get(0)?, row.get(1)?);
            if first > before + 1 {
                holes.push((before + 1, first - 1));
            }
            before = last;
        }
        if before + 1 < next {
            holes.push((before + 1, next - 1));
        }
        for (first, last) in holes {
            self.drop_records(lane, first, last, Cause::Damaged)?;
        }
        Ok(())
    }
}
