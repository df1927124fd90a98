//! Giving records out, and learning who has them.

use std::sync::Arc;

use at_protocol::AtSign;
use rusqlite::{OptionalExtension as _, params};

use super::gap::MOST_GAPS;
use super::span::{Span, Stored};
use super::store::{LaneId, Store, damage, text};
use super::timefix::signed;
use crate::failpoint::Failpoint;
use crate::payload::{Cause, ClockState, Gap, Lane, Receipt, envelope, retimed};

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
    /// How many records are in it; none if it only tells of gaps.
    pub records: usize,
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

/// Records that follow each other, opened.
struct Taken {
    texts: Vec<String>,
    first: Option<Stored>,
    /// The number of the last.
    last: Option<u64>,
    /// All up to here is in it, or in a gap, or nowhere.
    end: u64,
    /// Numbers, from one to another, of records that do not open, or are gone though nobody let them go.
    damaged: Vec<(u64, u64)>,
}

/// Walks along a lane, in which each number is a record's or in a gap, and finds those that are neither.
struct Walk<'a> {
    gaps: std::iter::Peekable<std::slice::Iter<'a, Gap>>,
    /// The first number that was not come by.
    next: u64,
    /// Numbers, from one to another, of records that are lost.
    lost: Vec<(u64, u64)>,
}

impl Walk<'_> {
    /// Comes to `seq`; whether a gap is there.
    fn comes_to_gap(&mut self, seq: u64) -> bool {
        while let Some(gap) = self.gaps.peek().filter(|gap| gap.first <= seq) {
            let (first, last) = (gap.first, gap.last);
            self.pass(first, last);
            if last >= seq {
                return true;
            }
            self.gaps.next();
        }
        false
    }

    /// Passes what is there.
    fn pass(&mut self, first: u64, last: u64) {
        self.lose_before(first);
        self.next = self.next.max(last + 1);
    }

    fn lose_before(&mut self, seq: u64) {
        self.lost.extend((self.next < seq).then(|| (self.next, seq - 1)));
    }
}

/// Whether `record` can share an envelope with `first`: the same clock, not set in between.
fn fits(record: &Stored, first: &Stored) -> bool {
    let by_wall = record.time_us - first.time_us;
    let by_mono = signed(record.mono_us) - signed(first.mono_us);
    let steady = by_wall.abs_diff(by_mono) <= DRIFT_US;
    record.clock() == first.clock() && (steady || first.clock() == ClockState::Sync)
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

    /// The records and gaps of `key` from number `from` up to `to` at most, as many as `limit` allows. From now
    /// on they count as sent. `None` if none of them is left.
    pub(super) fn take(
        &mut self,
        key: &FlowKey,
        lane: &Lane,
        from: u64,
        to: u64,
        limit: BatchLimit,
    ) -> rusqlite::Result<Option<Parcel>> {
        let upto: u64 = self
            .db
            .prepare_cached("SELECT upto FROM cursor WHERE lane = ? AND reader = ?")?
            .query_row(params![key.lane, key.reader.as_str()], |row| row.get(0))
            .optional()?
            .unwrap_or(to);
        let mut given_up = 0;
        loop {
            let gaps = self.gaps(key.lane, key.reader.as_str(), from, to, MOST_GAPS)?;
            // What lies beyond more gaps than fit waits for its turn.
            let to =
                if gaps.len() == MOST_GAPS { gaps.last().map_or(to, |gap| gap.last.min(to)) } else { to };
            let some = self.open_some(key.lane, lane, (from, to), upto, limit, &gaps)?;
            let (Some((first, _)), Some((_, last))) = (some.damaged.first(), some.damaged.last()) else {
                return self.pack(key, lane, from, some, gaps);
            };
            if *first <= given_up {
                return Err(damage("records come back that were let go"));
            }
            given_up = *last;
            self.give_up(key.lane, &some.damaged)?;
        }
    }

    /// Makes a parcel of `some`, with those of `gaps` that are within.
    fn pack(
        &self,
        key: &FlowKey,
        lane: &Lane,
        from: u64,
        some: Taken,
        gaps: Vec<Gap>,
    ) -> rusqlite::Result<Option<Parcel>> {
        let Taken { texts, first, last, end, .. } = some;
        let within = gaps.into_iter().filter(|gap| gap.first <= end);
        let gaps: Vec<Gap> = within
            .map(|gap| Gap { first: gap.first.max(from), last: gap.last.min(end), cause: gap.cause })
            .collect();
        let firsts = [first.as_ref().map(|row| row.seq), gaps.first().map(|gap| gap.first)];
        let lasts = [last, gaps.last().map(|gap| gap.last)];
        let (Some(first_seq), Some(last)) =
            (firsts.into_iter().flatten().min(), lasts.into_iter().flatten().max())
        else {
            return Ok(None);
        };
        self.db
            .prepare_cached("UPDATE cursor SET sent = ?3 WHERE lane = ?1 AND reader = ?2 AND sent < ?3")?
            .execute(params![key.lane, key.reader.as_str(), last])?;
        Failpoint::SentNoted.pass();
        let (clock, mono_us) = first.map_or((ClockState::Sync, 0), |row| (row.clock(), row.mono_us));
        Ok(Some(Parcel {
            first: first_seq,
            last,
            records: texts.len(),
            json: envelope(lane, clock, mono_us, &texts, &gaps),
        }))
    }

    /// Opens the records of a lane in a range of numbers, but for those in `gaps`, as many as `limit` allows and
    /// one envelope can hold. After `upto` each number is a record's or in a gap.
    fn open_some(
        &mut self,
        id: LaneId,
        lane: &Lane,
        (from, to): (u64, u64),
        upto: u64,
        limit: BatchLimit,
        gaps: &[Gap],
    ) -> rusqlite::Result<Taken> {
        let mut taken = Taken { texts: Vec::new(), first: None, last: None, end: to, damaged: Vec::new() };
        let mut bytes = 0;
        let mut walk = Walk { gaps: gaps.iter().peekable(), next: from.max(upto + 1), lost: Vec::new() };
        let began = self.began(lane.boot)?;
        let Self { db, segments, .. } = self;
        let mut select = db.prepare_cached(Span::SELECT)?;
        let mut rows = select.query(params![id, from])?;
        'spans: while let Some(row) = rows.next()? {
            let span = Span::read(row)?;
            if span.first.min(span.last) > to {
                break;
            }
            // Of what does not open nothing is sure, not even its numbers: those that are then nobody's are lost.
            let Some(records) = span.open(db, segments, lane)? else { continue };
            // Two that overlap are what damage has left: each record goes once.
            let after = taken.last.map_or(from, |last| last + 1);
            for mut record in records.into_iter().skip_while(|record| record.seq < after) {
                if record.seq > to {
                    break 'spans;
                }
                began.into_iter().for_each(|began_us| record.repair(began_us));
                if walk.comes_to_gap(record.seq) {
                    continue;
                }
                let mut text = std::mem::take(&mut record.text);
                if record.is_repaired {
                    text = retimed(&text, record.time_us);
                }
                bytes += text.len();
                let is_full = taken.texts.len() >= limit.records || bytes > limit.bytes;
                if taken.first.as_ref().is_some_and(|first| is_full || !fits(&record, first)) {
                    taken.end = record.seq - 1;
                    break 'spans;
                }
                walk.pass(record.seq, record.seq);
                taken.texts.push(text);
                taken.last = Some(record.seq);
                taken.first.get_or_insert(record);
            }
        }
        if taken.end == to {
            walk.comes_to_gap(to);
            walk.lose_before(to + 1);
        }
        taken.damaged = walk.lost;
        Ok(taken)
    }

    /// Records that no longer open are lost, and counted.
    fn give_up(&self, lane: LaneId, damaged: &[(u64, u64)]) -> rusqlite::Result<()> {
        let mut records = 0;
        for (first, last) in damaged {
            self.drop_records(lane, *first, *last, Cause::Damaged)?;
            records += last - first + 1;
        }
        tracing::error!(lane, records, "records in the outbox are damaged and lost");
        self.count("damaged", records)
    }

    /// The reader of `key` has everything up to `upto`; what every reader has goes.
    pub(super) fn confirm(&mut self, key: &FlowKey, upto: u64) -> rusqlite::Result<()> {
        let moved = self
            .db
            .prepare_cached("UPDATE cursor SET upto = ?3, sent = max(sent, ?3) WHERE lane = ?1 AND reader = ?2 AND upto < ?3")?
            .execute(params![key.lane, key.reader.as_str(), upto])?;
        if moved > 0 {
            Failpoint::CursorMoved.pass();
            self.confirmed.insert(key.clone());
            self.settle_gaps(key.lane, &key.reader, upto)?;
            self.retire(key.lane);
        }
        Ok(())
    }

    /// Takes a receipt of `reader` for `device` and `stream`. `None` when it is about a boot that is not
    /// ours or gone, from somebody who is no reader of it, or about more than was sent.
    pub(super) fn receipt(
        &mut self,
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
        let mut missing = Vec::new();
        for (first, last) in receipt.missing() {
            missing.extend(self.still_owed(lane, reader, (*first).max(upto + 1), *last)?);
        }
        let confirmed =
            missing.first().map_or_else(|| receipt.upto(), |(first, _)| first - 1).max(upto).min(sent);
        let key = FlowKey { lane, reader: reader.clone() };
        self.confirm(&key, confirmed)?;
        Ok(Some(Receipted { key, confirmed, upto: receipt.upto(), missing }))
    }

    /// The first and the last number in a range that a reader can still be sent, as a record or as a gap.
    fn still_owed(
        &self,
        lane: LaneId,
        reader: &AtSign,
        first: u64,
        last: u64,
    ) -> rusqlite::Result<Option<(u64, u64)>> {
        if first > last {
            return Ok(None);
        }
        let from = |number: u64| {
            self.db
                .prepare_cached("SELECT first FROM span WHERE lane = ? AND last >= ? ORDER BY last LIMIT 1")?
                .query_row(params![lane, number], |row| row.get::<_, u64>(0))
                .optional()
        };
        let before: Option<u64> = self
            .db
            .prepare_cached("SELECT max(last) FROM span WHERE lane = ? AND last BETWEEN ? AND ?")?
            .query_row(params![lane, first, last], |row| row.get(0))?;
        let over_the_end = from(last)?.filter(|begins| *begins <= last).map(|_| last);
        let records = (
            from(first)?.filter(|begins| *begins <= last).map(|begins| begins.max(first)),
            over_the_end.or(before),
        );
        let gaps = self.gaps(lane, reader.as_str(), first, last, usize::MAX)?;
        let firsts = [records.0, gaps.first().map(|gap| gap.first.max(first))];
        let lasts = [records.1, gaps.last().map(|gap| gap.last.min(last))];
        Ok(firsts.into_iter().flatten().min().zip(lasts.into_iter().flatten().max()))
    }

    /// Sets the records from `first` to `last` aside for this reader, whose server refused them for good: it is
    /// owed a gap. Returns how many.
    pub(super) fn set_aside(
        &mut self,
        key: &FlowKey,
        first: u64,
        last: u64,
        reason: &str,
    ) -> rusqlite::Result<usize> {
        let reader = key.reader.as_str();
        let lane = self
            .db
            .prepare_cached("SELECT device, stream, boot FROM lane WHERE id = ?")?
            .query_row([key.lane], |row| {
                Ok(Lane { device: text(row, 0)?, stream: text(row, 1)?, boot: text(row, 2)? })
            })?;
        let mut aside = 0;
        for span in self.spans(key.lane, first, last)? {
            let records = self.open_span(&lane, &span)?.unwrap_or_default();
            for record in records.into_iter().filter(|record| (first..=last).contains(&record.seq)) {
                let (segment, sealed) = self.seal(&lane, record.seq, record.text.as_bytes())?;
                let (device, stream, boot) =
                    (lane.device.as_str(), lane.stream.as_str(), lane.boot.to_string());
                aside += self
                    .db
                    .prepare_cached("INSERT OR REPLACE INTO aside VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)")?
                    .execute(params![
                        device,
                        stream,
                        boot,
                        record.seq,
                        reader,
                        reason,
                        record.time_us,
                        segment,
                        sealed
                    ])?;
            }
        }
        self.lose(key.lane, reader, first, last, Cause::Refused)?;
        self.retire(key.lane);
        Ok(aside)
    }

    /// The spans of a lane that have records from `first` to `last`.
    fn spans(&self, lane: LaneId, first: u64, last: u64) -> rusqlite::Result<Vec<Span>> {
        let mut select = self.db.prepare_cached(Span::SELECT)?;
        let rows = select.query_map(params![lane, first], Span::read)?;
        rows.take_while(|span| span.as_ref().map_or(true, |span| span.first <= last)).collect()
    }
}
