//! The store in one SQLite database: a thread that writes in groups, threads that read on snapshots.

mod notifications;
mod readers;
mod records;
mod schema;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use at_protocol::{AtKey, AtSign, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Answer, Commit, Edit, KeyPage, Notification, Outcome, Record, Refused, Store, StoreError, Taken, Tally,
    Tenant, Watcher, Write,
};
use readers::Readers;
use writer::{Group, Writer};

/// Threads that read. More would only wait for each other on the few cores that a node has.
const READERS: usize = 2;
/// How long a second process (`tenant add`) may hold the database.
const BUSY: Duration = Duration::from_secs(10);
/// Page cache of the writer and of each reader, in KiB.
const CACHE_KIB: i64 = 8 * 1024;
/// What a WAL is cut back to after a checkpoint, in bytes.
const WAL_BYTES: i64 = 16 * 1024 * 1024;
/// How many rows one call of `expire` removes from each table.
const SWEEP: i64 = 500;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite says so.
    #[error("cannot open the store: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// It was written by a newer program.
    #[error("the store has version {version}, this program knows up to {known}; install the newer program")]
    Newer {
        /// What the database says.
        version: i64,
        /// What we know.
        known: usize,
    },
    /// A thread could not be started.
    #[error("cannot start a thread for the store: {0}")]
    Thread(#[from] std::io::Error),
}

/// A store in one file, or in memory for tests. Dropping it waits until what was accepted is on disk.
pub struct SqliteStore {
    // Options, so that the channels close before the threads are joined.
    writer: Option<Writer>,
    readers: Option<Readers>,
    threads: Vec<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens the database in the file, or makes it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, watcher: Arc<dyn Watcher>) -> Result<Self, OpenError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An answer promises that the change survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
        prepare(&connection)?;
        schema::migrate(&mut connection)?;
        let (writer, thread) = Writer::start(connection, watcher)?;
        let snapshots = (0..READERS).map(|_| {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY)?;
            prepare(&connection)?;
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        });
        let (readers, mut threads) = Readers::start(snapshots.collect::<rusqlite::Result<_>>()?)?;
        threads.push(thread);
        Ok(Self { writer: Some(writer), readers: Some(readers), threads })
    }

    /// A store that lives as long as this value: reads and writes take the same road.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn in_memory(watcher: Arc<dyn Watcher>) -> Result<Self, OpenError> {
        let mut connection = Connection::open_in_memory()?;
        schema::migrate(&mut connection)?;
        let (writer, thread) = Writer::start(connection, watcher)?;
        Ok(Self { writer: Some(writer), readers: None, threads: vec![thread] })
    }

    fn write<T, F>(&self, work: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Group<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        Box::pin(async move { self.writer.as_ref().ok_or(StoreError::Closed)?.run(work).await })
    }

    fn read<T, F>(&self, query: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        match &self.readers {
            Some(readers) => Box::pin(readers.run(query)),
            None => self.write(move |group| query(group.sql)),
        }
    }

    /// A query about one tenant; of one that is not there it knows nothing.
    fn read_of<T, F>(&self, tenant: &AtSign, query: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, i64) -> rusqlite::Result<T> + Send + 'static,
    {
        let tenant = tenant.clone();
        self.read(move |sql| {
            let mut find = sql.prepare_cached("SELECT id FROM tenant WHERE atsign = ?1")?;
            let id: Option<i64> = find.query_row([tenant.as_str()], |row| row.get(0)).optional()?;
            query(sql, id.unwrap_or(NOBODY))
        })
    }
}

/// The number of no tenant: rows have numbers from 1.
const NOBODY: i64 = 0;

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.writer = None;
        self.readers = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

impl Store for SqliteStore {
    fn tenants(&self) -> Answer<'_, Vec<Tenant>> {
        self.read(|sql| {
            let mut query = sql.prepare_cached("SELECT atsign, listen FROM tenant ORDER BY id")?;
            let rows: Vec<(String, Option<String>)> = query
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let tenant = |(atsign, listen): (String, Option<String>)| {
                let listen = listen.and_then(|listen| listen.parse().ok());
                atsign.parse().ok().map(|atsign| Tenant { atsign, listen })
            };
            Ok(rows.into_iter().filter_map(tenant).collect())
        })
    }

    fn add_tenant(&self, tenant: Tenant, records: Vec<Edit>, now: Timestamp) -> Answer<'_, bool> {
        self.write(move |group| {
            if group.tenant(&tenant.atsign)?.is_some() {
                return Ok(false);
            }
            let listen = tenant.listen.map(|listen| listen.to_string());
            group.sql.execute(
                "INSERT INTO tenant (atsign, listen, created) VALUES (?1, ?2, ?3)",
                params![tenant.atsign.as_str(), listen, now.as_millis()],
            )?;
            let id = group.sql.last_insert_rowid();
            let made = records::edit(group, (id, &tenant.atsign), &records, now)?;
            debug_assert!(made.is_ok(), "a new tenant has no immutable records");
            Ok(true)
        })
    }

    fn record(&self, tenant: &AtSign, key: &AtKey) -> Answer<'_, Option<Record>> {
        let key = key.to_string();
        self.read_of(tenant, move |sql, tenant| records::get(sql, tenant, &key))
    }

    fn keys(&self, tenant: &AtSign, page: KeyPage) -> Answer<'_, Vec<String>> {
        self.read_of(tenant, move |sql, tenant| records::keys(sql, tenant, &page))
    }

    fn write(&self, tenant: &AtSign, write: Write) -> Answer<'_, Result<Vec<i64>, Refused>> {
        let atsign = tenant.clone();
        self.write(move |group| {
            let Some(tenant) = group.tenant(&atsign)? else { return Ok(Ok(Vec::new())) };
            let made = records::edit(group, (tenant, &atsign), &write.edits, write.now)?;
            if let (Ok(_), Some(notification)) = (&made, write.notification) {
                notifications::send(group, notification, write.now)?;
            }
            Ok(made)
        })
    }

    fn last_commit(&self, tenant: &AtSign) -> Answer<'_, i64> {
        self.read_of(tenant, writer::last_commit)
    }

    fn commits_after(&self, tenant: &AtSign, after: i64, limit: usize) -> Answer<'_, Vec<Commit>> {
        self.read_of(tenant, move |sql, tenant| records::commits_after(sql, tenant, after, limit))
    }

    fn commits_before(&self, tenant: &AtSign, before: i64, limit: usize) -> Answer<'_, Vec<Commit>> {
        self.read_of(tenant, move |sql, tenant| records::commits_before(sql, tenant, before, limit))
    }

    fn send(&self, notification: Notification, now: Timestamp) -> Answer<'_, Taken> {
        self.write(move |group| notifications::send(group, notification, now))
    }

    fn receive(&self, notification: Notification, now: Timestamp) -> Answer<'_, Taken> {
        self.write(move |group| notifications::receive(group, notification, now))
    }

    fn notification(&self, tenant: &AtSign, id: &str) -> Answer<'_, Option<Notification>> {
        let id = id.to_owned();
        self.read_of(tenant, move |sql, tenant| notifications::get(sql, tenant, &id))
    }

    fn remove_notification(&self, tenant: &AtSign, id: &str) -> Answer<'_, ()> {
        let (atsign, id) = (tenant.clone(), id.to_owned());
        self.write(move |group| match group.tenant(&atsign)? {
            Some(tenant) => notifications::remove(group.sql, tenant, &id),
            None => Ok(()),
        })
    }

    fn received_after(
        &self,
        tenant: &AtSign,
        after: i64,
        limit: usize,
        now: Timestamp,
    ) -> Answer<'_, Vec<Notification>> {
        self.read_of(tenant, move |sql, tenant| notifications::received_after(sql, tenant, after, limit, now))
    }

    fn last_notified(&self, tenant: &AtSign) -> Answer<'_, i64> {
        self.read_of(tenant, writer::last_moment)
    }

    fn tallies(&self, tenant: &AtSign) -> Answer<'_, Vec<Tally>> {
        self.read_of(tenant, notifications::tallies)
    }

    fn waiting_pairs(&self) -> Answer<'_, Vec<(AtSign, AtSign)>> {
        self.read(notifications::waiting_pairs)
    }

    fn next_waiting(&self, from: &AtSign, to: &AtSign) -> Answer<'_, Option<Notification>> {
        let to = to.clone();
        self.read_of(from, move |sql, tenant| notifications::next_waiting(sql, tenant, &to))
    }

    fn settle(&self, notification: &Notification, outcome: Outcome) -> Answer<'_, ()> {
        let notification = notification.clone();
        self.write(move |group| match group.tenant(&notification.from)? {
            Some(tenant) => notifications::settle(group.sql, tenant, &notification, outcome),
            None => Ok(()),
        })
    }

    fn hand_over(&self, notification: &Notification, now: Timestamp) -> Answer<'_, ()> {
        let notification = notification.clone();
        self.write(move |group| {
            let Some(tenant) = group.tenant(&notification.from)? else { return Ok(()) };
            notifications::settle(group.sql, tenant, &notification, Outcome::Delivered)?;
            notifications::receive(group, notification, now)?;
            Ok(())
        })
    }

    fn expire(&self, now: Timestamp) -> Answer<'_, usize> {
        self.write(move |group| {
            let records = records::expire(group, now, SWEEP)?;
            Ok(records + notifications::expire(group.sql, now, SWEEP)?)
        })
    }

    fn size(&self) -> Answer<'_, u64> {
        self.read(|sql| {
            let pragma = |name| sql.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            Ok(pragma("page_count")?.saturating_mul(pragma("page_size")?).unsigned_abs())
        })
    }
}

#[cfg(test)]
mod tests;
