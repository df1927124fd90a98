//! The queue on disk between capture and confirmation.
//!
//! One SQLite file in WAL mode, synchronous=FULL, on one thread of its own. [`Outbox`] is the handle that
//! everybody else holds: each call travels to the thread and is answered after the COMMIT that made it
//! true. The thread takes what waits, commits it as one group, answers, and begins again, so that groups
//! form by themselves under load and a lone call costs one fsync. After a large group it waits up to 4 ms for more,
//! as long as they come: a COMMIT writes about as many pages for twenty records as for two hundred.
//!
//! **Ids.** A record is (device, stream, boot, seq): a [`Lane`] and a number that
//! has no holes in it and is never given twice. The epoch inside the boot grows at every start, in the
//! file itself.
//!
//! **Cursors.** Each reader of a stream has a cursor in each of its lanes. A record goes when all cursors
//! have passed it.
//!
//! **Loss** is decided and counted. A record also goes when its time to live is up, and when the queue is
//! full and its stream says how to make room; each reader that has not got it is owed a gap, which travels
//! where the record would have and goes when the reader has confirmed it. Where a stream blocks, appends
//! wait for room, so nothing is acknowledged that would not be kept.
//!
//! **Damage.** A file that cannot be read is renamed, what still reads is moved to a new one, and the
//! agent starts all the same.

mod append;
mod claim;
mod delivered;
mod gap;
mod keep;
mod ledger;
mod log;
mod open;
mod outside;
mod policy;
mod room;
mod salvage;
mod schema;
mod seal;
mod send;
mod share;
#[cfg(test)]
pub(crate) mod sim;
mod span;
mod stat;
mod store;
#[cfg(test)]
mod tests;
mod thin;
mod timefix;
mod trouble;
mod worker;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use at_protocol::AtSign;
use atedge_adapters::{DeviceName, StreamName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

pub use append::{Appended, Capture};
pub use claim::Claims;
pub use keep::Expired;
pub use ledger::{Begun, CommandId, NewCommand, Unfinished};
pub use open::Opened;
pub use outside::{LaneStat, Which, export, list, purge};
pub use policy::{
    DEFAULT_TTL, Durability, InvalidPriority, Keep, MinFree, OutboxOptions, Priority, StreamPolicy, Thin,
    WhenFull,
};
pub use salvage::Salvaged;
pub use send::{BatchLimit, FlowKey, Parcel, Receipted, Waiting};
pub use share::Share;
pub use stat::{Backlog, ConfirmedBy, Stat, stat_from_outside};
pub use store::{Grown, LaneId};
pub use trouble::Trouble;
pub use worker::Thread;

use crate::clock::Stamp;
use crate::payload::{Boot, Lane, Receipt};
use crate::seal::SealError;
use share::Fresh;
use store::Store;
use worker::{Append, Call, Request};

/// The name of the file.
const FILE: &str = "outbox.db";
/// Appends of one handle and its clones that may wait for the thread; more wait for one of them to be answered.
const APPENDS: usize = 1024;
/// Other calls that may wait, likewise: so that a full outbox, where appends wait, still learns what was
/// confirmed.
const CALLS: usize = 256;

/// Why the outbox could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Another process has it open.
    #[error("the outbox in {} is in use; is another agent running?", .0.display())]
    InUse(PathBuf),
    /// A newer atedge made the file, or one from before the first release.
    #[error("{} is of version {version}, which another atedge-agent made; run that one, or move the file away", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i64,
    },
    /// The database cannot be opened, for a reason that moving it away would not cure.
    #[error("cannot open the outbox {}: {cause}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        cause: rusqlite::Error,
    },
    /// The folder or the lock.
    #[error("cannot use {} for the outbox: {cause}", path.display())]
    Folder {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The seal key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The group that this call was in was not committed; nothing of it has happened. The log says why.
    #[error("the outbox could not store it")]
    NotStored,
}

/// The handle. Cheap to clone; when the last clone is dropped, the thread finishes what waits and ends.
#[derive(Clone)]
pub struct Outbox {
    requests: std::sync::mpsc::Sender<Request>,
    appends: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    fresh: Arc<Fresh>,
    share: Share,
    failed: CancellationToken,
    trouble: Trouble,
    boot: Boot,
}

/// An append on its way: done after the COMMIT. If it fails with [`OutboxError::NotStored`], the caller
/// still has the capture and may try again.
pub struct Appending(oneshot::Receiver<Appended>);

impl Future for Appending {
    type Output = Result<Appended, OutboxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| OutboxError::NotStored)
    }
}

impl Outbox {
    /// The boot that new records belong to.
    pub const fn boot(&self) -> Boot {
        self.boot
    }

    /// Another handle, whose appends are bound by themselves: those that wait for room hold up no others.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { appends: Arc::new(Semaphore::new(APPENDS)), ..self.clone() }
    }

    /// Another handle, for who sends for this share of the devices: it waits for their records, takes receipts for
    /// them alone, and remembers by itself how far was heard.
    #[must_use]
    pub fn share(&self, share: Share) -> Self {
        Self { share, ..self.clone() }
    }

    /// Whether `device` is in the share of this handle.
    #[must_use]
    pub fn is_for(&self, device: &DeviceName) -> bool {
        self.fresh.is_in(&self.share, device)
    }

    /// Cancelled when the thread has ended by itself, because the file is damaged or led it astray: the next start
    /// mends it.
    pub fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// Tells why nothing is stored, while that is so.
    pub fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    /// Appends `capture`; done after the COMMIT. Waits while the outbox is full.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn append(&self, capture: Arc<Capture>) -> Result<Appended, OutboxError> {
        self.submit(capture).await?.await
    }

    /// The first half of [`Outbox::append`]: done when `capture` has its place in the order. Waits while
    /// 1024 appends are on their way.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`] when the thread has ended.
    pub async fn submit(&self, capture: Arc<Capture>) -> Result<Appending, OutboxError> {
        let place = Arc::clone(&self.appends).acquire_owned().await.map_err(|_| OutboxError::NotStored)?;
        let (answer, answered) = oneshot::channel();
        let append = Append { capture, since: Instant::now(), answer, place };
        self.requests.send(Request::Append(append)).map_err(|_| OutboxError::NotStored)?;
        Ok(Appending(answered))
    }

    /// The sender of `session` will not repeat what it delivered up to the number `upto`. Done when that has its
    /// place in the order: nobody needs to know when it is stored.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`] when the thread has ended.
    pub async fn settle(&self, session: Arc<str>, upto: u64) -> Result<(), OutboxError> {
        self.ask(move |store| store.settle(&session, upto)).await.map(drop)
    }

    /// The session began anew; what was remembered of it holds no more.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn forget_session(&self, session: Arc<str>) -> Result<(), OutboxError> {
        self.call(move |store| store.forget_session(&session)).await
    }

    /// Lanes that got records since the last call; waits until there are some. For one caller a share.
    pub async fn grown(&self) -> Grown {
        self.fresh.take(&self.share).await
    }

    /// The flows with unconfirmed records.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn waiting(&self) -> Result<Vec<Waiting>, OutboxError> {
        let mut waiting = self.call(|store| store.waiting()).await?;
        waiting.retain(|waiting| self.is_for(&waiting.lane.device));
        Ok(waiting)
    }

    /// The records of `key`, which is in `lane`, from number `from` up to `to` at most, as many as `limit`
    /// allows; they count as sent from now on. `None` if none of them is left.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn take(
        &self,
        key: FlowKey,
        lane: Arc<Lane>,
        from: u64,
        to: u64,
        limit: BatchLimit,
    ) -> Result<Option<Parcel>, OutboxError> {
        self.call(move |store| store.take(&key, &lane, from, to, limit)).await
    }

    /// The reader of `key` has everything up to `upto`, or can never get it.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn confirm(&self, key: FlowKey, upto: u64) -> Result<(), OutboxError> {
        self.call(move |store| store.confirm(&key, upto)).await
    }

    /// Takes a receipt of `reader`. `None` when it is about a boot that is not ours or is gone, from
    /// somebody who is no reader of it, or about more than was sent.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn receipt(
        &self,
        reader: AtSign,
        device: DeviceName,
        stream: StreamName,
        receipt: Receipt,
    ) -> Result<Option<Receipted>, OutboxError> {
        if !self.is_for(&device) {
            return Ok(None);
        }
        self.call(move |store| store.receipt(&reader, device.as_str(), stream.as_str(), &receipt)).await
    }

    /// Sets the records from `first` to `last` aside for the reader of `key`, with the reason; returns how
    /// many. They stay until their time to live is up and are not sent again.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn set_aside(
        &self,
        key: FlowKey,
        first: u64,
        last: u64,
        reason: String,
    ) -> Result<usize, OutboxError> {
        self.call(move |store| store.set_aside(&key, first, last, &reason)).await
    }

    /// Deletes what is too old at `now`.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn expire(&self, now: Stamp) -> Result<Expired, OutboxError> {
        self.call(move |store| store.expire(now)).await
    }

    /// The clock is right since `now`, after it ran free: times of this run are set right.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn synchronised(&self, now: Stamp) -> Result<(), OutboxError> {
        self.call(move |store| store.synchronised(now)).await
    }

    /// The last time that the clock was known to be right, in seconds since 1970.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn seen_s(&self) -> Result<Option<u64>, OutboxError> {
        self.call(|store| store.seen_s()).await
    }

    /// Follows a changed configuration: readers that are none any more take their cursors along, new ones
    /// get all that waits. The folder stays as it is.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn configure(&self, options: OutboxOptions) -> Result<(), OutboxError> {
        self.call(move |store| store.configure(options.clone())).await
    }

    /// What the outbox holds.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn stat(&self) -> Result<Stat, OutboxError> {
        self.call(|store| store.clear().and_then(|()| store.stat())).await
    }

    /// Time of the last notification that was dealt with, as the server gave it; where a monitor goes on.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn heard_until(&self) -> Result<Option<u64>, OutboxError> {
        let name = self.heard_until_name();
        self.call(move |store| store.number(&name)).await
    }

    /// Notifications up to `epoch_millis` are dealt with.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn set_heard_until(&self, epoch_millis: u64) -> Result<(), OutboxError> {
        let name = self.heard_until_name();
        self.call(move |store| store.set_number(&name, epoch_millis)).await
    }

    fn heard_until_name(&self) -> String {
        match &self.share {
            Share::Rest => "heard_until_ms".to_owned(),
            Share::Of(device) => format!("heard_until_ms.{device}"),
        }
    }

    /// Runs `work` in the next group, and again in a later one for as long as the disk takes nothing.
    async fn call<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Store) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, OutboxError> {
        self.ask(work).await?.await.map_err(|_| OutboxError::NotStored)
    }

    /// The first half of [`Outbox::call`]: done when `work` has its place in the order.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Store) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, OutboxError> {
        let place = Arc::clone(&self.calls).acquire_owned().await.map_err(|_| OutboxError::NotStored)?;
        let (answer, answered) = oneshot::channel();
        let asked = Box::new(Asked { work, value: None, answer, place });
        self.requests.send(Request::Call(asked)).map_err(|_| OutboxError::NotStored)?;
        Ok(answered)
    }
}

/// A call on its way, with its place among those that may wait, which it holds until it is answered.
struct Asked<T, F> {
    work: F,
    value: Option<T>,
    answer: oneshot::Sender<T>,
    #[expect(dead_code, reason = "held until it is answered")]
    place: OwnedSemaphorePermit,
}

impl<T: Send, F: Fn(&mut Store) -> rusqlite::Result<T> + Send> Call for Asked<T, F> {
    fn run(&mut self, store: &mut Store) -> rusqlite::Result<()> {
        self.value = Some((self.work)(store)?);
        Ok(())
    }

    fn answer(self: Box<Self>) {
        if let Some(value) = self.value {
            // Whoever asked may have gone; what it asked for is done all the same.
            self.answer.send(value).ok();
        }
    }
}
