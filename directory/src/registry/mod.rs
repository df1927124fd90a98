//! What the directory knows: kept in SQLite, answered from memory.

mod database;
mod served;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use at_protocol::AtSign;
use at_protocol::directory::Address;

pub use database::Database;
use database::Entry;
use served::Served;

/// Changes that are taken over at a time, while look-ups wait.
const STEP: usize = 1024;

/// Where each atSign is served.
///
/// Look-ups take from memory. Changes are on disk when the method returns (`synchronous=FULL`) and are
/// answered from then on; changes by another process, such as `atedge-directory add`, are answered after
/// the next [`Registry::refresh`]. Everything but look-ups waits for the disk: asynchronous callers use
/// `spawn_blocking`.
pub struct Registry {
    kept: Mutex<Kept>,
    served: RwLock<Served>,
}

struct Kept {
    database: Database,
    /// The change up to which memory is what the database is.
    seen: i64,
    /// [`Database::version`] at that time.
    version: i64,
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
    #[error("the registry {} has schema {found}; this program knows schema {known}: upgrade it", path.display())]
    Newer {
        /// The database's file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// A row that is no atSign or no address.
    #[error("the registry {} is damaged: {row:?} is served nowhere", path.display())]
    Damaged {
        /// The database's file.
        path: PathBuf,
        /// The row's name.
        row: String,
    },
    /// There are too many names for the memory's form.
    #[error("the registry has too many names: they take more than 4 GiB")]
    TooMany,
}

impl From<served::Full> for RegistryError {
    fn from(_: served::Full) -> Self {
        Self::TooMany
    }
}

impl Registry {
    /// Opens the registry in the folder `state`, or makes it, and reads all of it.
    ///
    /// # Errors
    /// When the folder or the database cannot be used.
    pub fn open(state: &Path) -> Result<Arc<Self>, RegistryError> {
        let database = Database::open(state)?;
        let registry =
            Self { kept: Mutex::new(Kept { database, seen: -1, version: -1 }), served: RwLock::default() };
        registry.refresh()?;
        Ok(Arc::new(registry))
    }

    /// Where `name`, an atSign without `@` in lower case, is served. Never waits for the disk.
    pub fn find(&self, name: &str) -> Option<Address> {
        Some(self.served().find(name)?.address())
    }

    /// Appends the same as text to `out`; `false` if there is nothing to append.
    pub fn write(&self, name: &str, out: &mut Vec<u8>) -> bool {
        let served = self.served();
        let Some(found) = served.find(name) else { return false };
        found.write(out);
        true
    }

    /// How many atSigns are served.
    pub fn len(&self) -> usize {
        self.served().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says from now on that `atsign` is served at `address`. Returns where it was before.
    ///
    /// # Errors
    /// When the database refuses; nothing has changed then.
    pub fn put(&self, atsign: &AtSign, address: &Address) -> Result<Option<Address>, RegistryError> {
        let before = self.change(|database| database.put(&[(atsign.clone(), address.clone())]))?;
        Ok(before.into_iter().next().flatten())
    }

    /// Forgets `atsign`. Returns where it was, or `None` if it was nowhere.
    ///
    /// # Errors
    /// When the database refuses; nothing has changed then.
    pub fn remove(&self, atsign: &AtSign) -> Result<Option<Address>, RegistryError> {
        self.change(|database| database.remove(atsign))
    }

    /// Answers from now on what other processes have committed. Costs next to nothing when they have not,
    /// and no more than what they have changed otherwise.
    ///
    /// # Errors
    /// When the database cannot be read; the old answers then stay.
    pub fn refresh(&self) -> Result<(), RegistryError> {
        let mut kept = self.lock();
        let version = kept.database.version()?;
        if version != kept.version {
            self.catch_up(&mut kept)?;
            kept.version = version;
        }
        Ok(())
    }

    fn change<T>(
        &self,
        perform: impl FnOnce(&mut Database) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut kept = self.lock();
        let result = perform(&mut kept.database)?;
        // Others may have committed in between, which has to be answered first.
        self.catch_up(&mut kept)?;
        Ok(result)
    }

    fn catch_up(&self, kept: &mut Kept) -> Result<(), RegistryError> {
        if kept.seen < kept.database.floor()? {
            return self.read_all(kept);
        }
        loop {
            let mut changes = Vec::new();
            kept.database.changes(kept.seen, STEP, |entry| changes.push(entry))?;
            let Some(last) = changes.last().map(|entry| entry.change) else { return Ok(()) };
            let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
            for Entry { atsign, address, is_signed, .. } in changes {
                match address {
                    Some(address) => served.insert(atsign.as_str(), &address, is_signed)?,
                    None => served.remove(atsign.as_str())?,
                }
            }
            kept.seen = last;
        }
    }

    /// Reads the registry from the beginning, beside what is answered meanwhile.
    fn read_all(&self, kept: &mut Kept) -> Result<(), RegistryError> {
        let mut fresh = Served::default();
        let database = &kept.database;
        kept.seen = database.reading(|| {
            let mut fits = Ok(());
            database.list(|atsign, address, is_signed| {
                fits = fits.and_then(|()| fresh.insert(atsign.as_str(), &address, is_signed));
            })?;
            fits?;
            database.last_change()
        })?;
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn served(&self) -> RwLockReadGuard<'_, Served> {
        self.served.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A panic elsewhere left no half change: the database has transactions, and memory is behind it.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        assert_eq!(registry.find("alice"), Some(second));
        assert_eq!((registry.find("bob"), registry.len()), (None, 1));
    }

    #[test]
    fn what_another_process_commits_is_answered_after_a_refresh() {
        let folder = tempfile::tempdir().unwrap();
        let serving = Registry::open(folder.path()).unwrap();
        let mut tool = Database::open(folder.path()).unwrap();
        let many: Vec<_> =
            (0..3 * STEP).map(|n| (atsign(&format!("a{n}")), address("a.example:1"))).collect();
        tool.put(&many).unwrap();
        assert_eq!(serving.find("a7"), None);
        serving.refresh().unwrap();
        assert_eq!((serving.find("a7"), serving.len()), (Some(address("a.example:1")), many.len()));
        tool.remove(&atsign("@a7")).unwrap();
        serving.refresh().unwrap();
        assert_eq!((serving.find("a7"), serving.len()), (None, many.len() - 1));
    }

    #[test]
    fn a_change_here_brings_in_what_others_changed_before() {
        let folder = tempfile::tempdir().unwrap();
        let serving = Registry::open(folder.path()).unwrap();
        let mut tool = Database::open(folder.path()).unwrap();
        tool.put(&[(atsign("@alice"), address("a.example:1"))]).unwrap();
        serving.put(&atsign("@bob"), &address("b.example:2")).unwrap();
        assert_eq!(serving.find("alice"), Some(address("a.example:1")));
    }
}
