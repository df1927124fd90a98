//! Moving a damaged file away and saving what still reads.
//!
//! A start that is cut short is gone on with by the next, whatever step it was at. The file `outbox.damaged` names
//! where the damaged database goes, and is there until a whole one stands in its place; that is made beside it,
//! and nothing is ever taken in under the other name.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atedge_adapters::{DeviceName, StreamName};
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params_from_iter};
use tracing::{error, warn};

use super::log::beside;
use super::seal::Segments;
use super::store::{LaneId, Store, connect, number, text};
use super::{FILE, OutboxError, OutboxOptions};
use crate::clock::Stamp;
use crate::failpoint::Failpoint;
use crate::payload::Boot;
use crate::seal::Seal;

/// What was saved from a damaged outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Records.
    pub records: u64,
    /// Devices, streams and boots that they belong to.
    pub lanes: u64,
    /// Where the damaged file is now.
    pub moved_to: PathBuf,
    /// Whether the file still told how many starts it has seen.
    pub(super) epoch_known: bool,
}

/// Beside the database: it is damaged. In it, once that is decided, the name that it is moved to.
const MARKER: &str = "outbox.damaged";
/// The new database, until it is whole.
const NEW: &str = "outbox.new";
/// Damaged databases that are kept for whoever wants to look into them.
const PUT_BY: usize = 8;
/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// Leaves word for the next start that the database at `path` is damaged.
pub(super) fn mark(path: &Path) {
    let marker = path.with_file_name(MARKER);
    if let Err(cause) = std::fs::write(&marker, b"") {
        error!(%cause, file = %marker.display(), "cannot leave word that the outbox is damaged");
    }
}

/// Whether the last run left word that the database at `path` is damaged, or was cut short while it saw to that.
pub(super) fn is_due(path: &Path) -> bool {
    let is_done = |target: PathBuf| target.exists() && path.exists();
    path.with_file_name(MARKER).exists() && !target(path).is_some_and(is_done)
}

/// Where the marker says that the database at `path` goes.
fn target(path: &Path) -> Option<PathBuf> {
    let name = std::fs::read_to_string(path.with_file_name(MARKER)).ok()?;
    number_of(&name).map(|_| path.with_file_name(name))
}

/// The number of a file that a damaged database was moved to; `None` for any other name.
fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix("damaged-")?.strip_suffix(".db")?.parse().ok()
}

/// Moves the damaged database of `options` away, and puts a new one in its place, with what still reads. `now`
/// gives it an epoch when the damaged one no longer says its own.
pub(super) fn repair(options: &OutboxOptions, seal: &Arc<Seal>, now: Stamp) -> Result<Salvaged, OutboxError> {
    let (path, new) = (options.folder.join(FILE), options.folder.join(NEW));
    let in_folder = |cause| OutboxError::Folder { path: options.folder.clone(), cause };
    let damaged = quarantine(&path).map_err(in_folder)?;
    Failpoint::Quarantined.pass();
    error!(file = %damaged.display(), "the outbox was damaged and has been moved away");
    for file in family(&new) {
        unless_missing(std::fs::remove_file(file)).map_err(in_folder)?;
    }
    let opened = |cause| OutboxError::Open { path: new.clone(), cause };
    let saved = rebuild(options, seal, &new, &damaged, now).map_err(opened)?;
    Failpoint::Salvaged.pass();
    let replace = || {
        std::fs::rename(&new, &path)?;
        File::open(&options.folder)?.sync_all()?;
        Failpoint::Replaced.pass();
        std::fs::remove_file(path.with_file_name(MARKER))
    };
    replace().map_err(in_folder)?;
    if let Err(cause) = forget_oldest(&path) {
        warn!(%cause, folder = %options.folder.display(), "cannot delete the oldest damaged outbox; delete it by hand");
    }
    Ok(saved)
}

/// Makes the database `new`, with what still reads of `damaged`; all of it in the one file.
fn rebuild(
    options: &OutboxOptions,
    seal: &Arc<Seal>,
    new: &Path,
    damaged: &Path,
    now: Stamp,
) -> rusqlite::Result<Salvaged> {
    let mut db = connect(new, options)?;
    let segments = Segments::new(Arc::clone(seal));
    let saved = salvage(&mut db, damaged, &segments)?;
    // Without the old epoch, the seconds since 1970: no outbox was started that often.
    let at_least = if saved.epoch_known { 0 } else { u64::try_from(now.wall_us / 1_000_000).unwrap_or(0) };
    let mut store = Store::begin(db, options.clone(), segments, at_least)?;
    store.group(Store::count_all_holes)?;
    store.empty_log()?;
    Ok(saved)
}

/// Moves the database at `path`, with its log, to where the marker says, or else to the next `damaged-N.db` beside it.
/// The database itself goes last: when it is there, so is all of it.
fn quarantine(path: &Path) -> io::Result<PathBuf> {
    let target = match target(path).filter(|target| target.exists() != path.exists()) {
        Some(target) => target,
        None => {
            let name =
                format!("damaged-{}.db", put_by(path)?.last().map_or(1, |newest| newest.saturating_add(1)));
            atedge_service::files::write_private(&path.with_file_name(MARKER), name.as_bytes())?;
            path.with_file_name(name)
        }
    };
    Failpoint::DamageNoted.pass();
    for (from, to) in family(path).zip(family(&target)) {
        unless_missing(std::fs::rename(from, to))?;
    }
    Ok(target)
}

/// The numbers of the damaged databases, or of what is left of them, that lie beside `path`.
fn put_by(path: &Path) -> io::Result<BTreeSet<u32>> {
    let folder = path.parent().expect("a file is in a folder");
    let mut numbers = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_str().unwrap_or_default();
        let database = COMPANIONS.iter().find_map(|companion| name.strip_suffix(companion)).unwrap_or(name);
        numbers.extend(number_of(database));
    }
    Ok(numbers)
}

/// Deletes all but the newest that were put by: should a queue be damaged time and again, they would fill the disk.
fn forget_oldest(path: &Path) -> io::Result<()> {
    for number in put_by(path)?.iter().rev().skip(PUT_BY) {
        family(&path.with_file_name(format!("damaged-{number}.db")))
            .try_for_each(|file| unless_missing(std::fs::remove_file(file)))?;
    }
    Ok(())
}

/// A database and what SQLite keeps beside it, which comes first.
fn family(path: &Path) -> impl Iterator<Item = PathBuf> {
    COMPANIONS.into_iter().chain([""]).map(|companion| beside(path, companion))
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Each table with the number of columns in its primary key, which come first; `span` goes by itself.
const TABLES: [(&str, usize); 13] = [
    ("meta", 1),
    ("segment", 1),
    ("lane", 1),
    ("cursor", 2),
    ("gap", 3),
    ("lost", 3),
    ("began", 1),
    ("aside", 5),
    ("delivered", 3),
    ("device_id", 1),
    ("command", 2),
    ("command_floor", 1),
    ("claim", 1),
];

/// Copies what reads and opens from the file `damaged` into `db`, which is new. Only errors of `db` are
/// errors.
fn salvage(db: &mut Connection, damaged: &Path, segments: &Segments) -> rusqlite::Result<Salvaged> {
    let mut saved = Salvaged { moved_to: damaged.to_owned(), ..Salvaged::default() };
    let there = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(old) = Connection::open_with_flags(damaged, there) else { return Ok(saved) };
    let new = db.transaction()?;
    for (table, keys) in TABLES {
        copy(&old, &new, table, &[1, 2, 3, 4, 5][..keys], "")?;
    }
    drop_nonsense(&new)?;
    saved.epoch_known = number(&new, "epoch")?.is_some();
    drop_foreign_segments(&new, segments)?;
    let lanes: Vec<LaneId> =
        new.prepare("SELECT id FROM lane")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let is_whole = copy(&old, &new, "span", &[1], "NOT INDEXED")?;
    for lane in lanes.iter().filter(|_| !is_whole) {
        // The first page that is damaged ends the way through the table from either side: what lies between two of them
        // is found by lane.
        copy(&old, &new, "span", &[2, 4], &format!("INDEXED BY span_of_lane WHERE lane = {lane}"))?;
    }
    new.execute("DELETE FROM span WHERE segment NOT IN (SELECT id FROM segment)", [])?;
    new.execute(NONSENSE[NONSENSE.len() - 1], [])?;
    for lane in lanes {
        let (records, last): (u64, u64) = new.query_row(
            "SELECT ifnull(sum(last - first + 1), 0), ifnull(max(last), 0) FROM span WHERE lane = ?",
            [lane],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        new.execute("UPDATE lane SET next = max(next, ?) WHERE id = ?", [last + 1, lane.unsigned_abs()])?;
        saved.records += records;
        saved.lanes += u64::from(records > 0);
    }
    new.commit()?;
    Ok(saved)
}

/// Copies the rows of `table`, in the order of the columns `keys`, from the first on until one does not read, then from
/// the last back. Columns go by their place: what the damaged file calls them may be damaged, and an older file has
/// fewer of them. Returns whether all of them read.
fn copy(
    old: &Connection,
    new: &Connection,
    table: &str,
    keys: &[usize],
    filter: &str,
) -> rusqlite::Result<bool> {
    let columns = new.prepare(&format!("SELECT * FROM {table}"))?;
    let columns: Vec<&str> = columns.column_names().collect();
    for direction in ["ASC", "DESC"] {
        let order: Vec<String> = keys.iter().map(|key| format!("{key} {direction}")).collect();
        let order = order.join(", ");
        let Ok(mut select) = old.prepare(&format!("SELECT * FROM {table} {filter} ORDER BY {order}")) else {
            return Ok(false);
        };
        let there = select.column_count().min(columns.len());
        let (names, marks) = (columns[..there].join(", "), vec!["?"; there].join(", "));
        let mut insert = new.prepare(&format!("INSERT OR IGNORE INTO {table}({names}) VALUES({marks})"))?;
        let Ok(mut rows) = select.query([]) else { return Ok(false) };
        let whole = loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let values: Result<Vec<Value>, _> = (0..there).map(|column| row.get(column)).collect();
                    if let Ok(values) = values {
                        unless_unfit(insert.execute(params_from_iter(values)))?;
                    }
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if whole {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A row that its table has no place for is not there.
fn unless_unfit(done: rusqlite::Result<usize>) -> rusqlite::Result<()> {
    match done.map_err(|error| (error.sqlite_error_code(), error)) {
        Ok(_) | Err((Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch), _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

/// Rows that read but cannot be what was written: nobody could work with them.
const NONSENSE: [&str; 10] = [
    "DELETE FROM meta WHERE typeof(value) <> 'integer' OR value < 0",
    "DELETE FROM lane WHERE typeof(next) <> 'integer' OR next < 1 OR typeof(thinned) <> 'integer' OR thinned < 0
     OR typeof(free) <> 'integer'",
    "DELETE FROM cursor WHERE lane NOT IN (SELECT id FROM lane) OR typeof(upto) <> 'integer' OR upto < 0
     OR typeof(sent) <> 'integer' OR sent < 0",
    "DELETE FROM gap WHERE lane NOT IN (SELECT id FROM lane) OR typeof(first) <> 'integer' OR first < 1
     OR typeof(last) <> 'integer' OR last < first OR last >= (SELECT next FROM lane WHERE id = gap.lane)",
    "DELETE FROM lost WHERE typeof(records) <> 'integer' OR records < 0",
    "DELETE FROM began WHERE typeof(us) <> 'integer'",
    "DELETE FROM delivered WHERE typeof(packets) <> 'blob'",
    "DELETE FROM segment WHERE typeof(wrapped) <> 'blob'",
    "DELETE FROM aside WHERE typeof(time_us) <> 'integer' OR typeof(segment) <> 'integer'",
    "DELETE FROM span WHERE lane NOT IN (SELECT id FROM lane) OR typeof(first) <> 'integer' OR first < 1
     OR typeof(last) <> 'integer' OR last < first OR typeof(time_us) <> 'integer' OR typeof(mono_us) <> 'integer'
     OR mono_us < 0 OR typeof(free) <> 'integer' OR typeof(sealed) <> 'blob'",
];

fn drop_nonsense(new: &Connection) -> rusqlite::Result<()> {
    let mut select = new.prepare("SELECT id, device, stream, boot FROM lane")?;
    let named = |row: &Row<'_>| {
        text::<DeviceName>(row, 1)?;
        text::<StreamName>(row, 2)?;
        text::<Boot>(row, 3)
    };
    let lanes = select.query_map([], |row| Ok((row.get::<_, LaneId>(0)?, named(row).is_ok())))?;
    for lane in lanes.collect::<Result<Vec<_>, _>>()? {
        if let (id, false) = lane {
            new.execute("DELETE FROM lane WHERE id = ?", [id])?;
        }
    }
    NONSENSE.iter().try_for_each(|delete| new.execute(delete, []).map(drop))
}

/// Keys that another seal key wrapped open nothing.
fn drop_foreign_segments(new: &Connection, segments: &Segments) -> rusqlite::Result<()> {
    let mut select = new.prepare("SELECT id, wrapped FROM segment")?;
    let all: Vec<(i64, Vec<u8>)> =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (id, _) in all.iter().filter(|(id, wrapped)| !segments.is_ours(*id, wrapped)) {
        new.execute("DELETE FROM segment WHERE id = ?", [id])?;
    }
    Ok(())
}
