//! What the directory knows: kept in SQLite, answered from memory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::directory::Address;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

/// The database's name in the state folder.
const FILE: &str = "directory.db";
/// What `PRAGMA user_version` says of a database that this version wrote.
const SCHEMA: i64 = 1;

/// Where each atSign is served.
///
/// Look-ups take from a map in memory. Changes are on disk when the method returns (`synchronous=FULL`)
/// and are answered from then on; changes by another process, such as `atedge-directory add`, are
/// answered after the next [`Registry::refresh`]. Everything but [`Registry::find`] waits for the disk:
/// asynchronous callers use `spawn_blocking`.
pub struct Registry {
    path: PathBuf,
    database: Mutex<Database>,
    served: RwLock<HashMap<Box<str>, Address>>,
}

struct Database {
    connection: Connection,
    /// `PRAGMA data_version` when `served` was read: it changes when another connection commits.
    seen: i64,
}

/// Why the registry cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The folder cannot be made.
    #[error("cannot make the folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// SQLite refuses.
    #[error("cannot use the registry {}: {source}", path.display())]
    Database {
        /// The database's file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A newer program wrote it.
    #[error("the registry {} has schema {found}; this program knows schema {SCHEMA}: upgrade it", path.display())]
    Newer {
        /// The database's file.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// A row that is no atSign or no address.
    #[error("the registry {} is damaged: {row:?} is served nowhere", path.display())]
    Damaged {
        /// The database's file.
        path: PathBuf,
        /// The row's name.
        row: String,
    },
}

impl Registry {
    /// Opens the registry in the folder `state`, or makes it.
    ///
    /// # Errors
    /// When the folder or the database cannot be used.
    pub fn open(state: &Path) -> Result<Arc<Self>, RegistryError> {
        std::fs::create_dir_all(state)
            .map_err(|source| RegistryError::Folder { path: state.to_owned(), source })?;
        let path = state.join(FILE);
        let refused = |source| RegistryError::Database { path: path.clone(), source };
        let mut connection = Connection::open(&path).map_err(refused)?;
        let found = prepare(&mut connection).map_err(refused)?;
        if found > SCHEMA {
            return Err(RegistryError::Newer { path, found });
        }
        let database = Mutex::new(Database { connection, seen: -1 });
        let registry = Arc::new(Self { path, database, served: RwLock::default() });
        registry.refresh()?;
        Ok(registry)
    }

    /// Where `name`, an atSign without `@` in lower case, is served. Never waits for the disk.
    pub fn find(&self, name: &str) -> Option<Address> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Says from now on that `atsign` is served at `address`. Returns where it was before.
    ///
    /// # Errors
    /// When the database refuses; nothing has changed then.
    pub fn put(&self, atsign: &AtSign, address: &Address) -> Result<Option<Address>, RegistryError> {
        let database = self.lock();
        database
            .connection
            .execute(
                "INSERT INTO atsign (name, address) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET address = excluded.address",
                params![atsign.as_str(), address.to_string()],
            )
            .map_err(self.refused())?;
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        Ok(served.insert(atsign.as_str().into(), address.clone()))
    }

    /// Forgets `atsign`. Returns where it was, or `None` if it was nowhere.
    ///
    /// # Errors
    /// When the database refuses; nothing has changed then.
    pub fn remove(&self, atsign: &AtSign) -> Result<Option<Address>, RegistryError> {
        let database = self.lock();
        database
            .connection
            .execute("DELETE FROM atsign WHERE name = ?1", [atsign.as_str()])
            .map_err(self.refused())?;
        Ok(self.served.write().unwrap_or_else(PoisonError::into_inner).remove(atsign.as_str()))
    }

    /// Everything that is served, sorted by name.
    ///
    /// # Errors
    /// When the database cannot be read or holds what is no atSign or address.
    pub fn list(&self) -> Result<Vec<(AtSign, Address)>, RegistryError> {
        self.rows(&self.lock())
    }

    /// Answers from now on what other processes have committed. Costs next to nothing when they have
    /// not.
    ///
    /// # Errors
    /// When the database cannot be read; the old answers then stay.
    pub fn refresh(&self) -> Result<(), RegistryError> {
        let mut database = self.lock();
        let version: i64 = database
            .connection
            .query_row("PRAGMA data_version", [], |row| row.get(0))
            .map_err(self.refused())?;
        if version != database.seen {
            let rows = self.rows(&database)?;
            database.seen = version;
            *self.served.write().unwrap_or_else(PoisonError::into_inner) =
                rows.into_iter().map(|(atsign, address)| (atsign.as_str().into(), address)).collect();
        }
        Ok(())
    }

    fn rows(&self, database: &Database) -> Result<Vec<(AtSign, Address)>, RegistryError> {
        let mut statement = database
            .connection
            .prepare_cached("SELECT name, address FROM atsign ORDER BY name")
            .map_err(self.refused())?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
            .map_err(self.refused())?;
        rows.map(|row| {
            let (name, address) = row.map_err(self.refused())?;
            match (name.parse(), address.parse()) {
                (Ok(atsign), Ok(address)) => Ok((atsign, address)),
                _ => Err(RegistryError::Damaged { path: self.path.clone(), row: name }),
            }
        })
        .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Database> {
        // A panic elsewhere left no half change: each is one statement.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> impl Fn(rusqlite::Error) -> RegistryError {
        let path = self.path.clone();
        move |source| RegistryError::Database { path: path.clone(), source }
    }
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
    let found: Option<i64> = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).optional()?;
    let found = found.unwrap_or(0);
    if found < SCHEMA {
        transaction.execute_batch(
            "CREATE TABLE atsign (name TEXT PRIMARY KEY, address TEXT NOT NULL) STRICT, WITHOUT ROWID;",
        )?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
    }
    transaction.commit()?;
    Ok(found.max(SCHEMA))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atsign(name: &str) -> AtSign {
        name.parse().unwrap()
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn changes_are_answered_at_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path()).unwrap();
        let (first, second) = (address("a.example:1"), address("b.example:2"));
        assert_eq!(registry.put(&atsign("@Alice"), &first).unwrap(), None);
        assert_eq!(registry.put(&atsign("@alice"), &second).unwrap(), Some(first.clone()));
        registry.put(&atsign("@bob"), &first).unwrap();
        assert_eq!(registry.find("alice"), Some(second.clone()));
        assert_eq!(registry.remove(&atsign("@bob")).unwrap(), Some(first));
        assert_eq!(registry.remove(&atsign("@bob")).unwrap(), None);
        drop(registry);
        let registry = Registry::open(folder.path()).unwrap();
        assert_eq!(registry.find("alice"), Some(second.clone()));
        assert_eq!(registry.find("bob"), None);
        assert_eq!(registry.list().unwrap(), [(atsign("@alice"), second)]);
    }

    #[test]
    fn what_another_process_commits_is_answered_after_a_refresh() {
        let folder = tempfile::tempdir().unwrap();
        let serving = Registry::open(folder.path()).unwrap();
        let tool = Registry::open(folder.path()).unwrap();
        tool.put(&atsign("@alice"), &address("a.example:1")).unwrap();
        assert_eq!(serving.find("alice"), None);
        serving.refresh().unwrap();
        assert_eq!(serving.find("alice"), Some(address("a.example:1")));
        tool.remove(&atsign("@alice")).unwrap();
        serving.refresh().unwrap();
        assert_eq!(serving.find("alice"), None);
    }

    #[test]
    fn a_newer_schema_and_a_damaged_row_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Registry::open(folder.path()).unwrap());
        let connection = Connection::open(folder.path().join(FILE)).unwrap();
        connection.execute("INSERT INTO atsign VALUES ('alice', 'nowhere')", []).unwrap();
        assert!(matches!(
            Registry::open(folder.path()),
            Err(RegistryError::Damaged { row, .. }) if row == "alice"
        ));
        connection.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
        assert!(matches!(
            Registry::open(folder.path()),
            Err(RegistryError::Newer { found, .. }) if found == SCHEMA + 1
        ));
    }
}
