//! One stream at a time for each pair of atSigns: a new one ends the one before it.
//!
//! The sender opens a new stream because it has lost the old one, of which we may not have heard. The new one's
//! first line runs when the old one has left, with whatever it was committing: so the order holds over a
//! change of connections, and of ways.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use at_protocol::AtSign;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

type Pair = (AtSign, AtSign);

/// The streams that are open now.
#[derive(Default)]
pub struct Fences {
    open: Mutex<HashMap<Pair, Fence>>,
}

#[derive(Default)]
struct Fence {
    /// Ends the newest stream.
    end: CancellationToken,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// How many have the turn, or wait for it.
    streams: usize,
}

/// A stream's turn, given back when dropped.
pub struct Turn {
    fences: Arc<Fences>,
    pair: Pair,
    end: CancellationToken,
    held: Option<OwnedMutexGuard<()>>,
}

impl Fences {
    /// Ends the older stream of a pair, and waits until it has left.
    pub async fn enter(self: &Arc<Self>, pair: Pair) -> Turn {
        let (turn, end) = {
            let mut open = self.open();
            let fence = open.entry(pair.clone()).or_default();
            fence.streams += 1;
            std::mem::take(&mut fence.end).cancel();
            (Arc::clone(&fence.turn), fence.end.clone())
        };
        let mut entered = Turn { fences: Arc::clone(self), pair, end, held: None };
        entered.held = Some(turn.lock_owned().await);
        entered
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Pair, Fence>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Comes true when a newer stream wants the turn.
    pub async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// Whether a newer stream wants the turn.
    pub fn is_over(&self) -> bool {
        self.end.is_cancelled()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut open = self.fences.open();
        if let Some(fence) = open.get_mut(&self.pair) {
            fence.streams -= 1;
            if fence.streams == 0 {
                open.remove(&self.pair);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    fn pair(from: &str) -> Pair {
        (from.parse().unwrap(), "@bob".parse().unwrap())
    }

    #[tokio::test]
    async fn a_newer_stream_ends_the_older_and_waits_until_it_has_left() {
        let fences = Arc::new(Fences::default());
        let first = fences.enter(pair("@alice")).await;
        let other = fences.enter(pair("@carol")).await;
        let mut second = Box::pin(fences.enter(pair("@alice")));
        assert!(poll!(&mut second).is_pending());
        assert!(first.is_over() && !other.is_over());
        let mut third = Box::pin(fences.enter(pair("@alice")));
        assert!(poll!(&mut third).is_pending());
        drop(first);
        let second = second.await;
        assert!(second.is_over(), "while it waited, a third came");
        drop(second);
        assert!(!third.await.is_over());
        drop(other);
        assert!(fences.open().is_empty());
    }
}
