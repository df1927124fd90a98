//! Streams: bytes from one connection to another of the same tenant (atProtocol wire reference §4.22).
//!
//! A stream is announced by its sender, taken by whoever names its id, and gone with either of them. What
//! is under way waits in a short channel: a receiver that is slow slows its sender.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use at_protocol::AtSign;
use tokio::sync::{mpsc, oneshot};

/// Reads that may be on their way between the two connections.
const UNDER_WAY: usize = 8;

/// Tenant and id.
type Name = (AtSign, String);

/// The streams of a node.
#[derive(Default)]
pub(crate) struct Streams {
    open: Mutex<HashMap<Name, Open>>,
}

struct Open {
    sender: AtSign,
    /// Tells two streams of one name apart.
    place: Arc<()>,
    receiver: Option<oneshot::Sender<mpsc::Sender<Vec<u8>>>>,
    done: oneshot::Sender<()>,
}

/// The sender's end.
pub(crate) struct Sending {
    streams: Arc<Streams>,
    name: Name,
    place: Arc<()>,
    /// Comes true with the way to the receiver, once there is one.
    pub(crate) taken: oneshot::Receiver<mpsc::Sender<Vec<u8>>>,
    /// Comes true when the receiver has it all; an error when another stream has taken the name.
    pub(crate) done: oneshot::Receiver<()>,
}

/// The receiver's end: the bytes, until the sender is gone.
pub(crate) type Receiving = mpsc::Receiver<Vec<u8>>;

impl Streams {
    /// Announces a stream, in the place of an older one of the same sender and id. `None` if another
    /// sender has the id, or the tenant has `most` streams already.
    pub(crate) fn announce(
        self: &Arc<Self>,
        tenant: &AtSign,
        sender: &AtSign,
        id: &str,
        most: usize,
    ) -> Option<Sending> {
        let name = (tenant.clone(), id.to_owned());
        let mut open = self.lock();
        let allowed = match open.get(&name) {
            Some(older) => older.sender == *sender,
            None => open.keys().filter(|(of, _)| of == tenant).count() < most,
        };
        if !allowed {
            return None;
        }
        let (receiver, taken) = oneshot::channel();
        let (done, is_done) = oneshot::channel();
        let place = Arc::new(());
        let receiver = Some(receiver);
        open.insert(name.clone(), Open { sender: sender.clone(), place: Arc::clone(&place), receiver, done });
        Some(Sending { streams: Arc::clone(self), name, place, taken, done: is_done })
    }

    /// Takes a stream, which can be taken once.
    pub(crate) fn receive(&self, tenant: &AtSign, id: &str) -> Option<Receiving> {
        let mut open = self.lock();
        let waiting = open.get_mut(&(tenant.clone(), id.to_owned()))?.receiver.take()?;
        let (pipe, receiving) = mpsc::channel(UNDER_WAY);
        waiting.send(pipe).ok()?;
        Some(receiving)
    }

    /// Ends a stream, all of which has arrived; `false` if there is none of this id.
    pub(crate) fn finish(&self, tenant: &AtSign, id: &str) -> bool {
        let open = self.lock().remove(&(tenant.clone(), id.to_owned()));
        open.is_some_and(|open| open.done.send(()).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sending {
    /// The stream's id.
    pub(crate) fn id(&self) -> &str {
        &self.name.1
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if open.get(&self.name).is_some_and(|open| Arc::ptr_eq(&open.place, &self.place)) {
            open.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atsign(name: &str) -> AtSign {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn a_stream_is_taken_once_and_gone_with_its_sender() {
        let streams = Arc::new(Streams::default());
        let (alice, carol) = (atsign("alice"), atsign("carol"));
        let mut sending = streams.announce(&alice, &alice, "1", 2).unwrap();
        assert!(streams.receive(&carol, "1").is_none(), "another tenant's");
        assert!(streams.receive(&alice, "2").is_none());
        let mut receiving = streams.receive(&alice, "1").unwrap();
        assert!(streams.receive(&alice, "1").is_none(), "it is taken");
        let pipe = (&mut sending.taken).await.unwrap();
        pipe.send(b"x".to_vec()).await.unwrap();
        assert_eq!(receiving.recv().await.as_deref(), Some(b"x".as_slice()));
        assert!(streams.finish(&alice, "1") && (&mut sending.done).await.is_ok());
        assert!(!streams.finish(&alice, "1"));
        drop((sending, pipe));
        assert_eq!(receiving.recv().await, None);
    }

    #[test]
    fn a_tenant_has_few_streams_and_each_its_own_sender() {
        let streams = Arc::new(Streams::default());
        let (alice, bob) = (atsign("alice"), atsign("bob"));
        let mut older = streams.announce(&alice, &alice, "1", 2).unwrap();
        assert!(streams.announce(&alice, &bob, "1", 2).is_none(), "it is @alice's");
        let newer = streams.announce(&alice, &alice, "1", 2).unwrap();
        assert!(older.done.try_recv().is_err() && older.taken.try_recv().is_err());
        drop(older);
        assert!(streams.receive(&alice, "1").is_some(), "the newer one has the name");
        let second = streams.announce(&alice, &alice, "2", 2).unwrap();
        assert!(streams.announce(&alice, &alice, "3", 2).is_none());
        assert!(streams.announce(&bob, &bob, "3", 2).is_some(), "others have their own");
        drop((newer, second));
        assert!(streams.lock().is_empty());
    }
}
