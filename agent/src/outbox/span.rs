//! How records wait: those that one commit adds to a lane are a span, one row, and sealed as one. For a row of its own
//! each would pay with a page that SQLite writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::seal::Segments;
use super::store::{LaneId, Store};
use super::timefix::signed;
use crate::clock::Stamp;
use crate::failpoint::Failpoint;
use crate::payload::{ClockState, Lane, Record, fragment};

/// Bytes of records in a span at most, unless one alone has more: with all that goes beside them a page holds them
/// (<https://sqlite.org/fileformat2.html>, 4,061 bytes of a row in a page of 4,096).
const SPAN_BYTES: usize = 3_900;
/// Bytes before the text of a record in a span: two times, whether it has one of its device's own, and its length.
const HEAD: usize = 8 + 8 + 1 + 4;

/// A record as it waits.
pub(super) struct Stored {
    pub(super) seq: u64,
    /// Of the capture, by our clock.
    pub(super) time_us: i64,
    pub(super) mono_us: u64,
    pub(super) own_time: bool,
    /// What [`fragment`] made of it.
    pub(super) text: String,
    free: bool,
    /// Its time is not the one in its text.
    pub(super) is_repaired: bool,
}

impl Stored {
    /// Sets its time right, where it is ours and was wrong; the boot's monotonic time began at `began_us`.
    pub(super) fn repair(&mut self, began_us: i64) {
        if self.free && !self.own_time {
            self.time_us = began_us.saturating_add(signed(self.mono_us));
            (self.free, self.is_repaired) = (false, true);
        }
    }

    /// A time of the device's own is as right as it will ever be, whatever our clock says.
    pub(super) const fn clock(&self) -> ClockState {
        if self.free && !self.own_time { ClockState::Free } else { ClockState::Sync }
    }

    /// Adds it to the records of a span.
    fn pack(&self, span: &mut Vec<u8>) {
        let length = u32::try_from(self.text.len()).expect("no reading has four gigabytes");
        span.reserve(HEAD + self.text.len());
        span.extend_from_slice(&self.time_us.to_be_bytes());
        span.extend_from_slice(&self.mono_us.to_be_bytes());
        span.push(self.own_time.into());
        span.extend_from_slice(&length.to_be_bytes());
        span.extend_from_slice(self.text.as_bytes());
    }

    /// The first of the records of a span, which gets its number later, and the bytes of those after it.
    fn unpack(span: &[u8], free: bool) -> Option<(Self, &[u8])> {
        let (time_us, rest) = span.split_first_chunk()?;
        let (mono_us, rest) = rest.split_first_chunk()?;
        let (own_time, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        let record = Self {
            seq: 0,
            time_us: i64::from_be_bytes(*time_us),
            mono_us: u64::from_be_bytes(*mono_us),
            own_time: *own_time != 0,
            text: std::str::from_utf8(text).ok()?.to_owned(),
            free,
            is_repaired: false,
        };
        Some((record, rest))
    }
}

/// A row of the queue.
pub(super) struct Span {
    /// The first record in it that is still needed.
    pub(super) first: u64,
    /// The last.
    pub(super) last: u64,
    /// When the last was captured, by our clock.
    pub(super) time_us: i64,
    free: bool,
    segment: i64,
    sealed: Vec<u8>,
}

impl Span {
    /// Those of a lane that have records from a number on, in order.
    pub(super) const SELECT: &str = "SELECT first, last, time_us, free, segment, sealed FROM span
        WHERE lane = ? AND last >= ? ORDER BY last";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            first: row.get(0)?,
            last: row.get(1)?,
            time_us: row.get(2)?,
            free: row.get(3)?,
            segment: row.get(4)?,
            sealed: row.get(5)?,
        })
    }

    /// How many records are in it.
    pub(super) const fn len(&self) -> u64 {
        (self.last + 1).saturating_sub(self.first)
    }

    /// Its records; `None` if it was damaged or tampered with.
    pub(super) fn open(
        &self,
        db: &Connection,
        segments: &mut Segments,
        lane: &Lane,
    ) -> rusqlite::Result<Option<Vec<Stored>>> {
        let wrapped = || {
            db.prepare_cached("SELECT wrapped FROM segment WHERE id = ?")?
                .query_row([self.segment], |row| row.get(0))
                .optional()
        };
        let opened = segments.open(self.segment, wrapped, &lane.about(self.last), &self.sealed)?;
        Ok(opened.and_then(|bytes| self.unpack(&bytes)))
    }

    /// None is missing between the first and the last, so that the place of each gives its number.
    fn unpack(&self, bytes: &[u8]) -> Option<Vec<Stored>> {
        let mut records = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let record;
            (record, rest) = Stored::unpack(rest, self.free)?;
            records.push(record);
        }
        let before = self.last.checked_sub(u64::try_from(records.len()).ok()?)?;
        for (record, seq) in records.iter_mut().zip(before + 1..) {
            record.seq = seq;
        }
        records.retain(|record| record.seq >= self.first);
        Some(records).filter(|records| !records.is_empty())
    }
}

/// What the current group adds to each lane and has not written yet.
pub(super) type Growing = BTreeMap<LaneId, Unsealed>;

/// A span that may still grow.
pub(super) struct Unsealed {
    lane: Arc<Lane>,
    first: u64,
    last: u64,
    /// When the last was captured.
    taken: Stamp,
    bytes: Vec<u8>,
}

impl Unsealed {
    fn is_followed_by(&self, seq: u64, taken: Stamp, size: usize) -> bool {
        seq == self.last + 1
            && taken.state == self.taken.state
            && self.bytes.len() + HEAD + size <= SPAN_BYTES
    }
}

impl Store {
    /// Puts a record into its place; on the disk it is after the group.
    pub(super) fn insert(
        &mut self,
        id: LaneId,
        lane: &Arc<Lane>,
        record: &Record,
        taken: Stamp,
        own_time: bool,
    ) -> rusqlite::Result<()> {
        let seq = record.seq;
        let stored = Stored {
            seq,
            time_us: taken.wall_us,
            mono_us: taken.mono_us,
            own_time,
            text: fragment(record),
            free: taken.state == ClockState::Free,
            is_repaired: false,
        };
        if let Some(before) = self.growing.get(&id)
            && !before.is_followed_by(seq, taken, stored.text.len())
        {
            self.write_span(id)?;
        }
        let span = self.growing.entry(id).or_insert_with(|| Unsealed {
            lane: Arc::clone(lane),
            first: seq,
            last: seq,
            taken,
            bytes: Vec::new(),
        });
        stored.pack(&mut span.bytes);
        (span.last, span.taken) = (seq, taken);
        Ok(())
    }

    /// Bytes that the current group has yet to write.
    pub(super) fn growing_bytes(&self) -> u64 {
        self.growing.values().map(|span| span.bytes.len() as u64).sum()
    }

    /// Writes what the group adds. Those that fill a page were written before, so that the others share pages.
    pub(super) fn keep_growing(&mut self) -> rusqlite::Result<()> {
        while let Some(id) = self.growing.first_entry().map(|entry| *entry.key()) {
            self.write_span(id)?;
        }
        Ok(())
    }

    fn write_span(&mut self, id: LaneId) -> rusqlite::Result<()> {
        let Some(Unsealed { lane, first, last, taken, bytes }) = self.growing.remove(&id) else {
            return Ok(());
        };
        let (segment, sealed) = self.seal(&lane, last, &bytes)?;
        let free = taken.state == ClockState::Free;
        self.db
            .prepare_cached(
                "INSERT INTO span(lane, first, last, time_us, mono_us, free, segment, sealed)
                 VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![id, first, last, taken.wall_us, taken.mono_us, free, segment, sealed])?;
        Failpoint::RecordWritten.pass();
        Ok(())
    }

    /// Seals what is about the number `seq` of a lane; gives the segment, too.
    pub(super) fn seal(&mut self, lane: &Lane, seq: u64, bytes: &[u8]) -> rusqlite::Result<(i64, Vec<u8>)> {
        let segment = self.segment()?;
        Ok((segment, self.segments.seal(&lane.about(seq), bytes)))
    }

    /// The records in `span`; `None` if it no longer opens.
    pub(super) fn open_span(&mut self, lane: &Lane, span: &Span) -> rusqlite::Result<Option<Vec<Stored>>> {
        span.open(&self.db, &mut self.segments, lane)
    }

    /// Puts `record`, with the times of `last`, in the place of all that the span has which ends with that one.
    pub(super) fn replace_span(
        &mut self,
        id: LaneId,
        lane: &Lane,
        last: Stored,
        record: &Record,
    ) -> rusqlite::Result<()> {
        let seq = last.seq;
        let mut bytes = Vec::new();
        Stored { text: fragment(record), ..last }.pack(&mut bytes);
        let (segment, sealed) = self.seal(lane, seq, &bytes)?;
        self.db
            .prepare_cached(
                "UPDATE span SET first = last, segment = ?, sealed = ? WHERE lane = ? AND last = ?",
            )?
            .execute(params![segment, sealed, id, seq])?;
        Ok(())
    }

    /// Of a span that begins from `first` to `last` and ends later, what is up to `last` is not needed any more. Returns
    /// how many records that was.
    pub(super) fn trim_span(&self, lane: LaneId, first: u64, last: u64) -> rusqlite::Result<u64> {
        let cut: Option<(i64, u64)> = self
            .db
            .prepare_cached("SELECT id, first FROM span WHERE lane = ? AND last > ? ORDER BY last LIMIT 1")?
            .query_row(params![lane, last], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((id, begins)) = cut.filter(|(_, begins)| (first..=last).contains(begins)) else {
            return Ok(0);
        };
        self.db.prepare_cached("UPDATE span SET first = ? WHERE id = ?")?.execute(params![last + 1, id])?;
        Ok(last + 1 - begins)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(first: u64, last: u64) -> Span {
        Span { first, last, time_us: 0, free: true, segment: 1, sealed: Vec::new() }
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked_under_its_numbers(
            readings in prop::collection::vec((any::<i64>(), any::<u64>(), any::<bool>(), any::<String>()), 1..20),
            before in 0u64..1 << 40,
            cut in 0u64..20,
        ) {
            let mut bytes = Vec::new();
            for (time_us, mono_us, own_time, text) in &readings {
                let (time_us, mono_us, own_time, text) = (*time_us, *mono_us, *own_time, text.clone());
                Stored { seq: 0, time_us, mono_us, own_time, text, free: true, is_repaired: false }.pack(&mut bytes);
            }
            let many = readings.len() as u64;
            let cut = cut % many;
            let got = span(before + 1 + cut, before + many).unpack(&bytes).unwrap();
            prop_assert_eq!(got.len() as u64, many - cut);
            for (got, (place, reading)) in got.iter().zip(readings.iter().enumerate().skip(cut as usize)) {
                prop_assert_eq!(got.seq, before + 1 + place as u64);
                let as_was = (got.time_us, got.mono_us, got.own_time, got.text.clone());
                prop_assert_eq!(&as_was, reading);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), first in any::<u64>(), last in any::<u64>()) {
            let numbers = span(first, last).unpack(&bytes).map(|records| records[0].seq);
            prop_assert!(numbers.is_none_or(|seq| (first..=last).contains(&seq)));
        }
    }
}
