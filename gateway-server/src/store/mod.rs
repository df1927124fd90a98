//! What a node remembers of its tenants, behind one trait: exactly the operations that verbs, deliveries
//! and upkeep need, each of them one transaction.
//!
//! A write is answered when it is on disk and not before. What has been committed is told to a
//! [`Watcher`] in the order of the commits, which is what monitors live on.

mod commit;
mod moves;
mod notification;
mod record;
mod sqlite;
mod visit;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use at_protocol::directory::SignedRecord;
use at_protocol::verb::Operation;
use at_protocol::{AtKey, AtSign, Metadata, Timestamp};

use serde::{Deserialize, Serialize};

pub use commit::{Change, Commit};
pub use moves::{Arrival, Departure};
#[cfg(test)]
pub(crate) use notification::tests;
pub use notification::{Kind, Notification, Status, is_unique};
pub use record::Record;
pub use sqlite::{BackupError, Checked, OpenError, Progress, SqliteStore, back_up, check, exists};
pub use visit::{Visit, Visits};

/// What a store's operation comes to, some time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It was closed.
    #[error("the store is closed")]
    Closed,
    /// The database failed; nothing of the operation is kept.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The tenant moves to another node: nothing is written for it here.
    #[error("this atSign is moving to another node")]
    Moving,
    /// What keeps this tenant's data is damaged and out of service; other tenants may be served.
    #[error("out of service, because it is damaged: {0}")]
    Damaged(String),
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The record was written as immutable.
    #[error("{0} is immutable and cannot be updated or deleted")]
    Immutable(AtKey),
    /// The tenant would have too many records.
    #[error("this atSign may have {most} keys; delete some first")]
    Keys {
        /// Its quota.
        most: u64,
    },
    /// The tenant's records would be too large.
    #[error("this atSign may store {most} bytes; delete something first")]
    Bytes {
        /// Its quota.
        most: u64,
    },
    /// There is no such record.
    #[error("{0} does not exist in keystore")]
    Missing(AtKey),
}

/// What a tenant may store in its records, those of others that it caches included; 0 is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Most keys.
    pub keys: u64,
    /// Most bytes of keys and values.
    pub bytes: u64,
}

/// What a tenant has stored in its records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// Something of a tenant as the store keeps it, for moving a tenant from one store to another. It may hold
/// a secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The table.
    pub table: String,
    /// Its columns.
    pub columns: serde_json::Map<String, serde_json::Value>,
}

/// Takes a tenant's rows; `false` stops.
pub type TakeRow = Box<dyn FnMut(Row) -> bool + Send>;
/// Gives a tenant's rows, or says why that cannot go on.
pub type Rows = Box<dyn Iterator<Item = Result<Row, String>> + Send>;

/// An atSign that a node hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Who.
    pub atsign: AtSign,
    /// The address that is this tenant's alone.
    pub listen: Option<SocketAddr>,
}

/// One change to one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Writes a record. Metadata goes over what the record had, as an `update` says it.
    Update {
        /// Which record.
        key: AtKey,
        /// Its value.
        value: String,
        /// What is said about it.
        metadata: Metadata,
    },
    /// Writes a record as if it had not been there: a copy of somebody else's.
    Replace {
        /// Which record.
        key: AtKey,
        /// Its value.
        value: String,
        /// All that is said about it.
        metadata: Metadata,
    },
    /// Changes what is said about a record and leaves its value.
    Describe {
        /// Which record. It must be there.
        key: AtKey,
        /// What is said about it.
        metadata: Metadata,
    },
    /// Gives a record another key; nothing where there is none.
    Rename {
        /// What it was called.
        from: AtKey,
        /// What it is called now.
        to: AtKey,
    },
    /// Removes a record; that it was not there is no error.
    Delete {
        /// Which record.
        key: AtKey,
    },
    /// A change, but not as usual.
    But(How, Box<Edit>),
}

impl Edit {
    /// The change itself, however it is made.
    #[must_use]
    pub fn plain(&self) -> &Self {
        if let Self::But(_, edit) = self { edit.plain() } else { self }
    }
}

/// What is unusual about a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct How {
    /// There is no commit of it, and the commit that the key has had goes from the log.
    pub uncommitted: bool,
    /// An immutable record changes as well.
    pub force: bool,
    /// When it happened, where that is not now.
    pub at: Option<Timestamp>,
}

/// What one request changes, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The changes to records, in order.
    pub edits: Vec<Edit>,
    /// What is sent because of it.
    pub notification: Option<Notification>,
    /// When.
    pub now: Timestamp,
}

/// Whether a notification was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was stored.
    New,
    /// Its id is unique by its form and was seen before: it was dropped.
    Repeated,
}

/// What [`Store::keys`] lists: keys in their order, a page at a time.
#[derive(Debug, Clone)]
pub struct KeyPage {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only keys behind this one.
    pub after: Option<String>,
    /// How many at most.
    pub limit: usize,
    /// Only records that can be read at this moment.
    pub now: Timestamp,
}

/// How a delivery went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The recipient's server has it.
    Delivered,
    /// It will be tried again.
    Retrying,
    /// It will not be tried again.
    Errored,
    /// Its time passed.
    Expired,
}

/// How far a queue was read, each priority for itself: what comes later is found behind, whatever it goes before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached([i64; 3]);

impl Reached {
    /// This one was read, and all of its priority before it.
    pub fn note(&mut self, read: &Notification) {
        self.0[read.priority as usize] = read.created.as_millis();
    }

    /// The moment of the last one of each priority, the lowest first, in milliseconds since the epoch.
    #[must_use]
    pub fn moments(self) -> [i64; 3] {
        self.0
    }
}

/// How the delivery of exactly one notification went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Its id.
    pub id: String,
    /// When it was sent: another may have taken its place since.
    pub created: Timestamp,
    /// How it went.
    pub outcome: Outcome,
}

/// How much was removed because its time was over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Records.
    pub records: usize,
    /// Notifications.
    pub notifications: usize,
    /// Entries of access logs.
    pub visits: usize,
    /// Rows of tenants that were removed.
    pub removed: usize,
}

impl Expired {
    /// Whether there was nothing.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl std::ops::AddAssign for Expired {
    fn add_assign(&mut self, more: Self) {
        self.records += more.records;
        self.notifications += more.notifications;
        self.visits += more.visits;
        self.removed += more.removed;
    }
}

/// What a tenant's notifications are, counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Sent or received.
    pub kind: Kind,
    /// How they fare.
    pub status: Status,
    /// What they say.
    pub operation: Operation,
    /// Whether they name records.
    pub is_text: bool,
    /// How many.
    pub count: u64,
}

/// Something that is on disk now.
#[derive(Debug, Clone)]
pub enum Committed {
    /// A tenant's commit log has grown.
    Changed {
        /// Whose.
        tenant: AtSign,
        /// The id of the newest commit.
        commit: i64,
        /// What it was.
        operation: Operation,
        /// When.
        now: Timestamp,
    },
    /// A tenant has received a notification.
    Received {
        /// The notification, in which `to` is the tenant.
        notification: Box<Notification>,
    },
    /// A notification waits to be sent.
    Queued {
        /// From this tenant.
        from: AtSign,
        /// To this atSign.
        to: AtSign,
    },
}

/// Who wants to know what is on disk now. Called by the store's writer: it must not wait.
pub trait Watcher: Send + Sync {
    /// This was committed, after all that was told before.
    fn committed(&self, what: Committed);
}

/// The operations. Each is one transaction; `tenant` bounds all that it sees and does.
pub trait Store: Send + Sync {
    /// All tenants.
    fn tenants(&self) -> Answer<'_, Vec<Tenant>>;
    /// Adds a tenant with its first records; `false` if there is one already, which then stays as it is.
    fn add_tenant(&self, tenant: Tenant, records: Vec<Edit>, now: Timestamp) -> Answer<'_, bool>;
    /// Ends a tenant: from now on it is not known; `false` if it was not. [`Self::expire`] removes what it
    /// leaves behind.
    fn remove_tenant(&self, tenant: &AtSign) -> Answer<'_, bool>;
    /// What a tenant has stored.
    fn usage(&self, tenant: &AtSign) -> Answer<'_, Usage>;
    /// All that a tenant has, as it is at one moment.
    fn export(&self, tenant: &AtSign, take: TakeRow) -> Answer<'_, ()>;
    /// Adds a tenant with what was exported, commit ids included; `false` if it is hosted already, which then
    /// stays as it is. All of it or nothing.
    fn import(&self, tenant: Tenant, rows: Rows, now: Timestamp) -> Answer<'_, bool>;
    /// Writes nothing for a tenant from now on, and delivers nothing to it, whether it is one of this store or
    /// not: until [`Self::thaw`]. What was accepted before is on disk once [`Self::reconcile`] is done.
    fn freeze(&self, tenant: &AtSign);
    /// Writes for a tenant again.
    fn thaw(&self, tenant: &AtSign);
    /// The tenants that move to another node, or did.
    fn departures(&self) -> Answer<'_, Vec<(AtSign, Departure)>>;
    /// Notes how far a tenant is that moves to another node; `None` forgets it.
    fn set_departure(&self, tenant: &AtSign, state: Option<Departure>) -> Answer<'_, ()>;
    /// The tenants that move to this node.
    fn arrivals(&self) -> Answer<'_, Vec<(AtSign, Arrival)>>;
    /// Begins anew with a tenant that moves to this node; `false` if it is hosted already.
    fn arrive(&self, tenant: &AtSign, state: Arrival) -> Answer<'_, bool>;
    /// Adds rows to one that arrives; `false` if it does not any more.
    fn add_rows(&self, tenant: &AtSign, rows: Vec<Row>) -> Answer<'_, bool>;
    /// Notes how far one is that arrives; `false` if it does not any more.
    fn set_arrival(&self, tenant: &AtSign, state: Arrival) -> Answer<'_, bool>;
    /// Makes a tenant of one that has arrived; `false` if it has not.
    fn settle_in(&self, tenant: &AtSign, now: Timestamp) -> Answer<'_, bool>;
    /// Gives up one that arrives.
    fn drop_arrival(&self, tenant: &AtSign) -> Answer<'_, ()>;
    /// A record, whether it is active or not.
    fn record(&self, tenant: &AtSign, key: &AtKey) -> Answer<'_, Option<Record>>;
    /// Forgets what it remembers of a tenant that another process may have changed.
    fn forget(&self, tenant: &AtSign);
    /// The keys of active records.
    fn keys(&self, tenant: &AtSign, page: KeyPage) -> Answer<'_, Vec<String>>;
    /// The records of enrollments, expired ones that were not yet removed included, oldest first.
    fn enrollments(&self, tenant: &AtSign) -> Answer<'_, Vec<(AtKey, Record)>>;
    /// Keys of copies behind `after` in their order that want to be fetched again.
    fn stale_copies(
        &self,
        tenant: &AtSign,
        after: &str,
        limit: usize,
        now: Timestamp,
    ) -> Answer<'_, Vec<AtKey>>;
    /// Changes records; gives the commit id of each change, -1 where it has none.
    fn write(&self, tenant: &AtSign, write: Write) -> Answer<'_, Result<Vec<i64>, Refused>>;
    /// The id of the newest commit in the log, -1 where there is none.
    fn last_commit(&self, tenant: &AtSign) -> Answer<'_, i64>;
    /// The first commits behind `after`, oldest first: at least one if there is one, at most `limit`.
    fn commits_after(&self, tenant: &AtSign, after: i64, limit: usize) -> Answer<'_, Vec<Commit>>;
    /// The first `limit` commits before `before`, newest first, without their records.
    fn commits_before(&self, tenant: &AtSign, before: i64, limit: usize) -> Answer<'_, Vec<Commit>>;
    /// Queues a notification of the tenant `from`; to a tenant that is kept in the same place it is delivered
    /// at once.
    fn send(&self, notification: Notification, now: Timestamp) -> Answer<'_, Taken>;
    /// Queues notifications of one tenant, all of them or none.
    fn send_all(&self, notifications: Vec<Notification>, now: Timestamp) -> Answer<'_, ()>;
    /// Takes a notification for the tenant `to`, and keeps a copy of its value where its `ttr` says so.
    fn receive(&self, notification: Notification, now: Timestamp) -> Answer<'_, Taken>;
    /// Takes what came for one tenant, in its order: all of it or nothing. `false` where there is no such
    /// tenant.
    fn receive_all(&self, to: &AtSign, received: Vec<Notification>, now: Timestamp) -> Answer<'_, bool>;
    /// The newest notification with this id.
    fn notification(&self, tenant: &AtSign, id: &str) -> Answer<'_, Option<Notification>>;
    /// Forgets a notification.
    fn remove_notification(&self, tenant: &AtSign, id: &str) -> Answer<'_, ()>;
    /// The first notifications received, or told by the tenant to itself, after this moment and not expired, oldest first: at least one if
    /// there is one, at most `limit`.
    fn received_after(
        &self,
        tenant: &AtSign,
        after: i64,
        limit: usize,
        now: Timestamp,
    ) -> Answer<'_, Vec<Notification>>;
    /// When the newest notification was sent or received, in milliseconds since the epoch.
    fn last_notified(&self, tenant: &AtSign) -> Answer<'_, i64>;
    /// Counts of the tenant's notifications.
    fn tallies(&self, tenant: &AtSign) -> Answer<'_, Vec<Tally>>;
    /// The pairs (from, to) between which something waits.
    fn waiting_pairs(&self) -> Answer<'_, Vec<(AtSign, AtSign)>>;
    /// What goes next from one atSign to another, by priority, then by age, behind what was reached: at least
    /// one if there is one, at most `limit`.
    fn waiting(
        &self,
        from: &AtSign,
        to: &AtSign,
        reached: Reached,
        limit: usize,
    ) -> Answer<'_, Vec<Notification>>;
    /// Notes how deliveries of one sender's notifications went; what has replaced one of them stays as it is.
    fn settle(&self, from: &AtSign, settled: Vec<Settled>) -> Answer<'_, ()>;
    /// Delivers a waiting notification to a tenant of this store; after a crash in between it may be delivered
    /// again, like one from another server. `false` if the tenant is not here, or about to leave: then it waits.
    fn hand_over(&self, notification: &Notification, now: Timestamp) -> Answer<'_, bool>;
    /// Adds entries to the access logs of their tenants; each keeps its newest `most` entries, and those
    /// for as long as `keep`. What is meant for nobody is dropped.
    fn log_visits(&self, visits: Vec<Visit>, most: usize, keep: Duration) -> Answer<'_, ()>;
    /// What the tenant's access log comes to, with the `top` visitors and keys.
    fn visits(&self, tenant: &AtSign, top: usize) -> Answer<'_, Visits>;
    /// Removes some of what has expired, to be called again until there was nothing.
    fn expire(&self, now: Timestamp) -> Answer<'_, Expired>;
    /// The signed records that were kept, of anybody.
    fn signed_records(&self) -> Answer<'_, Vec<SignedRecord>>;
    /// Keeps a signed record, unless one of the same atSign with a higher number is kept already.
    fn keep_signed_record(&self, record: SignedRecord) -> Answer<'_, ()>;
    /// A time that nothing in the store is later than, and at most a second later than the newest.
    fn newest(&self) -> Answer<'_, Timestamp>;
    /// Forgets what it remembers of records where another process has changed them.
    fn reconcile(&self) -> Answer<'_, ()>;
    /// Size of all that is kept, in bytes.
    fn size(&self) -> Answer<'_, u64>;
}
