//! Bringing notifications to other atServers: one lane per sender and recipient, so that a server that is
//! down holds up nobody else's, and what one sends another arrives in order.
//!
//! The store is the queue. A lane runs while its pair has something waiting; its state is where it stands
//! in its retries, so a restart loses nothing but patience.

mod carry;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::directory::VerifiedRecord;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::AskError;
use crate::node::Node;
use crate::store::{Notification, Outcome, Reached, StoreError};
use carry::{Ended, carry};

/// The first pause after a failure; each further one is longer by the golden ratio.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Deliveries at the same time to servers of old, each of which is a connection of its own.
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

/// Whether a lane was told of more than it has looked for.
#[derive(Default)]
struct More {
    is_there: AtomicBool,
    told: Notify,
}

impl More {
    fn tell(&self) {
        self.is_there.store(true, Ordering::Release);
        self.told.notify_one();
    }

    /// Whether there is, as is found out now.
    fn take(&self) -> bool {
        self.is_there.swap(false, Ordering::AcqRel)
    }

    async fn told(&self) {
        self.told.notified().await;
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
    let mut running: HashMap<Pair, Arc<More>> = HashMap::new();
    loop {
        let start = |pair: Pair, running: &mut HashMap<Pair, Arc<More>>, lanes: &mut JoinSet<Pair>| {
            let more = Arc::new(More::default());
            running.insert(pair.clone(), Arc::clone(&more));
            let lane = Lane { node: Arc::clone(&node), places: Arc::clone(&places), pair, more };
            lanes.spawn(lane.run());
        };
        tokio::select! {
            pairs = node.waiting().next() => for pair in pairs {
                match running.get(&pair) {
                    Some(more) => more.tell(),
                    None => start(pair, &mut running, &mut lanes),
                }
            },
            Some(done) = lanes.join_next() => match done {
                Ok(pair) => {
                    if running.remove(&pair).is_some_and(|more| more.take()) {
                        start(pair, &mut running, &mut lanes);
                    }
                }
                Err(error) => tracing::error!(%error, "a delivery ended badly"),
            },
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Delivers what waits between two atSigns, until nothing does.
struct Lane {
    node: Arc<Node>,
    places: Arc<Semaphore>,
    pair: Pair,
    more: Arc<More>,
}

/// What an attempt came to.
enum Attempt {
    /// Something was settled, for good or ill.
    Done,
    /// It did not work, and is tried again, within this time of the first notification.
    Failed(Duration),
}

impl Lane {
    async fn run(self) -> Pair {
        let mut failures = 0;
        loop {
            match self.attempt().await {
                Ok(None) => return self.pair,
                Ok(Some(Attempt::Done)) => failures = 0,
                Ok(Some(Attempt::Failed(left))) => {
                    self.rest(pause(failures, crate::random::byte()).min(left)).await;
                    failures += 1;
                }
                Err(StoreError::Closed) => return self.pair,
                Err(error) => {
                    let (from, to) = &self.pair;
                    tracing::warn!(%from, %to, %error, "a delivery waits for the store");
                    tokio::time::sleep(LONGEST_PAUSE).await;
                }
            }
        }
    }

    /// Waits, or until the recipient's node is known to be there again.
    async fn rest(&self, time: Duration) {
        let node = self.node.links().ok().and_then(|links| links.bound_to(&self.pair.1));
        match (node, self.node.links()) {
            (Some(key), Ok(links)) => links.nodes().rest(&key, time).await,
            _ => tokio::time::sleep(time).await,
        }
    }

    /// One attempt; `None` if nothing waits.
    async fn attempt(&self) -> Result<Option<Attempt>, StoreError> {
        let (node, (from, to)) = (&self.node, &self.pair);
        self.more.take();
        let Some(next) = node.store.waiting(from, to, Reached::default(), 1).await?.pop() else {
            return Ok(None);
        };
        let left = next.expires.as_millis().saturating_sub(node.now().as_millis());
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        if left.is_zero() {
            return self.settle(&next, Outcome::Expired).await;
        }
        if node.is_hosted(to) {
            if node.is_blocked(to, from).await? {
                return self.settle(&next, Outcome::Retrying).await.map(|_| Some(Attempt::Failed(left)));
            }
            node.store.hand_over(&next, node.now()).await?;
            return Ok(Some(Attempt::Done));
        }
        let found = match node.links() {
            Ok(links) => links.find(to).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(found) => match &found.record {
                Some(record) => self.over_stream(record, &next, left).await,
                None => self.by_old_ways(&next, left).await,
            },
            Err(error) => self.judge(&next, Err(error), left).await,
        }
    }

    /// Over a stream to the recipient's node, with many under way.
    async fn over_stream(
        &self,
        record: &VerifiedRecord,
        next: &Notification,
        left: Duration,
    ) -> Result<Option<Attempt>, StoreError> {
        let (from, to) = &self.pair;
        let Ended { moved, why } = carry(&self.node, &self.pair, &self.more, record).await?;
        if let Some(error) = why {
            tracing::debug!(%from, %to, %error, moved, "a stream ended, what is left is sent again");
            if !moved {
                return self.settle(next, Outcome::Retrying).await.map(|_| Some(Attempt::Failed(left)));
            }
        }
        Ok(Some(Attempt::Done))
    }

    /// To a server of old, one at a time.
    async fn by_old_ways(&self, next: &Notification, left: Duration) -> Result<Option<Attempt>, StoreError> {
        let (from, to) = &self.pair;
        let Some(line) = next.line() else { return self.settle(next, Outcome::Errored).await };
        let Ok(_place) = self.places.acquire().await else { return Err(StoreError::Closed) };
        let answer = self.node.ask(from, to, &line.to_string(), true).await;
        self.judge(next, answer.map(drop), left).await
    }

    async fn judge(
        &self,
        next: &Notification,
        answer: Result<(), AskError>,
        left: Duration,
    ) -> Result<Option<Attempt>, StoreError> {
        let (from, to) = &self.pair;
        match outcome(&self.pair, &next.id, answer) {
            Outcome::Retrying => {
                tracing::debug!(%from, %to, id = next.id, attempts = next.attempts, "will try again");
                self.settle(next, Outcome::Retrying).await.map(|_| Some(Attempt::Failed(left)))
            }
            decided @ (Outcome::Delivered | Outcome::Errored | Outcome::Expired) => {
                self.settle(next, decided).await
            }
        }
    }

    async fn settle(&self, next: &Notification, outcome: Outcome) -> Result<Option<Attempt>, StoreError> {
        self.node.store.settle(&self.pair.0, vec![next.settled(outcome)]).await?;
        Ok(Some(Attempt::Done))
    }
}

/// What an answer means for a notification.
fn outcome((from, to): &Pair, id: &str, answer: Result<(), AskError>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Delivered,
        Err(error @ AskError::NoSuchAtSign(_)) => {
            tracing::info!(%from, %to, id, %error, "a notification was given up");
            Outcome::Errored
        }
        Err(error) if error.is_final() => {
            tracing::warn!(%from, %to, id, %error, "a notification was refused");
            Outcome::Errored
        }
        Err(error) => {
            tracing::debug!(%from, %to, id, %error, "not delivered");
            Outcome::Retrying
        }
    }
}

/// The pause after so many failures, between half and all of what is due.
pub(super) fn pause(failures: u32, random: u8) -> Duration {
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
