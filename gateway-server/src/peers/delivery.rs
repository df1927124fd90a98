//! Bringing notifications to other atServers: one lane per sender and recipient, so that a server that is
//! down holds up nobody else's, and what one sends another arrives in order.
//!
//! The store is the queue. A lane runs while its pair has something waiting, and does what its [`Lane`] decides.

mod carry;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::lane::{LONGEST_PAUSE, Lane, Pair, Step};
use super::lanes::Lease;
use crate::node::Node;
use crate::store::{Notification, Reached, StoreError};
use carry::carry;

/// Deliveries at the same time to servers of old, each of which is a connection of its own.
const AT_ONCE: usize = 64;

/// Pairs that have something to deliver, told by the store.
#[derive(Default)]
pub(crate) struct Waiting {
    pairs: Mutex<Pairs>,
    told: Notify,
}

#[derive(Default)]
struct Pairs {
    /// Without a delivery yet.
    new: HashSet<Pair>,
    /// With one, which is told at once.
    running: HashMap<Pair, Arc<More>>,
}

impl Waiting {
    /// Something waits between these two.
    pub(crate) fn tell(&self, pair: Pair) {
        let mut pairs = self.pairs();
        if let Some(more) = pairs.running.get(&pair) {
            return more.tell();
        }
        pairs.new.insert(pair);
        drop(pairs);
        self.told.notify_one();
    }

    /// Pairs that have no delivery yet.
    async fn next(&self) -> HashSet<Pair> {
        loop {
            let new = std::mem::take(&mut self.pairs().new);
            if !new.is_empty() {
                return new;
            }
            self.told.notified().await;
        }
    }

    /// A delivery begins; `None` if there is one.
    fn begin(&self, pair: &Pair) -> Option<Arc<More>> {
        let mut pairs = self.pairs();
        if let Some(more) = pairs.running.get(pair) {
            more.tell();
            return None;
        }
        Some(Arc::clone(pairs.running.entry(pair.clone()).or_default()))
    }

    /// A delivery has ended; one that was told of more has to begin again.
    fn end(&self, pair: Pair) {
        let more = self.pairs().running.remove(&pair);
        if more.is_some_and(|more| more.take()) {
            self.tell(pair);
        }
    }

    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
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
    loop {
        tokio::select! {
            pairs = node.waiting().next() => for pair in pairs {
                if let Some(more) = node.waiting().begin(&pair) {
                    let (node, places) = (Arc::clone(&node), Arc::clone(&places));
                    lanes.spawn(Delivery { node, places, pair, more }.run());
                }
            },
            Some(done) = lanes.join_next() => match done {
                Ok(pair) => node.waiting().end(pair),
                Err(error) => tracing::error!(%error, "a delivery ended badly"),
            },
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Delivers what waits between two atSigns, until nothing does.
struct Delivery {
    node: Arc<Node>,
    places: Arc<Semaphore>,
    pair: Pair,
    more: Arc<More>,
}

impl Delivery {
    async fn run(self) -> Pair {
        let (from, to) = &self.pair;
        let mut lane = Lane::new(from.clone(), to.clone());
        let (mut step, mut lease) = (Step::Look, None);
        loop {
            // From a look to the next, or to a rest, the sender does not leave.
            if let Step::Rest(time) = step {
                drop(lease.take());
                self.rest(time).await;
                step = Step::Look;
            }
            if matches!(step, Step::Look) {
                lease = None;
            }
            let entered = lease.get_or_insert_with(|| self.node.lanes.enter(from));
            // Who has gone elsewhere took its queue along.
            if matches!(step, Step::Look) && !self.node.is_hosted(from) {
                return self.pair;
            }
            step = match self.perform(&mut lane, step, entered).await {
                Ok(Step::End) | Err(StoreError::Closed) => return self.pair,
                Ok(next) => next,
                Err(error) => {
                    lease = None;
                    tracing::warn!(%from, %to, %error, "a delivery waits for the store");
                    tokio::time::sleep(LONGEST_PAUSE).await;
                    Step::Look
                }
            };
        }
    }

    /// Does one step; gives the next.
    async fn perform(&self, lane: &mut Lane, step: Step, lease: &Lease) -> Result<Step, StoreError> {
        let (node, (from, to)) = (&self.node, &self.pair);
        Ok(match step {
            Step::Look => {
                self.more.take();
                let first = node.store.waiting(from, to, Reached::default(), 1).await?.pop();
                lane.on_first(first, node.now(), node.is_hosted(to))
            }
            Step::HandOver(next) => lane.on_handed_over(self.hand_over(&next).await?),
            Step::Find => lane.on_found(match node.links() {
                Ok(links) => links.find(to).await,
                Err(error) => Err(error),
            }),
            Step::Carry(record) => {
                lane.on_ended(carry(node, &self.pair, &self.more, &record, lease.leaves()).await?)
            }
            Step::Say(line) => {
                // One at a time: a server of old takes no more.
                let Ok(_place) = self.places.acquire().await else { return Err(StoreError::Closed) };
                let line = line.to_string();
                // On the heap: the lanes to nodes, of which there may be many, do not carry this along.
                lane.on_answer(Box::pin(node.ask(from, to, &line, true)).await.map(drop))
            }
            Step::Settle(settled) => {
                node.store.settle(from, vec![settled]).await?;
                lane.on_settled(crate::random::byte())
            }
            Step::Rest(_) => Step::Look,
            Step::End => Step::End,
        })
    }

    /// Waits, or until the recipient's node is known to be there again.
    async fn rest(&self, time: Duration) {
        let node = self.node.links().ok().and_then(|links| links.bound_to(&self.pair.1));
        match (node, self.node.links()) {
            (Some(key), Ok(links)) => links.nodes().rest(&key, time).await,
            _ => tokio::time::sleep(time).await,
        }
    }

    /// Brings one to a tenant of this node; `false` if that wants nothing from this sender, or is about to leave.
    async fn hand_over(&self, next: &Notification) -> Result<bool, StoreError> {
        let (node, (from, to)) = (&self.node, &self.pair);
        if node.is_blocked(to, from).await? {
            return Ok(false);
        }
        node.store.hand_over(next, node.now()).await
    }
}
