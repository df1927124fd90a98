//! What is done for the notifications from one atSign to another, one after the other: pure, without the
//! store, the network, or a clock.
//!
//! Each step is answered by the event that it names, which gives the next step. Where a lane stands is how
//! often it has failed in a row, so a restart loses nothing but patience.

use std::sync::Arc;
use std::time::Duration;

use at_client::Found;
use at_protocol::directory::VerifiedRecord;
use at_protocol::verb::Notify;
use at_protocol::{AtSign, Timestamp};

use super::AskError;
use super::outlet::Ended;
use crate::store::{Notification, Outcome, Settled};

/// The first pause after a failure; each further one is longer by the golden ratio.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// From whom, and to whom.
pub(super) type Pair = (AtSign, AtSign);

/// The lane of one sender and one recipient.
#[derive(Debug)]
pub struct Lane {
    pair: Pair,
    failures: u32,
    /// What goes next.
    next: Option<Notification>,
    /// How long that has to live.
    left: Duration,
    /// Whether to rest when it is noted how that fared.
    has_failed: bool,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// See what goes next; [`Lane::on_first`].
    Look,
    /// Bring it to a tenant of this node; [`Lane::on_handed_over`].
    HandOver(Box<Notification>),
    /// Find the recipient's server; [`Lane::on_found`].
    Find,
    /// Bring all that waits, over a stream to the recipient's node; [`Lane::on_ended`].
    Carry(Arc<VerifiedRecord>),
    /// Say this to the recipient's server of old; [`Lane::on_answer`].
    Say(Box<Notify>),
    /// Note how one fared; [`Lane::on_settled`].
    Settle(Settled),
    /// Wait so long, or until the recipient's node is known to be there; then [`Step::Look`].
    Rest(Duration),
    /// Nothing waits.
    End,
}

impl Lane {
    /// Nothing was tried yet.
    #[must_use]
    pub fn new(from: AtSign, to: AtSign) -> Self {
        Self { pair: (from, to), failures: 0, next: None, left: Duration::ZERO, has_failed: false }
    }

    /// From whom, and to whom.
    #[must_use]
    pub fn pair(&self) -> &(AtSign, AtSign) {
        &self.pair
    }

    /// This goes next, at `now`; perhaps to a tenant of this node.
    pub fn on_first(&mut self, first: Option<Notification>, now: Timestamp, is_hosted: bool) -> Step {
        let Some(first) = first else { return Step::End };
        let left = first.expires.as_millis().saturating_sub(now.as_millis());
        self.left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        let next = self.next.insert(first);
        if self.left.is_zero() {
            return self.settle(Outcome::Expired);
        }
        if is_hosted { Step::HandOver(Box::new(next.clone())) } else { Step::Find }
    }

    /// Whether the tenant has taken it: else it wants nothing from this sender now, or leaves.
    pub fn on_handed_over(&mut self, is_taken: bool) -> Step {
        if is_taken { self.moved() } else { self.settle(Outcome::Retrying) }
    }

    /// Where the recipient's server is.
    pub fn on_found(&mut self, found: Result<Found, AskError>) -> Step {
        match found {
            Ok(Found { record: Some(record), .. }) => Step::Carry(record),
            Ok(Found { record: None, .. }) => match self.next.as_ref().and_then(Notification::line) {
                Some(line) => Step::Say(Box::new(line)),
                None => self.settle(Outcome::Errored),
            },
            Err(error) => self.on_answer(Err(error)),
        }
    }

    /// A stream is over.
    pub fn on_ended(&mut self, ended: Ended) -> Step {
        let Ended { moved, why, .. } = ended;
        if let Some(error) = why {
            let (from, to) = &self.pair;
            tracing::debug!(%from, %to, %error, moved, "a stream ended, what is left is sent again");
            if !moved {
                return self.settle(Outcome::Retrying);
            }
        }
        self.moved()
    }

    /// What the recipient's server said, or why it was not asked.
    pub fn on_answer(&mut self, answer: Result<(), AskError>) -> Step {
        let (from, to) = &self.pair;
        let id = self.next.as_ref().map_or("", |next| &next.id);
        self.settle(outcome(from, to, id, answer))
    }

    /// It was noted. `random` is chance.
    pub fn on_settled(&mut self, random: u8) -> Step {
        if !std::mem::take(&mut self.has_failed) {
            return self.moved();
        }
        let rest = pause(self.failures, random).min(self.left);
        self.failures += 1;
        Step::Rest(rest)
    }

    fn moved(&mut self) -> Step {
        self.failures = 0;
        Step::Look
    }

    fn settle(&mut self, outcome: Outcome) -> Step {
        self.has_failed = outcome == Outcome::Retrying;
        match self.next.take() {
            Some(next) => Step::Settle(next.settled(outcome)),
            None => Step::Look,
        }
    }
}

/// What an answer means for a notification.
pub(super) fn outcome(from: &AtSign, to: &AtSign, id: &str, answer: Result<(), AskError>) -> Outcome {
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
            tracing::debug!(%from, %to, id, %error, "not delivered, it is tried again");
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
    use crate::store::tests::notification;

    fn lane() -> Lane {
        Lane::new("@alice".parse().unwrap(), "@bob".parse().unwrap())
    }

    fn first() -> Option<Notification> {
        Some(notification("i1", "@alice", "@bob"))
    }

    fn outcome_of(step: Step) -> Outcome {
        let Step::Settle(settled) = step else { panic!("{step:?}") };
        settled.outcome
    }

    #[test]
    fn pauses_grow_to_ten_seconds_and_differ() {
        assert_eq!(pause(0, 255), FIRST_PAUSE);
        assert_eq!(pause(0, 0), FIRST_PAUSE / 2);
        assert!(pause(1, 255) > pause(0, 255));
        assert_eq!(pause(u32::MAX, 255), LONGEST_PAUSE);
    }

    #[test]
    fn it_rests_longer_each_time_and_never_beyond_a_notifications_life() {
        let (mut lane, now) = (lane(), Timestamp::from_millis(0));
        let mut rests = Vec::new();
        for _ in 0..3 {
            assert!(matches!(lane.on_first(first(), now, false), Step::Find));
            let down = AskError::Unreachable("down".to_owned());
            assert_eq!(outcome_of(lane.on_found(Err(down))), Outcome::Retrying);
            let step = lane.on_settled(255);
            let Step::Rest(rest) = step else { panic!("{step:?}") };
            rests.push(rest);
        }
        assert!(rests.is_sorted() && rests[0] < rests[2], "{rests:?}");
        // One whose time is almost over.
        lane.on_first(first(), Timestamp::from_millis(86_400_000 - 5), false);
        lane.on_answer(Err(AskError::Timeout));
        assert!(matches!(lane.on_settled(255), Step::Rest(rest) if rest == Duration::from_millis(5)));
        lane.on_first(first(), now, false);
        assert_eq!(outcome_of(lane.on_answer(Ok(()))), Outcome::Delivered);
        assert!(matches!(lane.on_settled(255), Step::Look));
        assert_eq!(lane.failures, 0);
        assert!(matches!(lane.on_first(None, now, false), Step::End));
    }

    #[test]
    fn what_is_over_or_refused_goes_no_further_and_a_tenant_is_handed_its_own() {
        let mut lane = lane();
        let over = lane.on_first(first(), Timestamp::from_millis(86_400_000), true);
        assert_eq!(outcome_of(over), Outcome::Expired);
        lane.on_first(first(), Timestamp::from_millis(0), false);
        let unknown = AskError::NoSuchAtSign("@bob".parse().unwrap());
        assert_eq!(outcome_of(lane.on_found(Err(unknown))), Outcome::Errored);
        assert!(matches!(lane.on_settled(0), Step::Look));
        assert!(matches!(lane.on_first(first(), Timestamp::from_millis(0), true), Step::HandOver(_)));
        assert_eq!(outcome_of(lane.on_handed_over(false)), Outcome::Retrying);
        assert!(matches!(lane.on_handed_over(true), Step::Look));
    }
}
