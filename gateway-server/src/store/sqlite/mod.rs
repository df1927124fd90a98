//! The store in SQLite databases, the shards: for each a thread that writes in groups, for all of them
//! threads that read on snapshots.
//!
//! A tenant lives in one shard, which its atSign decides. What goes from one shard to another is queued
//! like what goes to another server and handed over by its delivery.

mod care;
mod commits;
mod edits;
mod file;
mod hot;
mod layout;
mod moves;
mod notifications;
mod operations;
mod queue;
mod readers;
mod records;
mod schema;
mod signed;
mod sums;
mod tenants;
mod upkeep;
mod visits;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use at_protocol::AtSign;
use rusqlite::{Connection, OptionalExtension};

use super::{Answer, Quota, StoreError, Tenant, Watcher};
pub use care::{BackupError, Checked, Progress, back_up, check, exists};
use file::{Place, ShardFile, Unopened};
use hot::Hot;
use moves::Frozen;
use readers::Readers;
use writer::{Group, Rules, Writer};

/// Threads that read. More would only wait for each other on the few cores that a node has.
const READERS: usize = 2;
/// Bytes of records that a store in memory keeps ready, as one in files does.
const IN_MEMORY: usize = 64 * 1024;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite says so.
    #[error("cannot open the store: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// It was written by a newer program.
    #[error(transparent)]
    Newer(#[from] schema::Newer),
    /// A file cannot be made.
    #[error("cannot make the store: {0}")]
    Unmade(String),
    /// More or fewer shards than there can be.
    #[error("[store] shards is {asked}, it must be 1 to {most}")]
    ShardCount {
        /// What the configuration says.
        asked: usize,
        /// The most.
        most: usize,
    },
    /// The store was made with another number of shards.
    #[error(
        "the store has {found} shards and keeps them, [store] shards says {asked}: leave it out, or make \
         a new store and move the atSigns there by `tenant export` and `tenant import`"
    )]
    Shards {
        /// What the store has.
        found: usize,
        /// What the configuration says.
        asked: usize,
    },
    /// Both a store of one shard and one of several are there.
    #[error("{} is there as well; move away the one that is not in use", other.display())]
    TwoStores {
        /// A shard of the other store.
        other: PathBuf,
    },
    /// A file or a thread could not be had.
    #[error("cannot start the store: {0}")]
    System(#[from] std::io::Error),
}

impl From<Unopened> for OpenError {
    fn from(unopened: Unopened) -> Self {
        match unopened {
            Unopened::Damaged(what) => Self::Unmade(what),
            Unopened::Newer(newer) => Self::Newer(newer),
            Unopened::Sqlite(error) => Self::Sqlite(error),
        }
    }
}

/// A store in its files, or in memory for tests. Dropping it waits until what was accepted is on disk.
pub struct SqliteStore {
    shards: Vec<Shard>,
    /// None in memory, where reads and writes take the same road.
    readers: Option<Readers>,
    threads: Vec<JoinHandle<()>>,
    frozen: Arc<Frozen>,
    /// Ends the look for damage.
    stop: Arc<AtomicBool>,
}

struct Shard {
    file: Arc<ShardFile>,
    hot: Arc<Hot>,
    /// None if it could not be opened, or the store is closing.
    writer: Option<Writer>,
}

impl SqliteStore {
    /// Opens the store at `path`, or makes it with so many shards; so many bytes of records are kept in
    /// memory. A damaged shard is out of service and stops no other.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        path: &Path,
        shards: Option<usize>,
        hot: usize,
        quota: Quota,
        watcher: Arc<dyn Watcher>,
    ) -> Result<Self, OpenError> {
        let files = layout::files(path, shards)?.into_iter().map(Arc::new).collect::<Vec<_>>();
        let (mut shards, mut threads, mut newer) = (Vec::new(), Vec::new(), None);
        let frozen: Arc<Frozen> = Arc::default();
        for file in &files {
            let hot = Arc::new(Hot::new(hot / files.len()));
            let writer = match file.open_writer() {
                Ok(connection) => {
                    let (file, hot) = (Arc::clone(file), Arc::clone(&hot));
                    let rules = Rules { quota, frozen: Arc::clone(&frozen) };
                    let started = Writer::start(file, hot, connection, rules, Arc::clone(&watcher))?;
                    threads.push(started.1);
                    Some(started.0)
                }
                Err(Unopened::Sqlite(error)) if !file::is_damage(&error) => return Err(error.into()),
                Err(unopened) => {
                    file.condemn(&unopened.to_string());
                    if let Unopened::Newer(found) = unopened {
                        newer = Some(found);
                    }
                    None
                }
            };
            shards.push(Shard { file: Arc::clone(file), hot, writer });
        }
        // One shard that says so has flipped bits; all of them do not.
        if let Some(newer) = newer.filter(|_| shards.iter().all(|shard| shard.writer.is_none())) {
            return Err(newer.into());
        }
        let (readers, more) = Readers::start(files, READERS)?;
        threads.extend(more);
        Ok(Self { shards, readers: Some(readers), threads, frozen, stop: Arc::default() })
    }

    /// A store of one shard that lives as long as this value.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn in_memory(quota: Quota, watcher: Arc<dyn Watcher>) -> Result<Self, OpenError> {
        let (connection, file, hot) = memory()?;
        let frozen: Arc<Frozen> = Arc::default();
        let rules = Rules { quota, frozen: Arc::clone(&frozen) };
        let (writer, thread) =
            Writer::start(Arc::clone(&file), Arc::clone(&hot), connection, rules, watcher)?;
        Ok(Self::of_one(Shard { file, hot, writer: Some(writer) }, vec![thread], frozen))
    }

    /// As [`Self::in_memory`], but without a thread: whoever asks does the work, and every answer is there at
    /// once. For simulations.
    ///
    /// # Errors
    /// See [`OpenError`].
    #[doc(hidden)]
    pub fn in_place(quota: Quota, watcher: Arc<dyn Watcher>) -> Result<Self, OpenError> {
        let (connection, file, hot) = memory()?;
        let frozen: Arc<Frozen> = Arc::default();
        let rules = Rules { quota, frozen: Arc::clone(&frozen) };
        let writer = Writer::in_place(Arc::clone(&file), Arc::clone(&hot), connection, rules, watcher);
        Ok(Self::of_one(Shard { file, hot, writer: Some(writer) }, Vec::new(), frozen))
    }

    fn of_one(shard: Shard, threads: Vec<JoinHandle<()>>, frozen: Arc<Frozen>) -> Self {
        Self { shards: vec![shard], readers: None, threads, frozen, stop: Arc::default() }
    }

    /// Looks at all pages in the background, and takes files that are damaged out of service.
    ///
    /// # Errors
    /// A thread cannot be had.
    pub fn look_for_damage(&mut self) -> std::io::Result<()> {
        let files: Vec<_> = self.shards.iter().map(|shard| Arc::clone(&shard.file)).collect();
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::Builder::new().name("store-check".to_owned());
        self.threads.push(thread.spawn(move || care::look_for_damage(&files, &stop))?);
        Ok(())
    }

    fn shard_of(&self, atsign: &AtSign) -> usize {
        layout::shard_of(atsign, self.shards.len())
    }

    /// Writes to a shard; `who` waits in turn with the others.
    fn write_at<T, F>(&self, shard: usize, who: Option<AtSign>, bytes: usize, work: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Group<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        Box::pin(async move {
            let Shard { file, writer, .. } = &self.shards[shard];
            file.sound()?;
            writer.as_ref().ok_or(StoreError::Closed)?.run(who, bytes, work).await
        })
    }

    /// Writes about so many bytes for a tenant.
    fn write<T, F>(&self, tenant: &AtSign, bytes: usize, work: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Group<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.write_at(self.shard_of(tenant), Some(tenant.clone()), bytes, work)
    }

    fn read_at<T, F>(&self, shard: usize, query: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        match &self.readers {
            Some(readers) => Box::pin(readers.run(shard, query)),
            None => self.write_at(shard, None, 0, move |group| query(group.sql)),
        }
    }

    /// A query about one tenant; of one that is not there it knows nothing.
    fn read_of<T, F>(&self, tenant: &AtSign, query: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, i64) -> rusqlite::Result<T> + Send + 'static,
    {
        let shard = self.shard_of(tenant);
        let tenant = tenant.clone();
        self.read_at(shard, move |sql| {
            let mut find = sql.prepare_cached("SELECT id FROM tenant WHERE atsign = ?1")?;
            let id: Option<i64> = find.query_row([tenant.as_str()], |row| row.get(0)).optional()?;
            query(sql, id.unwrap_or(NOBODY))
        })
    }

    /// What all shards that are in service have, one after the other.
    async fn read_all<T: Send + 'static>(
        &self,
        query: fn(&Connection) -> rusqlite::Result<Vec<T>>,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        for shard in self.sound() {
            match self.read_at(shard, query).await {
                Ok(found) => all.extend(found),
                Err(StoreError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The shards that are in service.
    fn sound(&self) -> impl Iterator<Item = usize> {
        (0..self.shards.len()).filter(|shard| self.shards[*shard].file.sound().is_ok())
    }

    /// The shard that knows who is hosted in this one; none of a single one.
    fn neighbour(&self, shard: usize) -> Option<usize> {
        (self.shards.len() > 1).then_some((shard + 1) % self.shards.len())
    }

    /// Has the shard after a tenant's own know of it, if that is in service. It is told of a tenant before it
    /// comes and after it has gone: it may know some who are not hosted, but never too few.
    async fn tell_neighbour<F>(&self, tenant: &AtSign, tell: F) -> Result<(), StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    {
        let Some(neighbour) = self.neighbour(self.shard_of(tenant)) else { return Ok(()) };
        match self.write_at(neighbour, None, 0, |group| tell(group.sql)).await {
            Err(StoreError::Damaged(_)) => Ok(()),
            told => told,
        }
    }

    /// Who is hosted in a shard, from its neighbour's memory if it is out of service.
    async fn tenants_of(&self, shard: usize) -> Result<Vec<Tenant>, StoreError> {
        match self.read_at(shard, |sql| tenants::list(sql, "tenant")).await {
            Err(StoreError::Damaged(_)) => {}
            answered => return answered,
        }
        let Some(neighbour) = self.neighbour(shard) else { return Ok(Vec::new()) };
        let known = self.read_at(neighbour, |sql| tenants::list(sql, "neighbour")).await;
        match known {
            Err(StoreError::Damaged(_)) => Ok(Vec::new()),
            known => known,
        }
    }
}

/// A shard in memory.
fn memory() -> Result<(Connection, Arc<ShardFile>, Arc<Hot>), OpenError> {
    let mut connection = Connection::open_in_memory()?;
    schema::migrate(&mut connection)?;
    let file = ShardFile::new(PathBuf::from(":memory:"), Place { number: 0, shards: 1 });
    Ok((connection, Arc::new(file), Arc::new(Hot::new(IN_MEMORY))))
}

/// The number of no tenant: rows have numbers from 1.
const NOBODY: i64 = 0;

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The channels close before the threads are joined.
        self.shards.clear();
        self.readers = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests;
