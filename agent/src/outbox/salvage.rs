//! Moving a damaged file away and saving what still reads.

use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::seal::Segments;
use super::store::{LaneId, number};

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

/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["", "-wal", "-shm"];

/// Renames the database at `path`, with its log, to the first free `damaged-N.db` beside it.
pub(super) fn quarantine(path: &Path) -> std::io::Result<PathBuf> {
    let names = (1..).map(|n| path.with_file_name(format!("damaged-{n}.db")));
    let target = names.into_iter().find(|target| !target.exists()).expect("there are always more numbers");
    for companion in COMPANIONS {
        let with = |path: &Path| {
            let mut name = path.as_os_str().to_owned();
            name.push(companion);
            PathBuf::from(name)
        };
        match std::fs::rename(with(path), with(&target)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(target)
}

/// Each table with the number of columns in its primary key, which come first; `record` goes by itself.
const TABLES: [(&str, usize); 13] = [
    ("meta", 1),
    ("segment", 1),
    ("lane", 1),
    ("cursor", 2),
    ("gap", 3),
    ("lost", 3),
    ("began", 1),
    ("aside", 5),
    ("delivery", 2),
    ("device_id", 1),
    ("command", 2),
    ("command_floor", 1),
    ("claim", 1),
];

/// Copies what reads and opens from the file `damaged` into `db`, which is new. Only errors of `db` are
/// errors.
pub(super) fn salvage(
    db: &mut Connection,
    damaged: &Path,
    segments: &Segments,
) -> rusqlite::Result<Salvaged> {
    let mut saved = Salvaged { moved_to: damaged.to_owned(), ..Salvaged::default() };
    let Ok(old) = Connection::open(damaged) else { return Ok(saved) };
    let new = db.transaction()?;
    for (table, keys) in TABLES {
        copy(&old, &new, table, keys, "")?;
    }
    saved.epoch_known = number(&new, "epoch")?.is_some();
    drop_foreign_segments(&new, segments)?;
    let lanes: Vec<LaneId> =
        new.prepare("SELECT id FROM lane")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for lane in lanes {
        // One damaged page costs its own lane a few records, and the others none.
        copy(&old, &new, "record", 2, &format!("WHERE lane = {lane}"))?;
        new.execute("DELETE FROM record WHERE lane = ? AND segment NOT IN (SELECT id FROM segment)", [lane])?;
        let (records, last): (u64, u64) = new.query_row(
            "SELECT count(*), ifnull(max(seq), 0) FROM record WHERE lane = ?",
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

/// Copies the rows of `table` from the first on until one does not read, then from the last back.
fn copy(old: &Connection, new: &Connection, table: &str, keys: usize, filter: &str) -> rusqlite::Result<()> {
    for direction in ["ASC", "DESC"] {
        let order: Vec<String> = (1..=keys).map(|key| format!("{key} {direction}")).collect();
        let order = order.join(", ");
        let Ok(mut select) = old.prepare(&format!("SELECT * FROM {table} {filter} ORDER BY {order}")) else {
            return Ok(());
        };
        let columns = select.column_count();
        // An older file has fewer of them.
        let (names, marks) =
            (select.column_names().collect::<Vec<_>>().join(", "), vec!["?"; columns].join(", "));
        let mut insert = new.prepare(&format!("INSERT OR IGNORE INTO {table}({names}) VALUES({marks})"))?;
        let Ok(mut rows) = select.query([]) else { return Ok(()) };
        let whole = loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let values: Result<Vec<Value>, _> = (0..columns).map(|column| row.get(column)).collect();
                    if let Ok(values) = values {
                        insert.execute(params_from_iter(values))?;
                    }
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if whole {
            return Ok(());
        }
    }
    Ok(())
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
