//! Bringing notifications to other atServers: one lane per sender and recipient, so that a server that is
//! down holds up nobody else's, and what one sends another arrives in order.
//!
//! The store is the queue. A lane runs while its pair has something waiting; its state is where it stands
//! in its retries, so a restart loses nothing but patience.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use at_protocol::AtSign;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::AskError;
use crate::node::Node;
use crate::store::{Notification, Outcome, StoreError};

/// The first pause after a failure; each further one is longer by the golden ratio.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Deliveries at the same time: what waits beyond costs no connection.
const AT_ONCE: usize = 64;

type Pair = (AtSign, AtSign);

/// Pairs that have something new to deliver, told by the store.
#[derive(Default)]
pub(crate) struct Waiting {
    pairs: Mutex<HashSet<Pair>>,
    told: Notify,
}

impl Waiting {
    /// Something waits between these two.
    pub(crate) fn tell(&self, pair: Pair) {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).insert(pair);
        self.told.notify_one();
    }

    async fn next(&self) -> HashSet<Pair> {
        loop {
            let pairs = std::mem::take(&mut *self.pairs.lock().unwrap_or_else(PoisonError::into_inner));
            if !pairs.is_empty() {
                return pairs;
            }
            self.told.notified().await;
        }
    }
}

/// Delivers until `stop`.
///
/// # Errors
/// The store cannot say what waits.
pub(crate) async fn deliver(node: Arc<Node>, stop: CancellationToken) -> Result<(), StoreError> {
    for pair in node.store.waiting_pairs().await? {
        node.waiting().tell(pair);
    }
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut lanes = JoinSet::new();
    // The lanes that run, and whether they were told of more since they looked.
    let mut running: HashMap<Pair, bool> = HashMap::new();
    loop {
        let start = |pair: Pair, lanes: &mut JoinSet<Pair>| {
            lanes.spawn(lane(Arc::clone(&node), Arc::clone(&places), pair));
        };
        tokio::select! {
            pairs = node.waiting().next() => for pair in pairs {
                match running.get_mut(&pair) {
                    Some(more) => *more = true,
                    None => {
                        running.insert(pair.clone(), false);
                        start(pair, &mut lanes);
                    }
                }
            },
            Some(done) = lanes.join_next() => match done {
                Ok(pair) => {
                    if running.remove(&pair) == Some(true) {
                        running.insert(pair.clone(), false);
                        start(pair, &mut lanes);
                    }
                }
                Err(error) => tracing::error!(%error, "a delivery ended badly"),
            },
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Delivers what waits between two atSigns, until nothing does.
async fn lane(node: Arc<Node>, places: Arc<Semaphore>, pair: Pair) -> Pair {
    let mut failures = 0;
    loop {
        let step = async {
            let Some(next) = node.store.next_waiting(&pair.0, &pair.1).await? else { return Ok(None) };
            let outcome = attempt(&node, &places, &next).await?;
            if let Some(outcome) = outcome {
                node.store.settle(&next, outcome).await?;
            }
            Ok::<_, StoreError>(Some((next, outcome)))
        };
        match step.await {
            Ok(None) => return pair,
            Ok(Some((next, Some(Outcome::Retrying)))) => {
                let left = next.expires.as_millis().saturating_sub(node.now().as_millis());
                let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
                tokio::time::sleep(pause(failures, crate::random::byte()).min(left)).await;
                failures += 1;
            }
            Ok(Some(_)) => failures = 0,
            Err(StoreError::Closed) => return pair,
            Err(error) => {
                tracing::warn!(from = %pair.0, to = %pair.1, %error, "a delivery waits for the store");
                tokio::time::sleep(LONGEST_PAUSE).await;
            }
        }
    }
}

/// One delivery; `None` if it has been noted already.
async fn attempt(
    node: &Node,
    places: &Semaphore,
    next: &Notification,
) -> Result<Option<Outcome>, StoreError> {
    if next.expires <= node.now() {
        return Ok(Some(Outcome::Expired));
    }
    if node.is_hosted(&next.to) {
        if node.is_blocked(&next.to, &next.from).await? {
            return Ok(Some(Outcome::Retrying));
        }
        node.store.hand_over(next, node.now()).await?;
        return Ok(None);
    }
    let Some(line) = next.line() else { return Ok(Some(Outcome::Errored)) };
    let Ok(_place) = places.acquire().await else { return Ok(Some(Outcome::Retrying)) };
    let (from, to) = (&next.from, &next.to);
    Ok(Some(match node.ask(from, to, &line.to_string(), true).await {
        Ok(_) => Outcome::Delivered,
        Err(error @ AskError::NoSuchAtSign(_)) => {
            tracing::info!(%from, %to, id = next.id, %error, "a notification was given up");
            Outcome::Errored
        }
        Err(error) if error.is_final() => {
            tracing::warn!(%from, %to, id = next.id, %error, "a notification was refused");
            Outcome::Errored
        }
        Err(error) => {
            tracing::debug!(%from, %to, id = next.id, attempts = next.attempts, %error, "will try again");
            Outcome::Retrying
        }
    }))
}

/// The pause after so many failures, between half and all of what is due.
fn pause(failures: u32, random: u8) -> Duration {
    let mut due = FIRST_PAUSE;
    for _ in 0..failures.min(20) {
        due = (due * 1618 / 1000).min(LONGEST_PAUSE);
    }
    due / 2 + due / 2 * u32::from(random) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_ten_seconds_and_differ() {
        assert_eq!(pause(0, 255), FIRST_PAUSE);
        assert_eq!(pause(0, 0), FIRST_PAUSE / 2);
        assert!(pause(1, 255) > pause(0, 255));
        assert_eq!(pause(u32::MAX, 255), LONGEST_PAUSE);
    }
}
