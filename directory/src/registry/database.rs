//! The registry on disk.
//!
//! Each change of a name has a number of its own, one higher than the last. A name that goes leaves its row
//! behind, without an address, so that whoever keeps a copy (the daemon's memory, another directory) reads
//! what has changed since the number it knows, and nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::directory::Address;
use atedge_service::files;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::RegistryError;

/// The database's name in the state folder.
const FILE: &str = "directory.db";
/// What `PRAGMA user_version` says of a database that this version wrote.
const SCHEMA: i64 = 2;
/// How many changes back a name that has gone is remembered.
const REMEMBERED: i64 = 1 << 20;

const TABLES: &str = "
    CREATE TABLE atsign (
        name TEXT PRIMARY KEY,
        -- None where the name has gone.
        address TEXT,
        changed INTEGER NOT NULL,
        signed INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX atsign_changed ON atsign (changed);
    CREATE INDEX atsign_gone ON atsign (changed) WHERE address IS NULL;
    -- One row in a directory that follows another: whose changes it has, and how many of them.
    CREATE TABLE follows (id TEXT NOT NULL, change INTEGER NOT NULL) STRICT;
    CREATE TABLE record (
        name TEXT PRIMARY KEY,
        -- The highest that there ever was.
        seq INTEGER NOT NULL,
        -- Milliseconds since 1970.
        ends INTEGER NOT NULL,
        -- None where something else was said since.
        text TEXT
    ) STRICT, WITHOUT ROWID;
    -- One row: changes up to `floor` may have been forgotten.
    CREATE TABLE registry (id TEXT NOT NULL, floor INTEGER NOT NULL) STRICT;
    INSERT INTO registry VALUES (hex(randomblob(8)), 0);
";

/// The registry's database. All methods wait for the disk; changes are on it when they return.
pub struct Database {
    path: PathBuf,
    pub(super) connection: Connection,
}

/// A name as it is since its last change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) change: i64,
    pub(super) atsign: AtSign,
    /// `None` where it has gone.
    pub(super) address: Option<Address>,
    pub(super) is_signed: bool,
}

impl Database {
    /// Opens the registry in the folder `state`, or makes it.
    ///
    /// # Errors
    /// When the folder or the database cannot be used.
    pub fn open(state: &Path) -> Result<Self, RegistryError> {
        files::make_private_folder(state)
            .map_err(|source| RegistryError::Folder { path: state.to_owned(), source })?;
        let path = state.join(FILE);
        let refused = |source| RegistryError::Database { path: path.clone(), source };
        let mut connection = Connection::open(&path).map_err(refused)?;
        let found = prepare(&mut connection).map_err(refused)?;
        if found > SCHEMA {
            return Err(RegistryError::Newer { path, found, known: SCHEMA });
        }
        Ok(Self { path, connection })
    }

    /// The signed record of an atSign as it came, if there is one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn record(&self, atsign: &AtSign) -> Result<Option<String>, RegistryError> {
        const TEXT: &str = "SELECT text FROM record WHERE name = ?1";
        let mut statement = self.connection.prepare_cached(TEXT).map_err(self.refused())?;
        let text = statement.query_row([atsign.as_str()], |row| row.get(0)).optional();
        Ok(text.map_err(self.refused())?.flatten())
    }

    /// Hands all that is served to `each`, sorted by name, and whether a signed record says so.
    ///
    /// # Errors
    /// When the database cannot be read or holds what is no atSign or address.
    pub fn list(&self, mut each: impl FnMut(AtSign, Address, bool)) -> Result<(), RegistryError> {
        const ALL: &str =
            "SELECT changed, name, address, signed FROM atsign WHERE address IS NOT NULL ORDER BY name";
        self.entries(ALL, [], |Entry { atsign, address, is_signed, .. }| {
            if let Some(address) = address {
                each(atsign, address, is_signed);
            }
        })
    }

    /// Hands all that is served to `each` as it is written down: the name, the address, and whether it is signed.
    pub(super) fn rows(
        &self,
        mut each: impl FnMut(&str, &str, bool) -> Result<(), RegistryError>,
    ) -> Result<(), RegistryError> {
        const ROWS: &str = "SELECT name, address, signed FROM atsign WHERE address IS NOT NULL";
        let mut statement = self.connection.prepare(ROWS).map_err(self.refused())?;
        let mut rows = statement.query([]).map_err(self.refused())?;
        while let Some(row) = rows.next().map_err(self.refused())? {
            let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
            let (name, address) = (text(0).map_err(self.refused())?, text(1).map_err(self.refused())?);
            each(name, address, row.get(2).map_err(self.refused())?)?;
        }
        Ok(())
    }

    /// Hands to `each` what has changed after the change `after`, oldest first, at most `most`.
    pub(super) fn changes(
        &self,
        after: i64,
        most: usize,
        each: impl FnMut(Entry),
    ) -> Result<(), RegistryError> {
        const NEWER: &str = "SELECT changed, name, address, signed FROM atsign
                             WHERE changed > ?1 ORDER BY changed LIMIT ?2";
        self.entries(NEWER, params![after, most], each)
    }

    /// Hands to `each` what is served and has not changed since the change `upto`, at most `most`.
    pub(super) fn changes_upto(
        &self,
        upto: i64,
        most: usize,
        each: impl FnMut(Entry),
    ) -> Result<(), RegistryError> {
        const OLDER: &str = "SELECT changed, name, address, signed FROM atsign
                             WHERE changed <= ?1 AND address IS NOT NULL ORDER BY changed LIMIT ?2";
        self.entries(OLDER, params![upto, most], each)
    }

    /// The number of the last change.
    pub(super) fn last_change(&self) -> Result<i64, RegistryError> {
        last_change(&self.connection).map_err(self.refused())
    }

    /// Up to which change names that have gone may be forgotten.
    pub(super) fn floor(&self) -> Result<i64, RegistryError> {
        let floor = "SELECT floor FROM registry";
        self.connection.query_row(floor, [], |row| row.get(0)).map_err(self.refused())
    }

    /// What it is called among directories: another registry's changes have other numbers.
    pub(super) fn id(&self) -> Result<String, RegistryError> {
        let id = "SELECT id FROM registry";
        self.connection.query_row(id, [], |row| row.get(0)).map_err(self.refused())
    }

    /// What changes whenever another connection commits.
    pub(super) fn version(&self) -> Result<i64, RegistryError> {
        self.connection.query_row("PRAGMA data_version", [], |row| row.get(0)).map_err(self.refused())
    }

    /// Reads as of one moment.
    pub(super) fn reading<T>(
        &self,
        read: impl FnOnce() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        self.connection.execute_batch("BEGIN").map_err(self.refused())?;
        let result = read();
        // Nothing was changed: there is nothing to lose but the snapshot.
        self.connection.execute_batch("COMMIT").map_err(self.refused())?;
        result
    }

    fn entries(
        &self,
        query: &str,
        parameters: impl rusqlite::Params,
        mut each: impl FnMut(Entry),
    ) -> Result<(), RegistryError> {
        let mut statement = self.connection.prepare_cached(query).map_err(self.refused())?;
        let mut rows = statement.query(parameters).map_err(self.refused())?;
        while let Some(row) = rows.next().map_err(self.refused())? {
            each(self.entry(row)?);
        }
        Ok(())
    }

    fn entry(&self, row: &Row<'_>) -> Result<Entry, RegistryError> {
        let text = |column| row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
        let name = text(1).map_err(self.refused())?.unwrap_or_default();
        let address = text(2).map_err(self.refused())?.map(str::parse).transpose();
        match (name.parse(), address) {
            (Ok(atsign), Ok(address)) => Ok(Entry {
                change: row.get(0).map_err(self.refused())?,
                atsign,
                address,
                is_signed: row.get(3).map_err(self.refused())?,
            }),
            _ => Err(self.damaged(name)),
        }
    }

    pub(super) fn damaged(&self, name: &str) -> RegistryError {
        RegistryError::Damaged { path: self.path.clone(), row: name.to_owned() }
    }

    pub(super) fn change<T>(
        &mut self,
        perform: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, RegistryError> {
        let path = &self.path;
        let refused = |source| RegistryError::Database { path: path.clone(), source };
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(refused)?;
        let result = perform(&transaction).map_err(refused)?;
        transaction.commit().map_err(refused)?;
        Ok(result)
    }

    pub(super) fn refused(&self) -> impl Fn(rusqlite::Error) -> RegistryError {
        let path = self.path.clone();
        move |source| RegistryError::Database { path: path.clone(), source }
    }
}

pub(super) fn last_change(connection: &Connection) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached("SELECT coalesce(max(changed), 0) FROM atsign")?;
    statement.query_row([], |row| row.get(0))
}

/// Sets the connection up and brings the database to this schema. Returns the schema it has, which is
/// newer only if it was left alone.
fn prepare(connection: &mut Connection) -> rusqlite::Result<i64> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;
         PRAGMA mmap_size = 0;
         PRAGMA journal_size_limit = 1048576;",
    )?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found < SCHEMA {
        match found {
            0 => transaction.execute_batch(TABLES)?,
            _ => {
                transaction.execute_batch("ALTER TABLE atsign RENAME TO before")?;
                transaction.execute_batch(TABLES)?;
                transaction.execute_batch(
                    "INSERT INTO atsign
                     SELECT name, address, row_number() OVER (ORDER BY name), 0 FROM before;
                     DROP TABLE before;",
                )?;
            }
        }
        transaction.pragma_update(None, "user_version", SCHEMA)?;
    }
    if found <= SCHEMA {
        forget(&transaction)?;
    }
    transaction.commit()?;
    Ok(found.max(SCHEMA))
}

/// Forgets names that went long ago.
fn forget(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let floor = last_change(transaction)? - REMEMBERED;
    let forgotten =
        transaction.execute("DELETE FROM atsign WHERE address IS NULL AND changed <= ?1", [floor])?;
    if forgotten > 0 {
        transaction.execute("UPDATE registry SET floor = ?1", [floor])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Put, Say};

    fn entry(change: i64, name: &str, address: Option<&str>) -> Entry {
        Entry {
            change,
            atsign: name.parse().unwrap(),
            address: address.map(|text| text.parse().unwrap()),
            is_signed: false,
        }
    }

    fn changes(database: &Database, after: i64) -> Vec<Entry> {
        let mut all = Vec::new();
        database.changes(after, 100, |entry| all.push(entry)).unwrap();
        all
    }

    #[test]
    fn each_change_has_a_number_and_what_went_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        let [a, b] = ["a.example:1", "b.example:2"].map(|text| text.parse::<Address>().unwrap());
        let [alice, bob] = ["@alice", "@bob"].map(|name| name.parse::<AtSign>().unwrap());
        database.put(&[(alice.clone(), a.clone()), (bob.clone(), b.clone())], Say::Anyway).unwrap();
        let before = Some(a);
        assert_eq!(database.put(&[(alice, b.clone())], Say::Anyway).unwrap(), [Put::Done { before }]);
        assert_eq!(database.remove(&bob).unwrap(), Some(b));
        assert_eq!(database.remove(&bob).unwrap(), None);
        let both = [entry(3, "alice", Some("b.example:2")), entry(4, "bob", None)];
        assert_eq!(changes(&database, 0), both);
        assert_eq!(changes(&database, 3), both[1..]);
        assert_eq!(database.last_change().unwrap(), 4);
    }

    #[test]
    fn what_went_long_ago_is_forgotten_and_it_shows() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        let bob: AtSign = "@bob".parse().unwrap();
        database.put(&[(bob.clone(), "b.example:2".parse().unwrap())], Say::Anyway).unwrap();
        database.remove(&bob).unwrap();
        drop(database);
        let database = Database::open(folder.path()).unwrap();
        assert_eq!((database.floor().unwrap(), changes(&database, 0).len()), (0, 1));
        let later = REMEMBERED + 10;
        database.connection.execute("INSERT INTO atsign VALUES ('carol', 'c:1', ?1, 0)", [later]).unwrap();
        drop(database);
        let database = Database::open(folder.path()).unwrap();
        assert_eq!(database.floor().unwrap(), 10);
        assert_eq!(changes(&database, 0), [entry(later, "carol", Some("c:1"))]);
    }

    #[test]
    fn the_first_schema_is_brought_to_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join(FILE)).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE atsign (name TEXT PRIMARY KEY, address TEXT NOT NULL) STRICT, WITHOUT ROWID;
                 INSERT INTO atsign VALUES ('bob', 'b.example:2'), ('alice', 'a.example:1');
                 PRAGMA user_version = 1;",
            )
            .unwrap();
        drop(connection);
        let database = Database::open(folder.path()).unwrap();
        assert_eq!(
            changes(&database, 0),
            [entry(1, "alice", Some("a.example:1")), entry(2, "bob", Some("b.example:2"))]
        );
    }

    #[test]
    fn a_newer_schema_and_a_damaged_row_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).unwrap();
        database.connection.execute("INSERT INTO atsign VALUES ('alice', 'nowhere', 1, 0)", []).unwrap();
        assert!(matches!(
            database.list(|_, _, _| {}),
            Err(RegistryError::Damaged { row, .. }) if row == "alice"
        ));
        database.connection.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
        assert!(matches!(
            Database::open(folder.path()),
            Err(RegistryError::Newer { found, .. }) if found == SCHEMA + 1
        ));
    }
}
