//! Memory for what is long: lines on their way in, answers on their way out.
//!
//! A short line needs no leave. A longer one waits, unread, until there is room for the longest that its
//! sender may send, so that whoever has room can end; the sender feels that as a full TCP window. Who has
//! proved nothing shares a quarter of it, so that strangers do not keep owners waiting.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that a line or an answer has without asking: all that tells nothing but keys and signatures.
pub(crate) const SMALL: usize = 8 * 1024;

/// What is left.
pub(crate) struct Room {
    /// In KiB, as a semaphore counts in `u32`.
    owners: Arc<Semaphore>,
    owners_kib: u32,
    strangers: Arc<Semaphore>,
    strangers_kib: u32,
}

/// Room that is held, given back when dropped.
pub(crate) struct Held {
    _permit: OwnedSemaphorePermit,
}

impl Room {
    /// Room for `bytes` in all.
    pub(super) fn new(bytes: usize) -> Self {
        let (strangers_kib, owners_kib) = (kib(bytes / 4), kib(bytes - bytes / 4));
        let semaphore = |kib: u32| Arc::new(Semaphore::new(usize::try_from(kib).unwrap_or(usize::MAX)));
        Self { owners: semaphore(owners_kib), owners_kib, strangers: semaphore(strangers_kib), strangers_kib }
    }

    /// Waits for room for a line of `bytes`. Those who wait are served in order. Cancel-safe.
    pub(crate) async fn wait(&self, bytes: usize, is_authenticated: bool) -> Held {
        let (semaphore, most) = self.of(is_authenticated);
        let permit = Arc::clone(semaphore).acquire_many_owned(kib(bytes).min(most)).await;
        Held { _permit: permit.expect("the semaphore is never closed") }
    }

    /// Room for an answer of `bytes`, if there is any now: the answer itself is in memory already.
    pub(crate) fn take(&self, bytes: usize, is_authenticated: bool) -> Option<Held> {
        let (semaphore, most) = self.of(is_authenticated);
        let permit = Arc::clone(semaphore).try_acquire_many_owned(kib(bytes).min(most));
        permit.ok().map(|permit| Held { _permit: permit })
    }

    fn of(&self, is_authenticated: bool) -> (&Arc<Semaphore>, u32) {
        if is_authenticated { (&self.owners, self.owners_kib) } else { (&self.strangers, self.strangers_kib) }
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_find_room_waits_for_it() {
        let room = Room::new(40 * 1024);
        let held = room.wait(20 * 1024, true).await;
        let mut next = Box::pin(room.wait(20 * 1024, true));
        assert!(futures_util::poll!(&mut next).is_pending());
        assert!(room.take(20 * 1024, true).is_none());
        assert!(room.take(10 * 1024, false).is_some(), "strangers have their own share");
        drop(held);
        drop(next.await);
        // More than there is at all means all of it.
        assert!(room.take(usize::MAX, true).is_some());
    }
}
