//! The file of one shard: how it is opened, and whether it can be trusted.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::super::StoreError;
use super::schema;

/// How long a second process (`tenant add`) may hold the database.
const BUSY: Duration = Duration::from_secs(10);
/// Page cache of all connections together, in KiB: more is the file system's.
const CACHE_KIB: usize = 64 * 1024;
/// What a WAL is cut back to after a checkpoint, in bytes.
const WAL_BYTES: i64 = 16 * 1024 * 1024;

/// A shard's database. Once it is found damaged it stays out of service until it is opened anew.
pub(super) struct ShardFile {
    path: PathBuf,
    /// Which of how many.
    place: Place,
    damage: OnceLock<String>,
}

/// Which shard of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: usize,
    pub(super) shards: usize,
}

/// Why a shard is not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unopened {
    /// What it holds cannot be trusted.
    #[error("{0}")]
    Damaged(String),
    /// It was written by a newer program.
    #[error(transparent)]
    Newer(#[from] schema::Newer),
    /// The database says so.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl ShardFile {
    pub(super) fn new(path: PathBuf, place: Place) -> Self {
        Self { path, place, damage: OnceLock::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is anything in the file.
    fn is_there(&self) -> Result<(), Unopened> {
        match std::fs::metadata(&self.path) {
            Ok(found) if found.len() == 0 => Err(Unopened::Damaged("it is empty".to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Unopened::Damaged("it is missing".to_owned()))
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// A connection to a file that is neither missing nor empty, which SQLite would take for a new one.
    pub(super) fn look(&self) -> Result<Connection, Unopened> {
        self.is_there()?;
        Ok(self.open_reader()?)
    }

    /// A connection that writes; the first one brings an older database up to date.
    pub(super) fn open_writer(&self) -> Result<Connection, Unopened> {
        self.is_there()?;
        let mut connection = self.connect()?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An answer promises that the change survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
        schema::migrate(&mut connection)?;
        match schema::place(&connection)? {
            Some(place) if place == self.place => {}
            None if self.place == (Place { number: 0, shards: 1 }) => {
                schema::set_place(&connection, self.place)?;
            }
            Some(Place { number, shards }) => {
                return Err(Unopened::Damaged(format!(
                    "it is shard {number} of {shards}, under a wrong name"
                )));
            }
            None => return Err(Unopened::Damaged("it does not say which shard it is".to_owned())),
        }
        Ok(connection)
    }

    /// A connection that only reads.
    pub(super) fn open_reader(&self) -> rusqlite::Result<Connection> {
        let connection = self.connect()?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(
            &self.path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.busy_timeout(BUSY)?;
        // Else SQLite makes a plan for each new value of a LIMIT, at every query.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        let share = CACHE_KIB / (self.place.shards * (super::READERS + 1));
        connection.pragma_update(None, "cache_size", -i64::try_from(share).unwrap_or(i64::MAX))?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "mmap_size", 0)?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }

    /// What an error means for those who asked. Damage takes the shard out of service, and is logged once.
    pub(super) fn judge(&self, error: &rusqlite::Error) -> StoreError {
        if is_damage(error) {
            return self.condemn(&error.to_string());
        }
        StoreError::Failed(error.to_string())
    }

    /// Takes the shard out of service.
    pub(super) fn condemn(&self, what: &str) -> StoreError {
        if self.damage.set(what.to_owned()).is_ok() {
            tracing::error!(
                file = %self.path.display(),
                what,
                "a shard of the store is damaged: its atSigns are out of service, all others go on; stop the \
                 server, put the file's backup in its place (without any -wal and -shm file) and start again"
            );
        }
        self.sound().err().unwrap_or(StoreError::Closed)
    }

    /// Whether the shard is in service.
    pub(super) fn sound(&self) -> Result<(), StoreError> {
        match self.damage.get() {
            Some(what) => Err(StoreError::Damaged(format!("{}: {what}", self.path.display()))),
            None => Ok(()),
        }
    }
}

/// Whether the file holds what no program has written.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether the disk has failed, so that nothing is known of what a connection believes to be there.
pub(super) fn is_of_disk(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(
            ErrorCode::SystemIoFailure
                | ErrorCode::DiskFull
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory
        )
    )
}
