//! The one thread that writes, committing in groups.
//!
//! It takes what waits, performs it in one transaction, commits, answers, and begins again when the
//! commit is on disk. There is no timer: under load groups form by themselves while the disk is busy,
//! and without load a write costs one commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use at_protocol::AtSign;

use super::super::{Committed, StoreError, Watcher};

/// Requests that may wait for the thread; who comes later waits for a place. Each connection has at most
/// one on its way.
const WAITING: usize = 1024;
/// Requests in one transaction, so that the first of them does not wait for too many others.
const GROUP: usize = 512;

/// Hands requests to the thread. The thread ends when this is dropped.
pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

/// The transaction that a group shares, and what is to be told when it has been committed.
pub(super) struct Group<'a> {
    pub(super) sql: &'a Transaction<'a>,
    counters: &'a mut Counters,
    committed: &'a mut Vec<Committed>,
}

/// What would cost a query each time.
#[derive(Default)]
struct Counters {
    tenants: HashMap<AtSign, i64>,
    commits: HashMap<i64, i64>,
    moments: HashMap<i64, i64>,
}

trait Job: Send {
    fn perform(&mut self, group: &mut Group<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Request<T, F> {
    work: Option<F>,
    made: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Request<T, F>
where
    T: Send,
    F: FnOnce(&mut Group<'_>) -> rusqlite::Result<T> + Send,
{
    fn perform(&mut self, group: &mut Group<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.made = Some(work(group)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { made, reply, .. } = *self;
        let answer = outcome.and_then(|()| made.ok_or(StoreError::Closed));
        // Who has gone meanwhile does not want to know.
        drop(reply.send(answer));
    }
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        watcher: Arc<dyn Watcher>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let thread = std::thread::Builder::new().name("store-writer".to_owned());
        let thread = thread.spawn(move || write_all(connection, waiting, watcher.as_ref()))?;
        Ok((Self { jobs }, thread))
    }

    /// Performs `work` and gives what it made once that is on disk.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Group<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Request { work: Some(work), made: None, reply });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn write_all(mut connection: Connection, mut waiting: mpsc::Receiver<Box<dyn Job>>, watcher: &dyn Watcher) {
    let mut counters = Counters::default();
    while let Some(first) = waiting.blocking_recv() {
        let mut jobs = vec![first];
        while jobs.len() < GROUP
            && let Ok(job) = waiting.try_recv()
        {
            jobs.push(job);
        }
        let mut committed = Vec::new();
        let outcome = write_group(&mut connection, &mut jobs, &mut counters, &mut committed);
        match &outcome {
            Ok(()) => committed.into_iter().for_each(|what| watcher.committed(what)),
            Err(error) => {
                tracing::error!(%error, requests = jobs.len(), "a group of writes failed");
                counters = Counters::default();
            }
        }
        let outcome = outcome.map_err(|error| StoreError::Failed(error.to_string()));
        for job in jobs {
            job.answer(outcome.clone());
        }
    }
}

fn write_group(
    connection: &mut Connection,
    jobs: &mut [Box<dyn Job>],
    counters: &mut Counters,
    committed: &mut Vec<Committed>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in jobs {
        job.perform(&mut Group { sql: &transaction, counters, committed })?;
    }
    transaction.commit()
}

impl Group<'_> {
    /// Tells the watcher once the group is on disk.
    pub(super) fn announce(&mut self, what: Committed) {
        self.committed.push(what);
    }

    /// The number of a tenant, if it is one of this store's.
    pub(super) fn tenant(&mut self, atsign: &AtSign) -> rusqlite::Result<Option<i64>> {
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

    /// The next commit id of a tenant, which is one more than the last.
    pub(super) fn next_commit(&mut self, tenant: i64) -> rusqlite::Result<i64> {
        let next = match self.counters.commits.get(&tenant) {
            Some(last) => last + 1,
            None => last_commit(self.sql, tenant)? + 1,
        };
        self.counters.commits.insert(tenant, next);
        Ok(next)
    }

    /// A moment for the tenant's next notification: now, but later than that of any before.
    pub(super) fn next_moment(&mut self, tenant: i64, now: i64) -> rusqlite::Result<i64> {
        let last = match self.counters.moments.get(&tenant) {
            Some(last) => *last,
            None => last_moment(self.sql, tenant)?,
        };
        let next = now.max(last + 1);
        self.counters.moments.insert(tenant, next);
        Ok(next)
    }
}

/// The newest commit id of a tenant; -1 before the first.
pub(super) fn last_commit(sql: &Connection, tenant: i64) -> rusqlite::Result<i64> {
    let mut query = sql.prepare_cached("SELECT max(id) FROM commit_log WHERE tenant = ?1")?;
    query.query_row([tenant], |row| row.get::<_, Option<i64>>(0)).map(|id| id.unwrap_or(-1))
}

/// The moment of a tenant's newest notification; 0 before the first.
pub(super) fn last_moment(sql: &Connection, tenant: i64) -> rusqlite::Result<i64> {
    let mut query = sql.prepare_cached("SELECT max(created) FROM notification WHERE tenant = ?1")?;
    query.query_row([tenant], |row| row.get::<_, Option<i64>>(0)).map(Option::unwrap_or_default)
}
