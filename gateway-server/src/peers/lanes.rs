//! Which deliveries are under way, by sender: so that a tenant can leave when they are settled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use at_protocol::AtSign;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Deliveries that are under way.
#[derive(Default)]
pub(crate) struct Lanes {
    by_sender: Mutex<HashMap<AtSign, Entry>>,
    ended: Notify,
}

#[derive(Default)]
struct Entry {
    count: usize,
    leaves: CancellationToken,
}

/// One delivery, until it is dropped.
pub(crate) struct Lease {
    lanes: Arc<Lanes>,
    sender: AtSign,
    leaves: CancellationToken,
}

impl Lanes {
    /// A delivery begins.
    pub(crate) fn enter(self: &Arc<Self>, sender: &AtSign) -> Lease {
        let mut by_sender = self.by_sender();
        let entry = by_sender.entry(sender.clone()).or_default();
        entry.count += 1;
        Lease { lanes: Arc::clone(self), sender: sender.clone(), leaves: entry.leaves.clone() }
    }

    /// Has a sender's deliveries end, each once nothing is due any more, and waits for that. None may begin
    /// meanwhile.
    pub(crate) async fn leave(&self, sender: &AtSign) {
        loop {
            let ended = self.ended.notified();
            match self.by_sender().get(sender) {
                Some(entry) => entry.leaves.cancel(),
                None => return,
            }
            ended.await;
        }
    }

    fn by_sender(&self) -> MutexGuard<'_, HashMap<AtSign, Entry>> {
        self.by_sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Whether the sender leaves, so that nothing more is to be sent.
    pub(crate) fn leaves(&self) -> &CancellationToken {
        &self.leaves
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut by_sender = self.lanes.by_sender();
        if let Some(entry) = by_sender.get_mut(&self.sender) {
            entry.count -= 1;
            if entry.count == 0 {
                by_sender.remove(&self.sender);
                self.lanes.ended.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sender_leaves_when_its_deliveries_have_ended() {
        let (lanes, alice, bob): (Arc<Lanes>, AtSign, AtSign) =
            (Arc::default(), "@alice".parse().unwrap(), "@bob".parse().unwrap());
        lanes.leave(&alice).await;
        let (first, second, other) = (lanes.enter(&alice), lanes.enter(&alice), lanes.enter(&bob));
        let ending = async {
            first.leaves().cancelled().await;
            drop(first);
            tokio::task::yield_now().await;
            drop(second);
        };
        tokio::join!(lanes.leave(&alice), ending);
        assert!(!other.leaves().is_cancelled());
        assert!(!lanes.enter(&alice).leaves().is_cancelled(), "it may come back");
    }
}
