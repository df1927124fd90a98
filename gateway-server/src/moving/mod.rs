//! How a tenant moves: in a file from one store to another, or alive from node to node.
//!
//! A move from node to node never leaves two of them serving. The node that it leaves (`leaving`) stops
//! serving, copies all rows, and commits that it has given the tenant away; the other one (`arriving`) keeps
//! what it gets where nobody finds it, until the directory has taken its record with the next number. The
//! directory is the judge: it takes one record of a number, whichever comes first. So the node that has given
//! away takes back in the same way, by a record of its own with that number; and whichever node crashes in
//! whatever state asks the directory what became of it.

mod arriving;
mod file;
mod leaving;
mod words;

use std::collections::HashSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use at_protocol::AtSign;
use at_protocol::crypto::Ed25519Public;
use atedge_service::tls::NodeIdentity;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};

use crate::announce::Announcer;
use crate::node::Node;
use crate::store::StoreError;
pub use file::MoveError;
pub(crate) use file::{export, import};

/// Streams of other nodes that may wait for their turn.
const AT_ONCE: usize = 8;

/// Moves tenants between this node and others.
pub(crate) struct Mover {
    pub(crate) node: Arc<Node>,
    pub(crate) announcer: Arc<Announcer>,
    /// What is shown to other nodes.
    pub(crate) identity: Arc<NodeIdentity>,
    /// Where a tenant's rows wait to be sent.
    pub(crate) folder: PathBuf,
    /// Held while one that has arrived is let in.
    pub(crate) settling: tokio::sync::Mutex<()>,
    /// Whose rows are coming in.
    pub(crate) copying: Arc<Copying>,
}

/// Whose rows are coming in: of one at a time by one stream only, since they would mix.
#[derive(Default)]
pub(crate) struct Copying {
    underway: Mutex<HashSet<AtSign>>,
    ended: Notify,
}

/// The right to take one's rows, until it is dropped.
pub(crate) struct Copy {
    copying: Arc<Copying>,
    atsign: AtSign,
}

impl Copying {
    /// Waits until no other stream brings rows of the same.
    async fn enter(self: &Arc<Self>, atsign: &AtSign) -> Copy {
        loop {
            let ended = self.ended.notified();
            if self.underway().insert(atsign.clone()) {
                return Copy { copying: Arc::clone(self), atsign: atsign.clone() };
            }
            ended.await;
        }
    }

    fn underway(&self) -> MutexGuard<'_, HashSet<AtSign>> {
        self.underway.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.copying.underway().remove(&self.atsign);
        self.copying.ended.notify_waiters();
    }
}

/// The doors of a node.
pub(crate) trait Doors: Send + Sync {
    /// Serves a tenant of the store no more, and waits until what it was sending is settled.
    fn shut(&self, atsign: &AtSign) -> impl Future<Output = ()> + Send;
    /// Serves what is in the store and was not shut out, or is not any more.
    fn open(&self, atsign: &AtSign) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A stream that another node has opened to move a tenant here.
pub(crate) struct Visit {
    /// Who moves.
    pub(crate) atsign: AtSign,
    /// The node, which has proved its key.
    pub(crate) from: Ed25519Public,
    /// The stream behind its first line.
    pub(crate) stream: Box<dyn Duplex>,
}

/// Both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// Where such streams wait for who moves tenants in; where nobody does, they find no place.
pub(crate) struct Gate {
    come: mpsc::Sender<Visit>,
    to_serve: Mutex<Option<mpsc::Receiver<Visit>>>,
}

impl Default for Gate {
    fn default() -> Self {
        let (come, to_serve) = mpsc::channel(AT_ONCE);
        Self { come, to_serve: Mutex::new(Some(to_serve)) }
    }
}

impl Gate {
    /// Hands a stream on; `false` if there is no place.
    pub(crate) fn come(&self, visit: Visit) -> bool {
        self.come.try_send(visit).is_ok()
    }

    /// The streams that come; once.
    pub(crate) fn to_serve(&self) -> Option<mpsc::Receiver<Visit>> {
        self.to_serve.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_of_one_come_by_one_stream_at_a_time() {
        let copying: Arc<Copying> = Arc::default();
        let [alice, bob]: [AtSign; 2] = ["@alice", "@bob"].map(|text| text.parse().unwrap());
        let first = copying.enter(&alice).await;
        let _other = copying.enter(&bob).await;
        let mut second = std::pin::pin!(copying.enter(&alice));
        tokio::select! {
            biased;
            _ = second.as_mut() => panic!("two at a time"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        second.await;
    }
}
