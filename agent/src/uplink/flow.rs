//! One reader in one lane: what it was sent, what it has, what comes next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::pace::{Backoff, Dice};
use crate::outbox::{BatchLimit, Priority, Receipted};
use crate::payload::{Lane, NoteId};

/// Time since the uplink began.
pub type Time = Duration;

/// Batches of one flow that may be unconfirmed at first, and again once the reader has been silent. A reader that
/// is away costs its server this many and no more; the outbox keeps the rest.
const WINDOW: usize = 16;
/// Most batches that may be unconfirmed: as often as the reader confirms something, twice as many may be, up to
/// these. Receipts come once a second, and what has piled up need not wait for each.
const WIDEST: usize = 256;
/// First and longest pause between questions for the state of a notification.
const ASK: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(60) };
/// After this many looks (half a minute) a notification that errored is sent again under a new id.
const PATIENCE: u32 = 6;
/// First and longest pause before a batch without receipt is sent again.
const REDELIVER: Backoff = Backoff { first: Duration::from_secs(30), longest: Duration::from_secs(3600) };
/// A batch that a receipt reports missing is sent again if it was sent at least this long ago: a receipt
/// may cross with what it lacks.
const CROSSING: Duration = Duration::from_secs(5);
/// First and longest pause after this reader could not be sent to.
const RETRY: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(300) };

/// What is still unsent so long after it might have gone has piled up.
const BEHIND: Duration = Duration::from_secs(10);

/// How a stream is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRules {
    /// How much a batch may hold.
    pub limit: BatchLimit,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
    /// Only receipts confirm; else it also does that the reader's server has it.
    pub receipts: bool,
    /// Its readers get it in sealed envelopes or not at all.
    pub aead: bool,
    /// How long a server may keep a notification for a reader that is away.
    pub ttln: Duration,
    /// Who goes first of those that are due.
    pub priority: Priority,
}

/// What the flow wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send records `from` to `to`, as many as fit, as attempt `attempt`.
    Send { from: u64, to: u64, attempt: u64 },
    /// Ask what became of the notification that carries the batch from `first` on.
    Ask { first: u64, id: NoteId },
}

/// What the sender's server says of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteStatus {
    /// The reader's server has it.
    Delivered,
    /// It is on its way.
    Queued,
    /// An attempt to deliver it failed. Most servers try again, some do not.
    Errored,
    /// It will not arrive: expired, or no longer known.
    Failed,
}

/// A batch that was sent.
#[derive(Debug)]
struct Batch {
    first: u64,
    last: u64,
    id: Option<NoteId>,
    sent_at: Time,
    /// When to ask, or to send again.
    look_at: Time,
    looks: u32,
    /// It is confirmed, and waits for those before it.
    done: bool,
    /// It must be sent again.
    again: bool,
}

/// A batch that may have been stored, although nobody said so: it is tried again under the same id with
/// the same records, so that the server can drop it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// The number that was asked for.
    pub from: u64,
    /// The last number that was taken.
    pub to: u64,
    /// The attempt that the id was made of.
    pub attempt: u64,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) lane: Arc<Lane>,
    rules: Arc<FlowRules>,
    /// The reader has everything up to here.
    confirmed: u64,
    /// The first number that this run has not sent.
    next: u64,
    /// The last number there is.
    last: u64,
    /// When the first of the unsent was noticed.
    unsent_since: Time,
    batches: VecDeque<Batch>,
    /// How many of them there may be.
    window: usize,
    /// A step is under way.
    busy: bool,
    failures: u32,
    not_before: Time,
    pinned: Option<Pinned>,
}

impl Flow {
    /// A flow whose reader has everything up to `confirmed`.
    pub(super) fn new(lane: Arc<Lane>, rules: Arc<FlowRules>, confirmed: u64) -> Self {
        Self {
            lane,
            rules,
            confirmed,
            next: confirmed + 1,
            last: confirmed,
            unsent_since: Time::ZERO,
            batches: VecDeque::new(),
            window: WINDOW,
            busy: false,
            failures: 0,
            not_before: Time::ZERO,
            pinned: None,
        }
    }

    pub(super) fn rules(&self) -> &FlowRules {
        &self.rules
    }

    /// Whether something has piled up: more than one batch of it, or it waits for long.
    pub(super) fn is_behind(&self, now: Time) -> bool {
        let unsent = usize::try_from((self.last + 1).saturating_sub(self.next)).unwrap_or(usize::MAX);
        let since = now.saturating_sub(self.unsent_since);
        unsent > self.rules.limit.records || (unsent > 0 && since > self.rules.linger + BEHIND)
    }

    /// It is sent by these rules from now on.
    pub(super) fn follow(&mut self, rules: Arc<FlowRules>) {
        self.rules = rules;
    }

    /// Whether its reader has everything.
    pub(super) const fn is_drained(&self) -> bool {
        self.confirmed >= self.last && !self.busy
    }

    /// Whether it has something that was never sent.
    const fn has_unsent(&self) -> bool {
        self.next <= self.last
    }

    /// The lane has records up to `last`. Those that `wait` were there before and wait for no others.
    pub(super) fn grow(&mut self, last: u64, now: Time, wait: bool) {
        if !self.has_unsent() {
            self.unsent_since = if wait { now.saturating_sub(self.rules.linger) } else { now };
        }
        self.last = self.last.max(last);
    }

    /// Whether everything was sent that may be.
    pub(super) fn is_sent(&self) -> bool {
        !self.busy && (!self.has_unsent() || self.batches.len() >= self.window)
    }

    /// Whether records of it are yet to be taken by our server.
    pub(super) const fn has_unsent_or_under_way(&self) -> bool {
        self.busy || self.has_unsent()
    }

    /// What waits for company waits no longer.
    pub(super) fn hurry(&mut self, now: Time) {
        self.unsent_since = now.saturating_sub(self.rules.linger);
    }

    /// When it wants [`Flow::step`] called; `None` while it waits for others.
    pub(super) fn due(&self) -> Option<Time> {
        if self.busy {
            return None;
        }
        let looks = self.open_batches().map(|(_, due)| due);
        looks.chain(self.next_batch_due()).min().map(|due| due.max(self.not_before))
    }

    /// The batches that are not confirmed, and when each is due. Receipts are cumulative, so only the
    /// first of those is sent again by the clock: the others follow when the reader is back and says so.
    fn open_batches(&self) -> impl Iterator<Item = (&Batch, Time)> {
        let open = self.batches.iter().filter(|batch| !batch.done).enumerate();
        open.filter_map(|(index, batch)| match (batch.again, self.rules.receipts && index > 0) {
            (true, _) => Some((batch, Time::ZERO)),
            (false, false) => Some((batch, batch.look_at)),
            (false, true) => None,
        })
    }

    fn next_batch_due(&self) -> Option<Time> {
        if !self.has_unsent() || self.batches.len() >= self.window {
            return None;
        }
        let waiting = self.last - self.next + 1;
        let full = usize::try_from(waiting).unwrap_or(usize::MAX) >= self.rules.limit.records;
        Some(if full || self.pinned.is_some() { Time::ZERO } else { self.unsent_since + self.rules.linger })
    }

    /// What to do at `now`; `attempt` makes a number that was never used. Answered by one of the
    /// `on_...` below, until when nothing else is due.
    pub(super) fn step(&mut self, now: Time, mut attempt: impl FnMut() -> u64) -> Option<Step> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        self.busy = true;
        if let Some(Pinned { from, to, attempt }) = self.pinned {
            return Some(Step::Send { from, to, attempt });
        }
        let receipts = self.rules.receipts;
        let open = self.open_batches().find(|(_, due)| *due <= now);
        let open =
            open.map(|(batch, _)| (batch.first, batch.last, batch.id.clone().filter(|_| !batch.again)));
        match open {
            Some((first, _, Some(id))) if !receipts => Some(Step::Ask { first, id }),
            Some((from, to, _)) => {
                self.window = WINDOW;
                Some(Step::Send { from, to, attempt: attempt() })
            }
            None => Some(Step::Send { from: self.next, to: self.last, attempt: attempt() }),
        }
    }

    /// The server has stored records `from` to `last` under `id`. They were cut short of what was asked
    /// for if there are `more`, which then need not wait for company.
    pub(super) fn on_sent(&mut self, from: u64, last: u64, more: bool, id: NoteId, now: Time) {
        self.calm(now);
        let looks = self.find(from).map_or(0, |index| self.batches[index].looks);
        let pause = if self.rules.receipts { REDELIVER } else { ASK }.most(looks + 1);
        let sent = Batch {
            first: from,
            last,
            id: Some(id),
            sent_at: now,
            look_at: now + pause,
            looks: looks + 1,
            done: false,
            again: false,
        };
        self.place(sent, now);
        if more {
            self.unsent_since = now.saturating_sub(self.rules.linger);
        }
    }

    /// Records `from` to `to` are no longer there: nobody will get them.
    pub(super) fn on_gone(&mut self, from: u64, to: u64, now: Time) {
        self.calm(now);
        let gone = Batch {
            first: from,
            last: to,
            id: None,
            sent_at: now,
            look_at: now,
            looks: 0,
            done: true,
            again: false,
        };
        self.place(gone, now);
    }

    /// What was to be sent was set aside: what is there in its place is to be sent.
    pub(super) fn on_aside(&mut self, now: Time) {
        self.calm(now);
    }

    /// What became of `Step::Ask`.
    pub(super) fn on_status(&mut self, first: u64, status: NoteStatus, now: Time) {
        self.calm(now);
        let Some(index) = self.find(first) else { return };
        let batch = &mut self.batches[index];
        match status {
            NoteStatus::Delivered => {
                batch.done = true;
                self.widen();
            }
            NoteStatus::Failed => batch.again = true,
            NoteStatus::Errored if batch.looks >= PATIENCE => batch.again = true,
            NoteStatus::Queued | NoteStatus::Errored => {
                batch.looks += 1;
                batch.look_at = now + ASK.most(batch.looks);
            }
        }
        self.pop_done();
    }

    /// The step failed; another time it may not. The server may have what was `sent`.
    pub(super) fn on_failed(&mut self, sent: Option<Pinned>, now: Time, dice: &mut Dice) {
        self.failures += 1;
        self.not_before = now + RETRY.pause(self.failures, dice);
        self.on_unreachable(sent);
    }

    /// The step failed since our own server is not reached; the schedule waits for all flows.
    pub(super) fn on_unreachable(&mut self, sent: Option<Pinned>) {
        self.busy = false;
        self.pinned = sent.or(self.pinned);
    }

    /// A receipt came.
    pub(super) fn on_receipt(&mut self, receipt: &Receipted, now: Time) {
        if receipt.confirmed > self.confirmed {
            self.confirmed = receipt.confirmed;
            self.widen();
        }
        self.next = self.next.max(receipt.confirmed + 1);
        for batch in &mut self.batches {
            let lacks =
                receipt.missing.iter().any(|(first, last)| *first <= batch.last && batch.first <= *last);
            if lacks {
                batch.again |= batch.sent_at + CROSSING <= now;
            } else {
                batch.done |= batch.last <= receipt.upto;
            }
        }
        self.pop_done();
    }

    /// What the reader has, from the first number on.
    pub(super) const fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// The reader takes what it is sent.
    fn widen(&mut self) {
        self.window = WIDEST.min(self.window * 2);
    }

    /// A step went well.
    fn calm(&mut self, now: Time) {
        self.busy = false;
        self.failures = 0;
        self.not_before = now;
        self.pinned = None;
    }

    fn find(&self, first: u64) -> Option<usize> {
        self.batches.iter().position(|batch| batch.first == first)
    }

    /// Puts a batch in the place of the one that begins where it begins. If it is shorter, the rest of
    /// that one must be sent too.
    fn place(&mut self, batch: Batch, now: Time) {
        if let Some(index) = self.find(batch.first) {
            let old = &mut self.batches[index];
            let rest = (batch.last + 1, old.last);
            *old = batch;
            if rest.0 <= rest.1 {
                let rest = Batch {
                    first: rest.0,
                    last: rest.1,
                    id: None,
                    sent_at: now,
                    look_at: now,
                    looks: 0,
                    done: false,
                    again: true,
                };
                self.batches.insert(index + 1, rest);
            }
        } else if batch.last >= self.next {
            self.next = batch.last + 1;
            self.unsent_since = now;
            // As most flows never have more than one, they get room for no more.
            self.batches.reserve_exact(usize::from(self.batches.is_empty()));
            self.batches.push_back(batch);
        }
        self.pop_done();
    }

    fn pop_done(&mut self) {
        while let Some(batch) = self.batches.front() {
            if !batch.done && batch.last > self.confirmed {
                break;
            }
            self.confirmed = self.confirmed.max(batch.last);
            self.batches.pop_front();
        }
        if self.batches.is_empty() {
            // There are as many flows as devices, and most have nothing under way.
            self.batches = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::FlowKey;
    use crate::payload::Boot;

    const RECORDS: u64 = 10;

    /// Sends what may go; how many batches that are.
    fn send_all(flow: &mut Flow, now: Time) -> usize {
        let mut sent = 0;
        while let Some(Step::Send { from, attempt, .. }) = flow.step(now, || 1) {
            flow.on_sent(from, from + RECORDS - 1, true, NoteId::new(flow.lane.boot, from, attempt), now);
            sent += 1;
        }
        sent
    }

    #[test]
    fn a_reader_that_confirms_is_sent_more_at_once_and_one_that_is_silent_less() {
        let lane = Lane {
            device: "oven".parse().unwrap(),
            stream: "process".parse().unwrap(),
            boot: Boot::new(1, 1),
        };
        let rules = FlowRules {
            limit: BatchLimit { records: 10, bytes: 1 << 20 },
            linger: Duration::ZERO,
            receipts: true,
            aead: false,
            ttln: Duration::from_secs(60),
            priority: Priority::default(),
        };
        let lane = Arc::new(lane);
        let mut flow = Flow::new(Arc::clone(&lane), Arc::new(rules), 0);
        let mut now = Time::from_secs(1);
        flow.grow(1_000_000, now, true);
        let reader = "@ops".parse().unwrap();
        let mut receipt =
            Receipted { key: FlowKey { lane: 1, reader }, confirmed: 0, upto: 0, missing: Vec::new() };
        let mut sent = 0;
        for expected in [16, 32, 64, 128, 256, 256] {
            let batches = send_all(&mut flow, now);
            assert_eq!(batches, expected);
            sent += batches as u64 * RECORDS;
            (receipt.confirmed, receipt.upto) = (sent, sent);
            flow.on_receipt(&receipt, now);
        }
        assert_eq!(send_all(&mut flow, now), 256);
        now += REDELIVER.most(1);
        assert_eq!(send_all(&mut flow, now), 1, "the first is sent again, and nothing new");
        (receipt.confirmed, receipt.upto) = (sent + 256 * RECORDS, sent + 256 * RECORDS);
        flow.on_receipt(&receipt, now);
        assert_eq!(send_all(&mut flow, now), 32);
    }
}
