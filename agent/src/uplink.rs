//! From the outbox to the readers: the oldest due batch of each flow, sealed for its reader, sent as a
//! notification, and sent again until the reader has confirmed it.
//!
//! The schedule decides, purely, and is proved on virtual time; [`Uplink::run`] does what it says.

mod drain;
mod flow;
mod pace;
mod schedule;
#[cfg(test)]
mod sim;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use at_protocol::AtSign;
use atedge_adapters::DeviceName;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub use drain::DrainRules;
pub use flow::{FlowRules, NoteStatus};
pub use schedule::{SendRules, StreamRules};

/// What decides what is sent next, without outbox, network or clock: for simulations.
#[doc(hidden)]
pub mod pure {
    pub use super::flow::{Pinned, Time};
    pub use super::schedule::{Action, Schedule};
}

use crate::failpoint::Failpoint;
use crate::outbox::{FlowKey, Outbox, OutboxError, Parcel, Receipted};
use crate::payload::{Lane, NoteId, name};
use flow::Pinned;
use schedule::{Action, Schedule};

/// A notification on its way out, not yet sealed.
#[derive(Debug, Clone, Copy)]
pub struct Note<'a> {
    /// Who says it.
    pub device: &'a DeviceName,
    /// To whom.
    pub to: &'a AtSign,
    /// The id that it must have; any, where absent.
    pub id: Option<&'a NoteId>,
    /// Its key name.
    pub name: &'a str,
    /// What is said; whoever sends it seals it.
    pub plain: &'a str,
    /// How long servers may keep it for a recipient that is away.
    pub ttln: Duration,
}

/// Why a notification was not sent, as far as it matters what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoadError {
    /// Our own atServer was not reached or did not answer. It may have the notification.
    #[error("{0}")]
    Unreachable(String),
    /// It cannot be sent to this reader now.
    #[error("{0}")]
    Later(String),
    /// It can never be sent to this reader.
    #[error("{0}")]
    Refused(String),
}

/// The way to the readers: seals and sends.
pub trait Road {
    /// Done when our own atServer has stored the notification.
    fn notify(&self, note: Note<'_>) -> impl Future<Output = Result<(), RoadError>> + Send;
    /// What our own atServer says became of a notification.
    fn status(&self, id: &NoteId) -> impl Future<Output = Result<NoteStatus, RoadError>> + Send;
}

/// What the uplink works with.
pub struct Uplink<R> {
    /// The queue.
    pub outbox: Outbox,
    /// The way out.
    pub road: R,
    /// The last part of key names.
    pub namespace: String,
    /// How the streams are sent, and to whom; the outbox has followed what changes before it is said here.
    pub rules: watch::Receiver<SendRules>,
    /// Seed of the jitter.
    pub seed: u64,
    /// Counts the receipts.
    pub receipts: Arc<AtomicU64>,
}

/// What to do next to the outbox or on the road.
enum Work {
    Act(Action),
    Confirm { key: FlowKey, upto: u64 },
}

/// What came of it.
enum Outcome {
    Confirmed,
    Sent { key: FlowKey, from: u64, last: u64, bytes: usize, more: bool, id: NoteId },
    Gone { key: FlowKey, from: u64, to: u64 },
    Aside { key: FlowKey },
    Status { key: FlowKey, first: u64, status: NoteStatus },
    Failed { key: FlowKey, sent: Option<Pinned>, error: RoadError },
}

impl<R: Road> Uplink<R> {
    /// Sends until `stop`, then until everything that waits was sent or `grace` is over. What comes through
    /// `receipts` the outbox has taken already.
    ///
    /// # Errors
    /// When the outbox no longer answers.
    pub async fn run(
        self,
        mut receipts: mpsc::Receiver<Receipted>,
        stop: CancellationToken,
        grace: Duration,
    ) -> Result<(), OutboxError> {
        let began = Instant::now();
        let mut changed = self.rules.clone();
        let rules = changed.borrow_and_update().clone();
        let mut schedule = Schedule::new(rules, self.outbox.boot(), self.seed);
        for waiting in self.outbox.waiting().await? {
            schedule.add_waiting(waiting, Duration::ZERO);
        }
        let mut under_way = FuturesUnordered::new();
        let mut deadline: Option<Instant> = None;
        loop {
            let now = began.elapsed();
            while let Some(action) = schedule.next(now) {
                under_way.push(self.perform(Work::Act(action)));
            }
            let sent = schedule.is_sent() && under_way.is_empty();
            if deadline.is_some_and(|end| sent || Instant::now() >= end) {
                return Ok(());
            }
            let wake = schedule.deadline().map(|due| began + due);
            let wake = [wake, deadline].into_iter().flatten().min();
            tokio::select! {
                Some(outcome) = under_way.next() => {
                    if let Some(confirmed) = answer(&mut schedule, outcome?, began.elapsed()) {
                        under_way.push(self.perform(confirmed));
                    }
                }
                grown = self.outbox.grown() => {
                    for (id, (lane, last)) in grown {
                        schedule.on_grown(id, &lane, last, began.elapsed());
                    }
                }
                Some(receipt) = receipts.recv() => {
                    self.receipts.fetch_add(1, Ordering::Relaxed);
                    if let Some(upto) = schedule.on_receipt(&receipt, began.elapsed()) {
                        under_way.push(self.perform(Work::Confirm { key: receipt.key, upto }));
                    }
                }
                Ok(()) = changed.changed() => {
                    schedule.configure(changed.borrow_and_update().clone(), began.elapsed());
                    for waiting in self.outbox.waiting().await? {
                        schedule.add_waiting(waiting, began.elapsed());
                    }
                }
                () = sleep_until(wake.unwrap_or(began)), if wake.is_some() => {}
                () = stop.cancelled(), if deadline.is_none() => {
                    deadline = Some(Instant::now() + grace);
                    schedule.hurry(began.elapsed());
                }
            }
        }
    }

    async fn perform(&self, work: Work) -> Result<Outcome, OutboxError> {
        match work {
            Work::Confirm { key, upto } => self.outbox.confirm(key, upto).await.map(|()| Outcome::Confirmed),
            Work::Act(Action::Ask { key, first, id }) => Ok(match self.road.status(&id).await {
                Ok(status) => Outcome::Status { key, first, status },
                Err(error) => Outcome::Failed { key, sent: None, error },
            }),
            Work::Act(Action::Send { key, lane, from, to, limit, ttln, attempt }) => {
                let taken = self.outbox.take(key.clone(), Arc::clone(&lane), from, to, limit).await?;
                let Some(Parcel { first, last, records, json }) = taken else {
                    return Ok(Outcome::Gone { key, from, to });
                };
                let id = NoteId::new(lane.boot, first, attempt);
                let name = name::telemetry(&lane.device, &lane.stream, &self.namespace);
                let note = Note {
                    device: &lane.device,
                    to: &key.reader,
                    id: Some(&id),
                    name: &name,
                    plain: &json,
                    ttln,
                };
                Failpoint::SendBefore.pass();
                let sent = self.road.notify(note).await;
                Failpoint::SendAfter.pass();
                match sent {
                    Ok(()) => Ok(Outcome::Sent { key, from, last, bytes: json.len(), more: last < to, id }),
                    // What only tells of gaps is refused for its name, and so would be all else.
                    Err(RoadError::Refused(_)) if records == 0 => Ok(Outcome::Gone { key, from, to: last }),
                    Err(RoadError::Refused(reason)) => self.set_aside(key, &lane, from, last, reason).await,
                    Err(error) => {
                        Ok(Outcome::Failed { key, sent: Some(Pinned { from, to: last, attempt }), error })
                    }
                }
            }
        }
    }

    /// Puts by what will never be taken; its reader is told of a gap instead.
    async fn set_aside(
        &self,
        key: FlowKey,
        lane: &Lane,
        from: u64,
        last: u64,
        reason: String,
    ) -> Result<Outcome, OutboxError> {
        error!(reader = %key.reader, %lane, first = from, last, reason, "refused for good; set aside");
        self.outbox.set_aside(key.clone(), from, last, reason).await?;
        Ok(Outcome::Aside { key })
    }
}

/// Tells the schedule; returns what the outbox must be told in turn.
fn answer(schedule: &mut Schedule, outcome: Outcome, now: Duration) -> Option<Work> {
    let was_cut_off = schedule.is_cut_off();
    let (key, confirmed) = match outcome {
        Outcome::Confirmed => return None,
        Outcome::Sent { key, from, last, bytes, more, id } => {
            debug!(reader = %key.reader, lane = key.lane, from, last, bytes, %id, "sent");
            schedule.on_taken(&key, bytes, now);
            let confirmed = schedule.on_sent(&key, from, last, more, id, now);
            (key, confirmed)
        }
        Outcome::Gone { key, from, to } => {
            let confirmed = schedule.on_gone(&key, from, to, now);
            (key, confirmed)
        }
        Outcome::Aside { key } => {
            schedule.on_aside(&key, now);
            return None;
        }
        Outcome::Status { key, first, status } => {
            let confirmed = schedule.on_status(&key, first, status, now);
            (key, confirmed)
        }
        Outcome::Failed { key, sent, error: RoadError::Unreachable(reason) } => {
            if schedule.on_unreachable(&key, sent, now) {
                warn!(reason, "our atServer is not reached; trying again");
            }
            return None;
        }
        Outcome::Failed { key, sent, error: RoadError::Later(reason) | RoadError::Refused(reason) } => {
            info!(reader = %key.reader, lane = key.lane, reason, "cannot be sent now; trying again");
            schedule.on_failed(&key, sent, now);
            return None;
        }
    };
    if was_cut_off && !schedule.is_cut_off() {
        info!("our atServer is reached again");
    }
    confirmed.map(|upto| Work::Confirm { key, upto })
}
