//! The queue in the hands of a person: what is in it, copied out, or taken out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use atedge_adapters::{DeviceName, StreamName};
use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;

use super::open::{lock, open_store};
use super::seal::Segments;
use super::span::Span;
use super::store::{LaneId, text};
use super::{FILE, OutboxError, OutboxOptions, schema};
use crate::clock::Stamp;
use crate::payload::{Batch, Cause, Lane, parse_fragment};
use crate::seal::{Place, Seal};

/// Which records.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Of this stream; of all without.
    pub stream: Option<StreamName>,
    /// Of this device; of all without.
    pub device: Option<DeviceName>,
    /// Captured before, in microseconds since 1970; all without. What goes is what was committed before, so that a
    /// record may stay which was committed with a later one.
    pub before_us: Option<i64>,
}

/// What waits of one device, stream and boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneStat {
    /// The device.
    pub device: String,
    /// The stream.
    pub stream: String,
    /// The boot.
    pub boot: String,
    /// Records.
    pub records: u64,
    /// Records that there ever were: those that readers have, and those that are lost, among them.
    pub captured: u64,
    /// The first of their numbers; absent without records.
    pub first: Option<u64>,
    /// The last.
    pub last: Option<u64>,
    /// When the first was captured, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
    /// Numbers that readers have yet to be told are lost, over all of them.
    pub gaps: u64,
}

/// Connects to the outbox in `folder` to look at it, while its agent may be running.
pub(super) fn look<T>(
    folder: &Path,
    read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, OutboxError> {
    let path = folder.join(FILE);
    let opened = |cause| OutboxError::Open { path: path.clone(), cause };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(&path, flags).map_err(opened)?;
    db.busy_timeout(std::time::Duration::from_secs(5)).map_err(opened)?;
    let version = schema::version(&db).map_err(opened)?;
    if version != schema::VERSION {
        return Err(OutboxError::Version { path, version });
    }
    read(&db).map_err(opened)
}

/// What waits in the outbox in `folder`, by device, stream and boot.
///
/// # Errors
/// When there is no outbox, or it cannot be read.
pub fn list(folder: &Path, which: &Which) -> Result<Vec<LaneStat>, OutboxError> {
    look(folder, |db| {
        let db = &*db.unchecked_transaction()?;
        let mut stats = Vec::new();
        for (id, lane) in lanes(db, which)? {
            let (records, first, last, oldest_ms, captured) = db.query_row(
                "SELECT ifnull(sum(max(last - first + 1, 0)), 0), min(first), max(last), min(time_us) / 1000,
                        (SELECT next - 1 FROM lane WHERE id = ?1) FROM span WHERE lane = ?1",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
            )?;
            let gaps = db.query_row(
                "SELECT ifnull(sum(last - first + 1), 0) FROM gap WHERE lane = ?",
                [id],
                |row| row.get(0),
            )?;
            let Lane { device, stream, boot } = lane;
            let (device, stream, boot) = (device.to_string(), stream.to_string(), boot.to_string());
            stats.push(LaneStat { device, stream, boot, records, captured, first, last, oldest_ms, gaps });
        }
        Ok(stats)
    })
}

/// Opens records of the outbox in `folder` and hands them on, each as a batch of its own. Nothing is taken out.
/// Returns how many did not open.
///
/// # Errors
/// When there is no outbox or no seal key, or it cannot be read.
pub fn export(folder: &Path, which: &Which, mut each: impl FnMut(Batch)) -> Result<u64, OutboxError> {
    let mut segments = Segments::new(Arc::new(Seal::look(Place::of(folder))?));
    look(folder, |db| {
        let mut damaged = 0;
        for (id, lane) in lanes(db, which)? {
            let mut select = db.prepare_cached(Span::SELECT)?;
            let mut rows = select.query(params![id, 0])?;
            while let Some(row) = rows.next()? {
                let span = Span::read(row)?;
                let Some(records) = span.open(db, &mut segments, &lane)? else {
                    damaged += span.len();
                    continue;
                };
                for stored in records {
                    if which.before_us.is_some_and(|before_us| stored.time_us >= before_us) {
                        continue;
                    }
                    let Ok(record) = parse_fragment(&stored.text) else {
                        damaged += 1;
                        continue;
                    };
                    let (clock, mono_us) = (stored.clock(), stored.mono_us);
                    let lane = lane.clone();
                    each(Batch { lane, clock, mono_us, records: vec![record], gaps: Vec::new() });
                }
            }
        }
        Ok(damaged)
    })
}

/// Takes records out of the outbox in `folder`, which no agent has open: lost to all readers, who are told.
/// Returns how many.
///
/// # Errors
/// When an agent has it, there is no outbox, or it cannot be used.
pub fn purge(folder: &Path, which: &Which, now: Stamp) -> Result<u64, OutboxError> {
    let path: PathBuf = folder.join(FILE);
    if !path.exists() {
        let cause = std::io::ErrorKind::NotFound.into();
        return Err(OutboxError::Folder { path, cause });
    }
    let _lock = lock(folder)?;
    let options = OutboxOptions::new(folder, std::collections::BTreeMap::new());
    let (mut store, _) = open_store(options, now)?;
    let purge = store.group(|store| {
        let mut gone = 0;
        for (id, _) in lanes(&store.db, which)? {
            let first = store.first_record(id)?;
            let last: Option<u64> = store.db.query_row(
                "SELECT max(last) FROM span WHERE lane = ? AND time_us < ?",
                params![id, which.before_us.unwrap_or(i64::MAX)],
                |row| row.get(0),
            )?;
            if let (Some(first), Some(last)) = (first, last) {
                gone += store.drop_records(id, first, last, Cause::Purged)?;
                store.retire(id);
            }
        }
        Ok(gone)
    });
    purge.map_err(|cause| OutboxError::Open { path, cause })
}

fn lanes(db: &Connection, which: &Which) -> rusqlite::Result<Vec<(LaneId, Lane)>> {
    let mut select = db.prepare(
        "SELECT id, device, stream, boot FROM lane
         WHERE stream = ifnull(?1, stream) AND device = ifnull(?2, device) ORDER BY id",
    )?;
    let names =
        params![which.stream.as_ref().map(StreamName::as_str), which.device.as_ref().map(DeviceName::as_str)];
    let rows = select.query_map(names, |row| {
        Ok((row.get(0)?, Lane { device: text(row, 1)?, stream: text(row, 2)?, boot: text(row, 3)? }))
    })?;
    rows.collect()
}
