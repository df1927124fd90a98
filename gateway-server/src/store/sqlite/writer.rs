//! The one thread that writes to a shard, committing in groups.
//!
//! It takes what waits, performs it in one transaction, commits, answers, and begins again when the
//! commit is on disk. There is no timer: under load groups form by themselves while the disk is busy,
//! and without load a write costs one commit.
//!
//! A request that fails is undone alone. When the disk fails, the whole group is undone and told so, and
//! before the next one is answered the database is opened anew and must still hold what was acknowledged
//! last: a failed fsync is never taken for done because a second one succeeds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use at_protocol::{AtKey, AtSign, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::super::{Committed, Quota, StoreError, Watcher};
use super::commits::last_given;
use super::file::{ShardFile, Unopened, is_damage, is_of_disk};
use super::hot::{Hot, Name};
use super::moves::Frozen;
use super::queue::Queue;

/// How long the sabotaged build waits between its answer and the COMMIT.
const SABOTAGE: std::time::Duration = std::time::Duration::from_millis(50);

/// How much later a time is than the one on disk before it is kept, in milliseconds: a page once a second
/// costs a busy store nothing, and an idle one does not write at all.
const MARK: i64 = 1000;

/// Has requests performed.
pub(super) enum Writer {
    /// By the thread, which ends when this is dropped.
    Thread(Arc<Queue<Box<dyn Job>>>),
    /// By whoever asks, each by itself: for simulations, in which nothing happens at the same time.
    InPlace(Box<Mutex<Desk>>),
}

/// What all writes are held to.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// What each tenant may store.
    pub(super) quota: Quota,
    /// For whom nothing is written.
    pub(super) frozen: Arc<Frozen>,
}

/// The transaction that a group shares, and what is to be told when it has been committed.
pub(super) struct Group<'a> {
    pub(super) sql: &'a Transaction<'a>,
    /// What each tenant may store.
    pub(super) quota: Quota,
    frozen: &'a Frozen,
    counters: &'a mut Counters,
    committed: &'a mut Vec<Committed>,
    changed: &'a mut Vec<Name>,
}

/// What would cost a query each time.
#[derive(Default)]
struct Counters {
    tenants: HashMap<AtSign, i64>,
    commits: HashMap<i64, i64>,
    moments: HashMap<i64, i64>,
    /// The newest time of any request, in milliseconds since the epoch.
    newest: i64,
    /// The mark of time that is on disk.
    marked: Option<i64>,
}

pub(super) trait Job: Send {
    /// For whom it writes, if it does so for somebody.
    fn tenant(&self) -> Option<&AtSign>;
    fn perform(&mut self, group: &mut Group<'_>) -> rusqlite::Result<()>;
    /// Decides the answer, if none is decided yet.
    fn fail(&mut self, error: StoreError);
    fn answer(&mut self);
}

struct Request<T, F> {
    tenant: Option<AtSign>,
    work: Option<F>,
    made: Option<Result<T, StoreError>>,
    reply: Option<oneshot::Sender<Result<T, StoreError>>>,
}

impl<T, F> Job for Request<T, F>
where
    T: Send,
    F: FnOnce(&mut Group<'_>) -> rusqlite::Result<T> + Send,
{
    fn tenant(&self) -> Option<&AtSign> {
        self.tenant.as_ref()
    }

    fn perform(&mut self, group: &mut Group<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.made = Some(Ok(work(group)?));
        }
        Ok(())
    }

    fn fail(&mut self, error: StoreError) {
        if !matches!(self.made, Some(Err(_))) {
            self.made = Some(Err(error));
        }
    }

    fn answer(&mut self) {
        if let (Some(reply), Some(made)) = (self.reply.take(), self.made.take()) {
            // Who has gone meanwhile does not want to know.
            drop(reply.send(made));
        }
    }
}

impl Writer {
    /// Starts the thread on a connection to `file`.
    pub(super) fn start(
        file: Arc<ShardFile>,
        hot: Arc<Hot>,
        connection: Connection,
        rules: Rules,
        watcher: Arc<dyn Watcher>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let jobs = Arc::new(Queue::new());
        let waiting = Arc::clone(&jobs);
        let thread = std::thread::Builder::new().name("store-writer".to_owned());
        let thread = thread.spawn(move || {
            let mut desk = Desk::new(file, hot, connection, rules, watcher);
            while let Some(jobs) = waiting.take() {
                desk.serve(jobs);
            }
        })?;
        Ok((Self::Thread(jobs), thread))
    }

    /// Works on a connection to `file` without a thread.
    pub(super) fn in_place(
        file: Arc<ShardFile>,
        hot: Arc<Hot>,
        connection: Connection,
        rules: Rules,
        watcher: Arc<dyn Watcher>,
    ) -> Self {
        Self::InPlace(Box::new(Mutex::new(Desk::new(file, hot, connection, rules, watcher))))
    }

    /// Performs `work`, which writes about so many bytes for a tenant, and gives what it made once that is
    /// on disk.
    pub(super) async fn run<T, F>(&self, who: Option<AtSign>, bytes: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Group<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Request { tenant: who.clone(), work: Some(work), made: None, reply: Some(reply) });
        match self {
            Self::Thread(jobs) => jobs.push(who, bytes, job),
            Self::InPlace(desk) => desk.lock().unwrap_or_else(PoisonError::into_inner).serve(vec![job]),
        }
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Self::Thread(jobs) = self {
            jobs.close();
        }
    }
}

/// What the work is done with.
pub(super) struct Desk {
    file: Arc<ShardFile>,
    hot: Arc<Hot>,
    connection: Connection,
    rules: Rules,
    /// Whether the disk has failed under the connection.
    is_suspect: bool,
    /// SQLite's count of changes by others.
    version: i64,
    counters: Counters,
    /// The last commits that were acknowledged: tenants and ids.
    acknowledged: Vec<(i64, i64)>,
    watcher: Arc<dyn Watcher>,
}

impl Desk {
    fn new(
        file: Arc<ShardFile>,
        hot: Arc<Hot>,
        connection: Connection,
        rules: Rules,
        watcher: Arc<dyn Watcher>,
    ) -> Self {
        Self {
            file,
            hot,
            connection,
            rules,
            is_suspect: false,
            version: 0,
            counters: Counters::default(),
            acknowledged: Vec::new(),
            watcher,
        }
    }

    fn serve(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let (mut committed, mut changed) = (Vec::new(), Vec::new());
        let done = match self.file.sound() {
            Ok(()) => self.write(&mut jobs, &mut committed, &mut changed),
            Err(damaged) => Err(damaged),
        };
        // Before anybody is answered, and also what may not have been changed after all.
        self.hot.forget(&changed);
        match done {
            Ok(()) => committed.into_iter().for_each(|what| self.watcher.committed(what)),
            Err(error) => {
                self.counters = Counters::default();
                jobs.iter_mut().for_each(|job| job.fail(error.clone()));
            }
        }
        jobs.iter_mut().for_each(|job| job.answer());
    }

    fn write(
        &mut self,
        jobs: &mut [Box<dyn Job>],
        committed: &mut Vec<Committed>,
        changed: &mut Vec<Name>,
    ) -> Result<(), StoreError> {
        if self.is_suspect {
            self.reopen()?;
        }
        self.write_group(jobs, committed, changed).map_err(|error| {
            tracing::error!(file = %self.file.path().display(), %error, requests = jobs.len(), "a group of writes failed");
            self.is_suspect = is_of_disk(&error);
            self.file.judge(&error)
        })
    }

    fn write_group(
        &mut self,
        jobs: &mut [Box<dyn Job>],
        committed: &mut Vec<Committed>,
        changed: &mut Vec<Name>,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut query = transaction.prepare_cached("PRAGMA data_version")?;
        let version = query.query_row([], |row| row.get(0))?;
        drop(query);
        if self.version != version {
            // Another process has written: tenants may have come or gone.
            self.version = version;
            self.counters = Counters::default();
            self.hot.clear();
        }
        let file = &self.file;
        let alone = jobs.len() == 1;
        for job in jobs.iter_mut() {
            let told = committed.len();
            if job.tenant().is_some_and(|tenant| self.rules.frozen.contains(tenant)) {
                job.fail(StoreError::Moving);
                continue;
            }
            if !alone {
                transaction.prepare_cached("SAVEPOINT request")?.execute([])?;
            }
            let (Rules { quota, frozen }, counters) = (&self.rules, &mut self.counters);
            let sql = &transaction;
            let performed =
                job.perform(&mut Group { sql, quota: *quota, frozen, counters, committed, changed });
            if let Err(error) = performed {
                if alone || transaction.is_autocommit() || is_damage(&error) || is_of_disk(&error) {
                    return Err(error);
                }
                transaction.prepare_cached("ROLLBACK TO request")?.execute([])?;
                committed.truncate(told);
                self.counters = Counters::default();
                tracing::error!(file = %file.path().display(), %error, "a write failed");
                job.fail(StoreError::Failed(error.to_string()));
            }
            if !alone {
                transaction.prepare_cached("RELEASE request")?.execute([])?;
            }
        }
        let (Rules { quota, frozen }, counters) = (&self.rules, &mut self.counters);
        Group { sql: &transaction, quota: *quota, frozen, counters, committed, changed }.mark_time()?;
        if cfg!(feature = "sabotage") {
            // The sabotaged build answers before the COMMIT, and gives a crash time to fall in between.
            jobs.iter_mut().for_each(|job| job.answer());
            std::thread::sleep(SABOTAGE);
        }
        transaction.commit()?;
        let newest = committed.iter().filter_map(|what| match what {
            Committed::Changed { tenant, commit, .. } => Some((*self.counters.tenants.get(tenant)?, *commit)),
            Committed::Received { .. } | Committed::Queued { .. } => None,
        });
        let newest: HashMap<i64, i64> = newest.collect();
        if !newest.is_empty() {
            self.acknowledged = newest.into_iter().collect();
        }
        Ok(())
    }

    /// Opens the database anew after the disk has failed. What was acknowledged last must be there.
    fn reopen(&mut self) -> Result<(), StoreError> {
        let opened = self.file.open_writer().and_then(|connection| {
            for (tenant, commit) in &self.acknowledged {
                if last_given(&connection, *tenant)? < *commit {
                    return Err(Unopened::Damaged("what was acknowledged is gone".to_owned()));
                }
            }
            Ok(connection)
        });
        match opened {
            Ok(connection) => {
                // Only now is the old one closed: as the last one it would take the WAL with it.
                self.connection = connection;
                (self.version, self.is_suspect) = (0, false);
                tracing::info!(file = %self.file.path().display(), "the disk is written to again");
                Ok(())
            }
            Err(Unopened::Sqlite(error)) => Err(self.file.judge(&error)),
            Err(error) => Err(self.file.condemn(&error.to_string())),
        }
    }
}

impl Group<'_> {
    /// Tells the watcher once the group is on disk.
    pub(super) fn announce(&mut self, what: Committed) {
        self.committed.push(what);
    }

    /// Notes when something happened.
    pub(super) fn note_time(&mut self, now: Timestamp) {
        self.counters.newest = self.counters.newest.max(now.as_millis());
    }

    /// Keeps the newest time, once for all that happens within a second.
    fn mark_time(&mut self) -> rusqlite::Result<()> {
        let marked = match self.counters.marked {
            Some(marked) => marked,
            None => last_mark(self.sql)?,
        };
        let newest = self.counters.newest;
        self.counters.marked = Some(if newest - marked < MARK { marked } else { newest });
        if newest - marked >= MARK {
            let mut upsert =
                self.sql.prepare_cached("INSERT OR REPLACE INTO mark (id, time) VALUES (0, ?1)")?;
            upsert.execute([newest])?;
        }
        Ok(())
    }

    /// Notes that a record of a tenant is not what it was.
    pub(super) fn changes(&mut self, tenant: &AtSign, key: &AtKey) {
        self.changed.push(Name::new(tenant, &key.to_string()));
    }

    /// The number of a tenant, if it is one of this store's and not about to leave.
    pub(super) fn tenant(&mut self, atsign: &AtSign) -> rusqlite::Result<Option<i64>> {
        if self.frozen.contains(atsign) { Ok(None) } else { self.any_tenant(atsign) }
    }

    /// The number of a tenant, if it is one of this store's.
    pub(super) fn any_tenant(&mut self, atsign: &AtSign) -> rusqlite::Result<Option<i64>> {
        if let Some(id) = self.counters.tenants.get(atsign) {
            return Ok(Some(*id));
        }
        let mut query = self.sql.prepare_cached("SELECT id FROM tenant WHERE atsign = ?1")?;
        let id = query.query_row([atsign.as_str()], |row| row.get(0)).optional()?;
        if let Some(id) = id {
            self.counters.tenants.insert(atsign.clone(), id);
        }
        Ok(id)
    }

    /// Knows a tenant no more.
    pub(super) fn forget(&mut self, atsign: &AtSign) {
        self.counters.tenants.remove(atsign);
    }

    /// A tenant will have this number, which may have been another's, who was swept.
    pub(super) fn is_new(&mut self, tenant: i64) {
        self.counters.commits.remove(&tenant);
        self.counters.moments.remove(&tenant);
    }

    /// The next commit id of a tenant, which is one more than the last.
    pub(super) fn next_commit(&mut self, tenant: i64) -> rusqlite::Result<i64> {
        let next = match self.counters.commits.get(&tenant) {
            Some(last) => last + 1,
            None => last_given(self.sql, tenant)? + 1,
        };
        self.counters.commits.insert(tenant, next);
        Ok(next)
    }

    /// A moment for the tenant's next notification: now, but later than that of any before.
    pub(super) fn next_moment(&mut self, tenant: i64, now: i64) -> rusqlite::Result<i64> {
        self.note_time(Timestamp::from_millis(now));
        let last = match self.counters.moments.get(&tenant) {
            Some(last) => *last,
            None => last_moment(self.sql, tenant)?,
        };
        let next = now.max(last + 1);
        self.counters.moments.insert(tenant, next);
        Ok(next)
    }

    /// The newest moment of a tenant was not needed.
    pub(super) fn give_back(&mut self, tenant: i64, moment: Timestamp) {
        self.counters.moments.insert(tenant, moment.as_millis() - 1);
    }
}

/// The moment of a tenant's newest notification; 0 before the first.
pub(super) fn last_moment(sql: &Connection, tenant: i64) -> rusqlite::Result<i64> {
    let mut query = sql.prepare_cached(
        "SELECT ifnull(max(created), 0) FROM notification WHERE tenant = ?1 AND (received > 0) = ?2",
    )?;
    let mut newest = |received: bool| query.query_row((tenant, received), |row| row.get::<_, i64>(0));
    Ok(newest(false)?.max(newest(true)?))
}

/// The mark of time; 0 before the first.
fn last_mark(sql: &Connection) -> rusqlite::Result<i64> {
    let mut query = sql.prepare_cached("SELECT time FROM mark")?;
    Ok(query.query_row([], |row| row.get(0)).optional()?.unwrap_or_default())
}

/// A time that nothing in the database is later than.
pub(super) fn newest(sql: &Connection) -> rusqlite::Result<Timestamp> {
    last_mark(sql).map(|mark| Timestamp::from_millis(if mark == 0 { 0 } else { mark + MARK }))
}
