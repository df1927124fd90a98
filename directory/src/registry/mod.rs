//! What the directory knows: kept in SQLite, answered from memory.

mod changes;
mod database;
mod follow;
mod served;
mod table;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use at_protocol::atsign::MAX_CODE_POINTS;
use at_protocol::directory::{Address, VerifiedRecord};
use at_protocol::{AtSign, Timestamp};
use tokio::sync::watch;

pub use changes::{Put, Registered, Say};
pub use database::Database;
use database::Entry;
pub(crate) use follow::{News, Story, Word};
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
    /// Reads records while something is written.
    reader: Mutex<Database>,
    served: RwLock<Served>,
    /// The last change that is answered.
    changed: watch::Sender<i64>,
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
    /// Another directory says what is known here.
    #[error("this directory follows another one: say it there")]
    Follows,
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
        let (database, reader) = (Database::open(state)?, Database::open(state)?);
        let registry = Self {
            kept: Mutex::new(Kept { database, seen: -1, version: -1 }),
            reader: Mutex::new(reader),
            served: RwLock::default(),
            changed: watch::Sender::new(0),
        };
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

    /// Whether a signed record says where `name` is served; `None` if it is served nowhere.
    pub fn is_signed(&self, name: &str) -> Option<bool> {
        Some(self.served().find(name)?.is_signed)
    }

    /// Says from now on that `atsign` is served at `address`, unless a signed record says otherwise.
    ///
    /// # Errors
    /// When the database refuses; nothing has changed then.
    pub fn put(&self, atsign: &AtSign, address: &Address) -> Result<Put, RegistryError> {
        let say = Say::At(Timestamp::from(std::time::SystemTime::now()));
        let put = self.change(|database| database.put(&[(atsign.clone(), address.clone())], say))?;
        Ok(put.into_iter().next().expect("one result for one entry"))
    }

    /// Takes in signed records, all in one transaction; what became of each.
    ///
    /// # Errors
    /// When the database refuses; nothing has changed then.
    pub fn register(&self, records: &[VerifiedRecord]) -> Result<Vec<Registered>, RegistryError> {
        self.change(|database| database.register(records))
    }

    /// The signed record of an atSign as it came, if there is one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn record(&self, atsign: &AtSign) -> Result<Option<String>, RegistryError> {
        self.reader().record(atsign)
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

    /// Tells of changes.
    pub(crate) fn changed(&self) -> watch::Receiver<i64> {
        self.changed.subscribe()
    }

    /// Where another directory would begin to follow this one.
    pub(crate) fn story(&self) -> Result<Story, RegistryError> {
        self.reader().story()
    }

    /// What has changed after the change `after`, oldest first.
    pub(crate) fn news(&self, after: i64) -> Result<News, RegistryError> {
        self.reader().news(after, STEP)
    }

    /// Whose changes are taken over here, and up to which; none after the first [`Registry::begin`].
    pub(crate) fn followed(&self) -> Result<Option<(String, i64)>, RegistryError> {
        self.reader().followed()
    }

    /// Takes no word but that of another directory from now on; gives the last change before.
    pub(crate) fn begin(&self) -> Result<i64, RegistryError> {
        self.change(Database::begin)
    }

    /// Takes an operator's and nodes' words again.
    pub(crate) fn lead(&self) -> Result<(), RegistryError> {
        self.change(Database::lead)
    }

    /// Takes over what another directory says; with `upto`, all of it up to that change is here then.
    pub(crate) fn take_over(
        &self,
        words: &[Word],
        upto: Option<(&str, i64)>,
        now: Timestamp,
    ) -> Result<(), RegistryError> {
        self.change(|database| database.take_over(words, upto, now))
    }

    /// Forgets all that was not said since the change `before`.
    pub(crate) fn forget_before(&self, before: i64) -> Result<(), RegistryError> {
        while self.change(|database| database.forget_before(before, STEP))? {}
        Ok(())
    }

    fn reader(&self) -> MutexGuard<'_, Database> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
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
        let caught_up = self.read_changes(kept);
        self.changed.send_replace(kept.seen);
        caught_up
    }

    fn read_changes(&self, kept: &mut Kept) -> Result<(), RegistryError> {
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
            database.rows(|name, address, is_signed| {
                if is_plain(name) && fresh.insert_known(name, address, is_signed)? {
                    return Ok(());
                }
                match (name.parse::<AtSign>(), address.parse()) {
                    (Ok(atsign), Ok(address)) if atsign.as_str() == name => {
                        Ok(fresh.insert(name, &address, is_signed)?)
                    }
                    _ => Err(database.damaged(name)),
                }
            })?;
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

/// Whether a name is an atSign at first sight, as most are.
fn is_plain(name: &str) -> bool {
    (1..=MAX_CODE_POINTS).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use at_protocol::crypto::Ed25519Secret;
    use at_protocol::directory::{Grant, Location, Pattern, Registrar, Registrars, SignedRecord};
    use zeroize::Zeroizing;

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
        assert_eq!(registry.put(&atsign("@Alice"), &first).unwrap(), Put::Done { before: None });
        let before = Some(first.clone());
        assert_eq!(registry.put(&atsign("@alice"), &second).unwrap(), Put::Done { before });
        registry.put(&atsign("@bob"), &first).unwrap();
        assert_eq!(registry.find("alice"), Some(second.clone()));
        assert_eq!(registry.remove(&atsign("@bob")).unwrap(), Some(first));
        assert_eq!(registry.remove(&atsign("@bob")).unwrap(), None);
        drop(registry);
        let registry = Registry::open(folder.path()).unwrap();
        assert_eq!(registry.find("alice"), Some(second));
        assert_eq!((registry.find("bob"), registry.len()), (None, 1));
    }

    fn signed(seq: u64, host: &str) -> VerifiedRecord {
        let [registrar, node] = [1, 2].map(|n| Ed25519Secret::from_seed(&Zeroizing::new([n; 32])));
        let all: Vec<Pattern> = vec!["*".parse().unwrap()];
        let grant = Grant::sign(&registrar, node.public(), all.clone(), Timestamp::from_millis(9_000));
        let not_after = Timestamp::from_millis(5_000);
        let at = Location { address: address(host), quic: 1, seq, not_after };
        let record = SignedRecord::sign(&node, atsign("@alice"), at, grant);
        let trusted = Registrars::new(vec![Registrar { key: registrar.public(), atsigns: all }]);
        trusted.verify(record, Timestamp::from_millis(0)).unwrap()
    }

    #[test]
    fn a_record_is_answered_and_its_number_never_falls() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path()).unwrap();
        let register = |seq, host| registry.register(&[signed(seq, host)]).unwrap()[0];
        registry.put(&atsign("@alice"), &address("classic.example:1")).unwrap();
        assert_eq!(registry.is_signed("alice"), Some(false));
        assert_eq!(register(7, "a.example:1"), Registered::New);
        assert_eq!(register(7, "a.example:1"), Registered::Again);
        assert_eq!(register(7, "b.example:1"), Registered::Older { known: 7 });
        assert_eq!(register(6, "b.example:1"), Registered::Older { known: 7 });
        assert_eq!(register(u64::MAX, "b.example:1"), Registered::TooHigh);
        assert_eq!(registry.find("alice"), Some(address("a.example:1")));
        assert_eq!(registry.record(&atsign("@alice")).unwrap(), Some(signed(7, "a.example:1").to_string()));
        assert_eq!((registry.is_signed("alice"), registry.is_signed("bob")), (Some(true), None));
    }

    #[test]
    fn a_record_stands_against_an_operator_until_it_ends_or_is_overruled() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        let serving = Registry::open(folder.path()).unwrap();
        let mut put = |say| {
            database.register(&[signed(7, "a.example:1")]).unwrap();
            database.put(&[(atsign("@alice"), address("b.example:2"))], say).unwrap().remove(0)
        };
        let until = Timestamp::from_millis(5_000);
        assert_eq!(put(Say::At(Timestamp::from_millis(4_999))), Put::Signed { until });
        let before = Some(address("a.example:1"));
        assert_eq!(put(Say::At(until)), Put::Done { before });
        serving.refresh().unwrap();
        assert_eq!(
            (serving.is_signed("alice"), serving.record(&atsign("@alice")).unwrap()),
            (Some(false), None)
        );
        // The old record does not come back by being sent again.
        let old = serving.register(&[signed(7, "a.example:1")]).unwrap();
        assert_eq!(old, [Registered::Older { known: 7 }]);
        serving.register(&[signed(8, "c.example:3")]).unwrap();
        let mut tool = Database::open(folder.path()).unwrap();
        let entry = [(atsign("@alice"), address("d.example:4"))];
        let before = Some(address("c.example:3"));
        assert_eq!(tool.put(&entry, Say::Anyway).unwrap(), [Put::Done { before }]);
        assert_eq!(tool.remove(&atsign("@alice")).unwrap(), Some(address("d.example:4")));
        assert_eq!(tool.register(&[signed(8, "c.example:3")]).unwrap(), [Registered::Older { known: 8 }]);
    }

    #[test]
    fn what_another_process_commits_is_answered_after_a_refresh() {
        let folder = tempfile::tempdir().unwrap();
        let serving = Registry::open(folder.path()).unwrap();
        let mut tool = Database::open(folder.path()).unwrap();
        let many: Vec<_> =
            (0..3 * STEP).map(|n| (atsign(&format!("a{n}")), address("a.example:1"))).collect();
        tool.put(&many, Say::Anyway).unwrap();
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
        tool.put(&[(atsign("@alice"), address("a.example:1"))], Say::Anyway).unwrap();
        serving.put(&atsign("@bob"), &address("b.example:2")).unwrap();
        assert_eq!(serving.find("alice"), Some(address("a.example:1")));
    }
}
