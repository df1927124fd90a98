//! Giving records out, and learning who has them.

use std::sync::Arc;

use at_protocol::AtSign;
use rusqlite::{OptionalExtension as _, Row, params};

use super::store::{LaneId, Store};
use crate::payload::{ClockState, Lane, Receipt, envelope};

/// One reader in one lane: what is sent in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// The lane.
    pub lane: LaneId,
    /// The reader.
    pub reader: AtSign,
}

/// A flow with records that its reader has not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which flow.
    pub key: FlowKey,
    /// Device, stream and boot.
    pub lane: Arc<Lane>,
    /// The reader has everything up to this number.
    pub upto: u64,
    /// The last number in the lane.
    pub last: u64,
}

/// How much one batch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimit {
    /// Most records.
    pub records: usize,
    /// Most bytes of SenML; the first record goes whatever its size.
    pub bytes: usize,
}

/// Records to be sent together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The number of its first record.
    pub first: u64,
    /// The number of its last.
    pub last: u64,
    /// The batch, JSON.
    pub json: String,
}

/// What a receipt changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipted {
    /// Which flow it was for.
    pub key: FlowKey,
    /// The reader has everything up to this number, or can never get it.
    pub confirmed: u64,
    /// The last number that the receipt speaks of.
    pub upto: u64,
    /// What it lacks up to there, and we still have: to be sent again.
    pub missing: Vec<(u64, u64)>,
}

/// How far the times of records in one batch may drift from their monotonic times when the clock runs
/// free, in microseconds: a larger step means that the clock was set in between.
const DRIFT_US: u64 = 1000;

struct Stored {
    seq: u64,
    time_us: i64,
    mono_us: u64,
    free: bool,
    own_time: bool,
    segment: i64,
    sealed: Vec<u8>,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            time_us: row.get(1)?,
            mono_us: row.get(2)?,
            free: row.get(3)?,
            own_time: row.get(4)?,
            segment: row.get(5)?,
            sealed: row.get(6)?,
        })
    }

    /// A time of the device's own is as right as it will ever be, whatever our clock says.
    fn clock(&self) -> ClockState {
        if self.free && !self.own_time { ClockState::Free } else { ClockState::Sync }
    }

    /// Whether it can share an envelope with `first`: the same clock, not set in between.
    fn fits(&self, first: &Self) -> bool {
        let by_wall = self.time_us - first.time_us;
        let by_mono = i64::try_from(self.mono_us).unwrap_or(i64::MAX)
            - i64::try_from(first.mono_us).unwrap_or(i64::MAX);
        let steady = by_wall.abs_diff(by_mono) <= DRIFT_US;
        self.clock() == first.clock() && (steady || first.clock() == ClockState::Sync)
    }
}

impl Store {
    /// The flows with unconfirmed records, for readers that are configured.
    pub(super) fn waiting(&self) -> rusqlite::Result<Vec<Waiting>> {
        let mut select = self.db.prepare_cached(
            "SELECT lane, reader, device, stream, boot, upto, next - 1 FROM cursor
             JOIN lane ON lane.id = cursor.lane WHERE upto < next - 1 ORDER BY lane, reader",
        )?;
        let rows = select.query_map([], |row| {
            Ok(Waiting {
                key: FlowKey { lane: row.get(0)?, reader: text(row, 1)? },
                lane: Arc::new(Lane { device: text(row, 2)?, stream: text(row, 3)?, boot: text(row, 4)? }),
                upto: row.get(5)?,
                last: row.get(6)?,
            })
        })?;
        rows.collect()
    }

    /// The records of `key` from number `from` up to `to` at most, as many as `limit` allows. From now on
    /// they count as sent. `None` if none of them is left.
    pub(super) fn take(
        &mut self,
        key: &FlowKey,
        lane: &Lane,
        from: u64,
        to: u64,
        limit: BatchLimit,
    ) -> rusqlite::Result<Option<Parcel>> {
        let mut taken: Vec<(u64, String)> = Vec::new();
        let mut first: Option<Stored> = None;
        let mut bytes = 0;
        let mut damaged = Vec::new();
        let Self { db, segments, .. } = self;
        let mut select = db.prepare_cached(
            "SELECT seq, time_us, mono_us, free, own_time, segment, sealed FROM record
             WHERE lane = ? AND seq BETWEEN ? AND ? ORDER BY seq",
        )?;
        let mut rows = select.query(params![key.lane, from, to])?;
        while let Some(row) = rows.next()? {
            let row = Stored::read(row)?;
            if taken.len() >= limit.records || first.as_ref().is_some_and(|first| !row.fits(first)) {
                break;
            }
            let wrapped = || {
                db.prepare_cached("SELECT wrapped FROM segment WHERE id = ?")?
                    .query_row([row.segment], |row| row.get(0))
                    .optional()
            };
            let opened = segments.open(row.segment, wrapped, &format!("{lane}/{}", row.seq), &row.sealed)?;
            let Some(text) = opened.and_then(|bytes| String::from_utf8(bytes).ok()) else {
                damaged.push(row.seq);
                continue;
            };
            bytes += text.len();
            if !taken.is_empty() && bytes > limit.bytes {
                break;
            }
            taken.push((row.seq, text));
            first.get_or_insert(row);
        }
        drop(rows);
        drop(select);
        self.give_up(key.lane, &damaged)?;
        let (Some((first_seq, _)), Some((last, _)), Some(first)) = (taken.first(), taken.last(), first)
        else {
            return Ok(None);
        };
        let (first_seq, last) = (*first_seq, *last);
        self.db
            .prepare_cached("UPDATE cursor SET sent = ?3 WHERE lane = ?1 AND reader = ?2 AND sent < ?3")?
            .execute(params![key.lane, key.reader.as_str(), last])?;
        let fragments: Vec<String> = taken.into_iter().map(|(_, text)| text).collect();
        Ok(Some(Parcel {
            first: first_seq,
            last,
            json: envelope(lane, first.clock(), first.mono_us, &fragments),
        }))
    }

    /// Records that no longer open are lost, and counted.
    fn give_up(&self, lane: LaneId, damaged: &[u64]) -> rusqlite::Result<()> {
        for seq in damaged {
            self.db.execute("DELETE FROM record WHERE lane = ? AND seq = ?", params![lane, seq])?;
        }
        if !damaged.is_empty() {
            tracing::error!(lane, records = damaged.len(), "records in the outbox are damaged and lost");
            self.count("damaged", damaged.len() as u64)?;
        }
        Ok(())
    }

    /// The reader of `key` has everything up to `upto`; what every reader has goes.
    pub(super) fn confirm(&self, key: &FlowKey, upto: u64) -> rusqlite::Result<()> {
        let moved = self
            .db
            .prepare_cached("UPDATE cursor SET upto = ?3, sent = max(sent, ?3) WHERE lane = ?1 AND reader = ?2 AND upto < ?3")?
            .execute(params![key.lane, key.reader.as_str(), upto])?;
        if moved > 0 { self.retire(key.lane) } else { Ok(()) }
    }

    /// Takes a receipt of `reader` for `device` and `stream`. `None` when it is about a boot that is not
    /// ours or gone, from somebody who is no reader of it, or about more than was sent.
    pub(super) fn receipt(
        &self,
        reader: &AtSign,
        device: &str,
        stream: &str,
        receipt: &Receipt,
    ) -> rusqlite::Result<Option<Receipted>> {
        let found: Option<(LaneId, u64, u64)> = self
            .db
            .prepare_cached(
                "SELECT lane.id, upto, sent FROM lane JOIN cursor ON cursor.lane = lane.id
                 WHERE device = ? AND stream = ? AND boot = ? AND reader = ?",
            )?
            .query_row(params![device, stream, receipt.boot().to_string(), reader.as_str()], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let Some((lane, upto, sent)) = found.filter(|(_, _, sent)| receipt.upto() <= *sent) else {
            return Ok(None);
        };
        let mut still_here = self
            .db
            .prepare_cached("SELECT min(seq), max(seq) FROM record WHERE lane = ? AND seq BETWEEN ? AND ?")?;
        let mut missing = Vec::new();
        for (first, last) in receipt.missing() {
            let range = params![lane, (*first).max(upto + 1), last];
            let here: (Option<u64>, Option<u64>) =
                still_here.query_row(range, |row| Ok((row.get(0)?, row.get(1)?)))?;
            if let (Some(first), Some(last)) = here {
                missing.push((first, last));
            }
        }
        let confirmed =
            missing.first().map_or_else(|| receipt.upto(), |(first, _)| first - 1).max(upto).min(sent);
        let key = FlowKey { lane, reader: reader.clone() };
        self.confirm(&key, confirmed)?;
        Ok(Some(Receipted { key, confirmed, upto: receipt.upto(), missing }))
    }

    /// Sets the records from `first` to `last` aside for this reader: its server refused them for good.
    pub(super) fn set_aside(
        &self,
        key: &FlowKey,
        first: u64,
        last: u64,
        reason: &str,
    ) -> rusqlite::Result<usize> {
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO aside
                 SELECT device, stream, boot, seq, ?2, ?5, time_us, segment, sealed
                 FROM record JOIN lane ON lane.id = record.lane WHERE lane = ?1 AND seq BETWEEN ?3 AND ?4",
            )?
            .execute(params![key.lane, key.reader.as_str(), first, last, reason])
    }
}

/// A column as one of the types that check their text.
pub(super) fn text<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
