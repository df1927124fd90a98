//! How much there is, and for whom.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::OutboxError;
use super::outside::look;
use super::store::{Store, number, used_bytes};

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
    /// Records dropped because the outbox was full, since it was made.
    pub dropped: u64,
    /// Records that one of their window stands for because the outbox was full, since it was made.
    pub thinned: u64,
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
    /// Records that it lost, by cause, since the outbox was made.
    pub lost: BTreeMap<String, u64>,
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
    /// What the outbox holds.
    pub(super) fn stat(&self) -> rusqlite::Result<Stat> {
        stat(&self.db)
    }
}

/// Records of a lane are in the order of their capture.
const OLDEST: &str = "SELECT min(time_us) / 1000 FROM
    (SELECT (SELECT time_us FROM span WHERE lane = lane.id ORDER BY last LIMIT 1) AS time_us FROM lane)";

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
            lost: BTreeMap::new(),
        })
    })?;
    let mut readers = readers.collect::<rusqlite::Result<Vec<Backlog>>>()?;
    let mut select = db.prepare("SELECT cause, records FROM lost WHERE stream = ? AND '@' || reader = ?")?;
    for backlog in &mut readers {
        let lost =
            select.query_map([&backlog.stream, &backlog.reader], |row| Ok((row.get(0)?, row.get(1)?)))?;
        backlog.lost = lost.collect::<Result<_, _>>()?;
    }
    Ok(Stat {
        epoch: number(db, "epoch")?.unwrap_or(0),
        records: count("SELECT ifnull(sum(max(last - first + 1, 0)), 0) FROM span")?,
        bytes: used_bytes(db)?,
        oldest_ms: db.query_row(OLDEST, [], |row| row.get(0))?,
        aside: count("SELECT count(*) FROM aside")?,
        repeats: number(db, "repeats")?.unwrap_or(0),
        expired: number(db, "expired")?.unwrap_or(0),
        damaged: number(db, "damaged")?.unwrap_or(0),
        dropped: number(db, "dropped")?.unwrap_or(0),
        thinned: number(db, "thinned")?.unwrap_or(0),
        readers,
    })
}

/// Looks into the outbox in `folder` from outside, while its agent may be running; with much to do, it may have a few
/// records yet that nobody needs any more.
///
/// # Errors
/// When there is no outbox, or it cannot be read.
pub fn stat_from_outside(folder: &Path) -> Result<Stat, OutboxError> {
    // All of one moment: what was unconfirmed before a commit and the size after it would not go together.
    look(folder, |db| stat(&*db.unchecked_transaction()?))
}
