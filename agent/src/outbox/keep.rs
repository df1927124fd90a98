//! What goes, when, and how much there is.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::store::{LaneId, Store, number, used_bytes};
use super::{OutboxError, schema};
use crate::clock::Stamp;
use crate::payload::ClockState;

/// Lost because their time was up, by one round of [`Outbox::expire`](super::Outbox::expire).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Records that some reader had not got.
    pub records: u64,
}

/// What the outbox holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// How many starts it has seen.
    pub epoch: u64,
    /// Records waiting.
    pub records: u64,
    /// Bytes in use.
    pub bytes: u64,
    /// Capture time of the oldest record, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
    /// Records set aside because a reader's server refused them.
    pub aside: u64,
    /// Captures that came again and were not kept twice, since the outbox was made.
    pub repeats: u64,
    /// Records lost because their time was up, since the outbox was made.
    pub expired: u64,
    /// Records lost because they no longer opened, since the outbox was made.
    pub damaged: u64,
    /// Per configured stream and reader, what it has not confirmed.
    pub readers: Vec<Backlog>,
}

/// What one reader of one stream has not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// The stream.
    pub stream: String,
    /// The reader's atSign.
    pub reader: String,
    /// Numbers given out that it has not confirmed, over all devices.
    pub unconfirmed: u64,
    /// What confirms records to this reader.
    pub confirmed_by: ConfirmedBy,
}

/// What confirms records to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfirmedBy {
    /// Its receipts.
    Receipt,
    /// That its server has them, or its receipts.
    Delivery,
}

impl Store {
    /// Deletes what all readers of `lane` have, and the lane itself when it is of an earlier boot and
    /// empty. Without readers nothing goes.
    pub(super) fn retire(&self, lane: LaneId) -> rusqlite::Result<()> {
        let confirmed: Option<u64> = self
            .db
            .prepare_cached("SELECT min(upto) FROM cursor WHERE lane = ?")?
            .query_row([lane], |row| row.get(0))?;
        if let Some(upto) = confirmed {
            self.db
                .prepare_cached("DELETE FROM record WHERE lane = ? AND seq <= ?")?
                .execute(params![lane, upto])?;
        }
        self.close_lane(lane)
    }

    /// Forgets a lane of an earlier boot that has no records left.
    fn close_lane(&self, lane: LaneId) -> rusqlite::Result<()> {
        let closed = self
            .db
            .prepare_cached(
                "DELETE FROM lane WHERE id = ?1 AND boot <> ?2
                 AND NOT EXISTS (SELECT 1 FROM record WHERE lane = ?1)",
            )?
            .execute(params![lane, self.boot.to_string()])?;
        if closed > 0 {
            self.db.prepare_cached("DELETE FROM cursor WHERE lane = ?")?.execute([lane])?;
        }
        Ok(())
    }

    /// Deletes records older than their stream's time to live, and segment keys that nothing needs. Only
    /// times that can be believed count: with a free clock, now or at capture, nothing expires.
    pub(super) fn expire(&mut self, now: Stamp) -> rusqlite::Result<Expired> {
        let lanes: Vec<(LaneId, String)> = self
            .db
            .prepare_cached("SELECT id, stream FROM lane")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut expired = Expired::default();
        let mut oldest_segment = self.segment()?;
        for (lane, stream) in lanes {
            if now.state == ClockState::Sync {
                expired.records += self.expire_lane(lane, &stream, now)?;
            }
            let first: Option<i64> = self
                .db
                .prepare_cached("SELECT segment FROM record WHERE lane = ? ORDER BY seq LIMIT 1")?
                .query_row([lane], |row| row.get(0))
                .optional()?;
            oldest_segment = oldest_segment.min(first.unwrap_or(i64::MAX));
            self.close_lane(lane)?;
        }
        if now.state == ClockState::Sync {
            let before = now.wall_us - micros(self.longest_ttl());
            self.db.prepare_cached("DELETE FROM aside WHERE time_us < ?")?.execute([before])?;
        }
        let aside: Option<i64> =
            self.db.prepare_cached("SELECT min(segment) FROM aside")?.query_row([], |row| row.get(0))?;
        oldest_segment = oldest_segment.min(aside.unwrap_or(i64::MAX));
        self.db.prepare_cached("DELETE FROM segment WHERE id < ?")?.execute([oldest_segment])?;
        if expired.records > 0 {
            self.count("expired", expired.records)?;
        }
        Ok(expired)
    }

    /// A lane's records are in the order of their capture: from the first on, all that are too old go.
    fn expire_lane(&self, lane: LaneId, stream: &str, now: Stamp) -> rusqlite::Result<u64> {
        let policy = self.options.streams.iter().find(|(name, _)| name.as_str() == stream);
        let ttl = policy.map_or_else(|| self.longest_ttl(), |(_, policy)| policy.ttl);
        let before = now.wall_us - micros(ttl);
        let kept: Option<i64> = self
            .db
            .prepare_cached(
                "SELECT seq FROM record WHERE lane = ? AND (free OR time_us >= ?) ORDER BY seq LIMIT 1",
            )?
            .query_row(params![lane, before], |row| row.get(0))
            .optional()?;
        let gone = self
            .db
            .prepare_cached("DELETE FROM record WHERE lane = ? AND seq < ?")?
            .execute(params![lane, kept.unwrap_or(i64::MAX)])?;
        Ok(gone as u64)
    }

    fn longest_ttl(&self) -> std::time::Duration {
        let ttls = self.options.streams.values().map(|policy| policy.ttl);
        ttls.max().unwrap_or(super::DEFAULT_TTL)
    }

    /// What the outbox holds.
    pub(super) fn stat(&self) -> rusqlite::Result<Stat> {
        stat(&self.db)
    }
}

fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn stat(db: &Connection) -> rusqlite::Result<Stat> {
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, u64>(0));
    let mut select = db.prepare(
        "SELECT reader.stream, reader.reader, receipts, ifnull(sum(next - 1 - upto), 0) FROM reader
         LEFT JOIN (lane JOIN cursor ON cursor.lane = lane.id)
         ON lane.stream = reader.stream AND cursor.reader = reader.reader
         GROUP BY reader.stream, reader.reader ORDER BY reader.stream, reader.reader",
    )?;
    let readers = select.query_map([], |row| {
        let reader: String = row.get(1)?;
        let receipts: bool = row.get(2)?;
        let confirmed_by = if receipts { ConfirmedBy::Receipt } else { ConfirmedBy::Delivery };
        Ok(Backlog {
            stream: row.get(0)?,
            reader: format!("@{reader}"),
            unconfirmed: row.get(3)?,
            confirmed_by,
        })
    })?;
    Ok(Stat {
        epoch: number(db, "epoch")?.unwrap_or(0),
        records: count("SELECT count(*) FROM record")?,
        bytes: used_bytes(db)?,
        oldest_ms: db.query_row("SELECT min(time_us) / 1000 FROM record", [], |row| row.get(0))?,
        aside: count("SELECT count(*) FROM aside")?,
        repeats: number(db, "repeats")?.unwrap_or(0),
        expired: number(db, "expired")?.unwrap_or(0),
        damaged: number(db, "damaged")?.unwrap_or(0),
        readers: readers.collect::<Result<_, _>>()?,
    })
}

/// Looks into the outbox in `folder` from outside, while its agent may be running.
///
/// # Errors
/// When there is no outbox, or it cannot be read.
pub fn stat_from_outside(folder: &Path) -> Result<Stat, OutboxError> {
    let path = folder.join(super::FILE);
    let read = || {
        let db = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        let version = schema::version(&db)?;
        if version == schema::VERSION { stat(&db).map(Ok) } else { Ok(Err(version)) }
    };
    match read() {
        Ok(Ok(stat)) => Ok(stat),
        Ok(Err(version)) => Err(OutboxError::Version { path, version }),
        Err(cause) => Err(OutboxError::Open { path, cause }),
    }
}
