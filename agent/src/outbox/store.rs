//! The open database: what one thread does to it, in groups that are committed as one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use at_protocol::AtSign;
use atedge_adapters::{DeviceName, StreamName};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, params};

use super::delivered::{Delivered, Repeating};
use super::keep::Spent;
use super::room::Tried;
use super::seal::Segments;
use super::span::Growing;
use super::{Durability, FlowKey, OutboxOptions, schema};
use crate::failpoint::Failpoint;
use crate::payload::{Boot, Lane};

/// The number of a lane in this outbox.
pub type LaneId = i64;

/// Pages of the write-ahead log after which SQLite moves them into the database (4 MiB).
const WAL_PAGES: u32 = 1000;
/// Memory for pages of the database, in KiB. What is written at the end of the lanes and read at their beginning
/// fits; a backlog of any depth costs no more.
const CACHE_KIB: i32 = 512;
/// What the log file is cut back to after that, in bytes.
pub(super) const WAL_KEPT: u32 = 4 << 20;

/// The database, what is cached of it, and what the current group has touched.
pub(super) struct Store {
    pub(super) db: Connection,
    pub(super) options: OutboxOptions,
    pub(super) segments: Segments,
    pub(super) boot: Boot,
    /// Lanes of this boot: their id and the next number.
    open_lanes: HashMap<Arc<Lane>, OpenLane>,
    /// Lanes that got records in this group, with their last number.
    grown: Grown,
    /// What they got that is not written yet.
    pub(super) growing: Growing,
    /// Those that did in the last group that failed.
    ungrown: Grown,
    /// What was delivered in this group.
    pub(super) delivered: Delivered,
    /// What was delivered by whoever repeats something.
    pub(super) repeating: Option<Repeating>,
    /// What may have to go.
    pub(super) spent: Spent,
    /// Whether there is much to do: what need not be done now is then done later, together.
    pub(super) is_busy: bool,
    /// Who has confirmed something since the outbox was last cleared.
    pub(super) confirmed: HashSet<FlowKey>,
    /// When each reader of a stream was last known to have confirmed something, in microseconds since the
    /// start. It counts anew with every start: that gives a silent reader longer, never less.
    pub(super) heard: HashMap<(StreamName, AtSign), u64>,
    /// When the monotonic time of the boot that was last asked for began, if that is known.
    pub(super) began: Option<(Boot, Option<i64>)>,
    /// What was last tried to make room.
    pub(super) tried: Tried,
}

struct OpenLane {
    id: LaneId,
    next: u64,
    free: bool,
}

/// Lanes that have new records: the last number of each.
pub type Grown = BTreeMap<LaneId, (Arc<Lane>, u64)>;

/// Opens the file at `path` and makes it ours: settings, tables of the present version.
pub(super) fn connect(path: &Path, options: &OutboxOptions) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::default();
    let mut db = match &options.vfs {
        Some(vfs) => {
            let db = Connection::open_with_flags_and_vfs(path, flags, vfs.as_str())?;
            // Foreign file systems share no memory between processes; alone, SQLite needs none.
            db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            db
        }
        None => Connection::open_with_flags(path, flags)?,
    };
    let synchronous = match options.durability {
        Durability::Full => "FULL",
        Durability::None => "OFF",
    };
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    // Else each new number in a condition has its statement made anew: SQLite would look whether another plan suits it.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "cell_size_check", true)?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", synchronous)?;
    db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    db.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    #[cfg(feature = "failpoints")]
    db.wal_hook(Some(checkpoint))?;
    db.set_prepared_statement_cache_capacity(64);
    schema::migrate(&mut db)?;
    Ok(db)
}

/// What SQLite does by itself after a commit, where it can be seen.
#[cfg(feature = "failpoints")]
fn checkpoint(log: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int) -> rusqlite::Result<()> {
    if u32::try_from(pages).is_ok_and(|pages| pages >= WAL_PAGES) {
        Failpoint::CheckpointBefore.pass();
        // The next commit tries again.
        log.checkpoint().ok();
        Failpoint::CheckpointAfter.pass();
    }
    Ok(())
}

impl Store {
    /// Begins a boot: the epoch grows, cursors follow the readers that `options` name, commands that the
    /// last run left unfinished stay with its epoch.
    pub(super) fn begin(
        db: Connection,
        options: OutboxOptions,
        segments: Segments,
        at_least: u64,
    ) -> rusqlite::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the kernel gives random bytes");
        let boot = Boot::new(0, u64::from_ne_bytes(random));
        let mut store = Self {
            db,
            options,
            segments,
            boot,
            open_lanes: HashMap::new(),
            grown: Grown::new(),
            growing: Growing::new(),
            ungrown: Grown::new(),
            delivered: Delivered::new(),
            repeating: None,
            spent: Spent::default(),
            is_busy: false,
            confirmed: HashSet::new(),
            heard: HashMap::new(),
            began: None,
            tried: Tried::default(),
        };
        store.group(|store| {
            let epoch = store.number("epoch")?.unwrap_or(0).max(at_least) + 1;
            store.set_number("epoch", epoch)?;
            store.boot = Boot::new(epoch, u64::from_ne_bytes(random));
            store.segment()?;
            store.follow_readers()
        })?;
        Failpoint::EpochKept.pass();
        Ok(store)
    }

    /// What is configured from now on; the place on disk and how it is written stay as they were opened.
    pub(super) fn configure(&mut self, options: OutboxOptions) -> rusqlite::Result<()> {
        let OutboxOptions { folder, seal, durability, vfs, .. } = self.options.clone();
        self.options = OutboxOptions { folder, seal, durability, vfs, ..options };
        self.follow_readers()
    }

    /// Runs `work` in one transaction. After an error nothing of it has happened.
    pub(super) fn group<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let result = work(self).and_then(|value| {
            self.clear_some()?;
            self.keep_growing()?;
            self.keep_numbers()?;
            self.keep_delivered()?;
            Failpoint::CommitBefore.pass();
            self.db.prepare_cached("COMMIT")?.execute([])?;
            Failpoint::CommitAfter.pass();
            Ok(value)
        });
        if result.is_err() {
            // SQLite may have rolled back by itself, as it does when the disk is full.
            if !self.db.is_autocommit() {
                self.db.execute_batch("ROLLBACK").ok();
            }
            self.open_lanes.clear();
            self.ungrown = std::mem::take(&mut self.grown);
            self.growing.clear();
            self.delivered.clear();
            self.repeating = None;
            self.began = None;
            self.segments.forget();
        }
        result
    }

    /// The lanes that grew in the last group; they are told once.
    pub(super) fn take_grown(&mut self) -> Grown {
        std::mem::take(&mut self.grown)
    }

    /// The lanes that would have grown in the last group, which failed.
    pub(super) fn take_ungrown(&mut self) -> Grown {
        std::mem::take(&mut self.ungrown)
    }

    /// Whether the group in which these lanes grew is in the database after all.
    pub(super) fn has(&self, grown: &Grown) -> rusqlite::Result<bool> {
        let Some((lane, (_, last))) = grown.first_key_value() else { return Ok(false) };
        let next: Option<u64> =
            self.db.query_row("SELECT next FROM lane WHERE id = ?", [lane], |row| row.get(0)).optional()?;
        Ok(next == Some(last + 1))
    }

    /// Wraps anew the keys that a former seal key has wrapped, and leaves nothing of how they were.
    pub(super) fn rewrap(&mut self) -> rusqlite::Result<()> {
        self.db.pragma_update(None, "secure_delete", true)?;
        self.group(|store| {
            let mut select = store.db.prepare("SELECT id, wrapped FROM segment")?;
            let all = select.query_map([], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))?;
            for (id, wrapped) in all.collect::<Result<Vec<(i64, _)>, _>>()? {
                if let Some(wrapped) = store.segments.rewrap(id, &wrapped) {
                    store.db.execute("UPDATE segment SET wrapped = ? WHERE id = ?", params![wrapped, id])?;
                }
            }
            Ok(())
        })?;
        self.db.pragma_update(None, "secure_delete", false)?;
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// After the disk failed under a commit, what the page cache says may not be on disk. A new connection
    /// reads the log again, and moving all of it into the database writes and syncs every page anew.
    pub(super) fn reopen(&mut self, path: &Path) -> rusqlite::Result<()> {
        self.open_lanes.clear();
        self.segments.forget();
        let closed = std::mem::replace(&mut self.db, Connection::open_in_memory()?);
        drop(closed);
        self.db = connect(path, &self.options)?;
        self.empty_log()
    }

    /// Moves all of the log into the database, and syncs that.
    pub(super) fn empty_log(&self) -> rusqlite::Result<()> {
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// The next number of a lane of this boot, with the lane; the lane is made when it is new.
    pub(super) fn next_number(
        &mut self,
        device: &DeviceName,
        stream: &StreamName,
    ) -> rusqlite::Result<(LaneId, Arc<Lane>, u64)> {
        let lane = self.lane(device, stream);
        let lane = match self.open_lanes.get_key_value(&lane) {
            Some((lane, _)) => Arc::clone(lane),
            None => {
                let (open, lane) = (self.open_lane(&lane)?, Arc::new(lane));
                self.open_lanes.insert(Arc::clone(&lane), open);
                lane
            }
        };
        let open = self.open_lanes.get_mut(&lane).expect("it was just made");
        let seq = open.next;
        open.next += 1;
        self.grown.insert(open.id, (Arc::clone(&lane), seq));
        Ok((open.id, lane, seq))
    }

    /// A lane of this boot.
    fn lane(&self, device: &DeviceName, stream: &StreamName) -> Lane {
        Lane { device: device.clone(), stream: stream.clone(), boot: self.boot }
    }

    fn open_lane(&self, lane: &Lane) -> rusqlite::Result<OpenLane> {
        let boot = self.boot.to_string();
        let names = params![lane.device.as_str(), lane.stream.as_str(), boot];
        let found = self
            .db
            .prepare_cached("SELECT id, next, free FROM lane WHERE device = ? AND stream = ? AND boot = ?")?
            .query_row(names, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        if let Some((id, next, free)) = found {
            return Ok(OpenLane { id, next, free });
        }
        self.db
            .prepare_cached("INSERT INTO lane(device, stream, boot, next) VALUES(?, ?, ?, 1)")?
            .execute(names)?;
        let id = self.db.last_insert_rowid();
        self.add_cursors(id, &lane.stream)?;
        Ok(OpenLane { id, next: 1, free: false })
    }

    /// Notes that a lane, which is open, has a record whose time is to be set right.
    pub(super) fn note_free(&mut self, device: &DeviceName, stream: &StreamName) -> rusqlite::Result<()> {
        let lane = self.lane(device, stream);
        if let Some(open) = self.open_lanes.get_mut(&lane).filter(|open| !open.free) {
            self.db.prepare_cached("UPDATE lane SET free = 1 WHERE id = ?")?.execute([open.id])?;
            open.free = true;
        }
        Ok(())
    }

    /// Gives lane `id` a cursor for each reader of `stream` that has none, before all that is left in it.
    fn add_cursors(&self, id: LaneId, stream: &StreamName) -> rusqlite::Result<()> {
        let mut insert = self.db.prepare_cached(
            "INSERT OR IGNORE INTO cursor SELECT ?1, ?2, before, before FROM
             (SELECT ifnull((SELECT first FROM span WHERE lane = ?1 ORDER BY last LIMIT 1), next) - 1 AS before
              FROM lane WHERE id = ?1)",
        )?;
        for reader in self.options.streams.get(stream).into_iter().flat_map(|policy| &policy.readers) {
            insert.execute(params![id, reader.as_str()])?;
        }
        Ok(())
    }

    /// A reader that is configured no longer takes its cursors along; a new one gets all that waits. What
    /// belongs to a stream that is not configured stays as it is until its time is up.
    fn follow_readers(&mut self) -> rusqlite::Result<()> {
        self.db.execute("DELETE FROM reader", [])?;
        for (stream, policy) in &self.options.streams {
            for reader in &policy.readers {
                let row = params![stream.as_str(), reader.as_str(), policy.receipts];
                self.db.prepare_cached("INSERT INTO reader VALUES(?, ?, ?)")?.execute(row)?;
            }
        }
        let lanes: Vec<(LaneId, String)> = self
            .db
            .prepare("SELECT id, stream FROM lane")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        for (id, stream) in lanes {
            let Some((stream, policy)) =
                self.options.streams.iter().find(|(name, _)| name.as_str() == stream)
            else {
                continue;
            };
            let mut gone: Vec<String> = self
                .db
                .prepare_cached("SELECT reader FROM cursor WHERE lane = ?")?
                .query_map([id], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            gone.retain(|reader| !policy.readers.iter().any(|kept| kept.as_str() == reader));
            for reader in gone {
                self.db.execute("DELETE FROM cursor WHERE lane = ? AND reader = ?", params![id, reader])?;
                self.db.execute("DELETE FROM gap WHERE lane = ? AND reader = ?", params![id, reader])?;
            }
            let stream = stream.clone();
            self.add_cursors(id, &stream)?;
            self.retire(id);
        }
        Ok(())
    }

    /// Writes down the next numbers of the lanes that grew.
    fn keep_numbers(&self) -> rusqlite::Result<()> {
        let mut update = self.db.prepare_cached("UPDATE lane SET next = ? WHERE id = ?")?;
        for (id, (_, last)) in &self.grown {
            update.execute(params![last + 1, id])?;
        }
        Ok(())
    }

    /// The segment to seal with, a new one if need be.
    pub(super) fn segment(&mut self) -> rusqlite::Result<i64> {
        if let Some(id) = self.segments.current() {
            return Ok(id);
        }
        let id: i64 =
            self.db.query_row("SELECT ifnull(max(id), 0) + 1 FROM segment", [], |row| row.get(0))?;
        let wrapped = self.segments.begin(id);
        self.db.execute("INSERT INTO segment VALUES(?, ?)", params![id, wrapped])?;
        Failpoint::SegmentMade.pass();
        Ok(id)
    }

    /// A number kept under a name.
    pub(super) fn number(&self, name: &str) -> rusqlite::Result<Option<u64>> {
        number(&self.db, name)
    }

    /// Keeps a number under a name.
    pub(super) fn set_number(&self, name: &str, value: u64) -> rusqlite::Result<()> {
        self.db.prepare_cached("INSERT OR REPLACE INTO meta VALUES(?, ?)")?.execute(params![name, value])?;
        Ok(())
    }

    /// Counts `by` more under a name.
    pub(super) fn count(&self, name: &str, by: u64) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO meta VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = value + ?2",
            )?
            .execute(params![name, by])?;
        Ok(())
    }
}

/// A number kept under a name.
pub(super) fn number(db: &Connection, name: &str) -> rusqlite::Result<Option<u64>> {
    db.prepare_cached("SELECT value FROM meta WHERE name = ?")?.query_row([name], |row| row.get(0)).optional()
}

/// Bytes of the database that hold something; pages that were freed are used again.
pub(super) fn used_bytes(db: &Connection) -> rusqlite::Result<u64> {
    let pages = db.prepare_cached("PRAGMA page_count")?.query_row([], |row| row.get::<_, u64>(0))?;
    Ok(pages * page_size(db)? - free_bytes(db)?)
}

/// Bytes of the database that hold nothing: the next records go there.
pub(super) fn free_bytes(db: &Connection) -> rusqlite::Result<u64> {
    let pages = db.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get::<_, u64>(0))?;
    Ok(pages * page_size(db)?)
}

fn page_size(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached("PRAGMA page_size")?.query_row([], |row| row.get(0))
}

/// Moves the log into the database; gives how many of its pages read.
pub(super) fn move_log(db: &Connection) -> rusqlite::Result<u32> {
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))
}

/// That the file is damaged, in a way that SQLite does not see.
pub(super) fn damage(how: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(how.to_owned()),
    )
}

/// Whether the file itself is damaged, as opposed to what happens around it.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    // What contradicts a constraint contradicts what was read of the file before.
    matches!(
        code,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation)
    ) || matches!(
        error,
        rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                // What we ask is right where the tables are.
                | rusqlite::Error::SqlInputError { .. }
    )
}

/// Whether it may go well another time: the disk is full, failed, or cannot be written to for now.
pub(super) fn is_passing(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
        )
    )
}

/// Whether the disk failed, so that what was written may not be there.
pub(super) fn is_disk_failure(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::SystemIoFailure))
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
