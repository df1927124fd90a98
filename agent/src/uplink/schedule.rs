//! What to send next, to whom, and what to make of the answers. Pure: time and chance are handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use at_protocol::AtSign;
use atedge_adapters::StreamName;

use super::flow::{Flow, FlowRules, NoteStatus, Pinned, Step, Time};
use super::pace::{Backoff, Dice};
use crate::outbox::{BatchLimit, FlowKey, LaneId, Receipted, Waiting};
use crate::payload::{Boot, Lane, NoteId};

/// Steps under way at once, over all flows.
const AT_ONCE: usize = 8;
/// Pauses while our own server is not reached.
const UNREACHABLE: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };

/// How the streams are sent, and to whom.
pub type StreamRules = BTreeMap<StreamName, (Vec<AtSign>, FlowRules)>;

/// Something to be done for a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Take records `from` to `to` of the outbox, as many as `limit` allows, and send them.
    Send {
        key: FlowKey,
        lane: Arc<Lane>,
        from: u64,
        to: u64,
        limit: BatchLimit,
        ttln: Duration,
        attempt: u64,
    },
    /// Ask what became of a notification.
    Ask { key: FlowKey, first: u64, id: NoteId },
}

/// All flows, and when each wants something.
pub(super) struct Schedule {
    streams: StreamRules,
    flows: BTreeMap<FlowKey, Flow>,
    due: BTreeSet<(Time, FlowKey)>,
    under_way: usize,
    boot: Boot,
    sends: u32,
    /// Failures in a row to reach our own server, and until when nothing is tried because of them.
    unreached: u32,
    paused_until: Time,
    dice: Dice,
}

impl Schedule {
    /// A schedule without flows, for the agent's run `boot`.
    pub(super) fn new(streams: StreamRules, boot: Boot, seed: u64) -> Self {
        Self {
            streams,
            flows: BTreeMap::new(),
            due: BTreeSet::new(),
            under_way: 0,
            boot,
            sends: 0,
            unreached: 0,
            paused_until: Time::ZERO,
            dice: Dice::new(seed),
        }
    }

    /// A flow that waited when the agent started.
    pub(super) fn add_waiting(&mut self, waiting: Waiting, now: Time) {
        let Waiting { key, lane, upto, last } = waiting;
        let Some((_, rules)) = self.streams.get(&lane.stream) else { return };
        let rules = *rules;
        self.change(key, |flow| {
            flow.get_or_insert_with(|| Flow::new(lane, rules, upto)).grow(last, now, true);
        });
    }

    /// A lane got records up to `last`.
    pub(super) fn on_grown(&mut self, id: LaneId, lane: &Arc<Lane>, last: u64, now: Time) {
        let Some((readers, rules)) = self.streams.get(&lane.stream) else { return };
        let (readers, rules) = (readers.clone(), *rules);
        for reader in readers {
            self.change(FlowKey { lane: id, reader }, |flow| {
                flow.get_or_insert_with(|| Flow::new(Arc::clone(lane), rules, 0)).grow(last, now, false);
            });
        }
    }

    /// What to do at `now`, one thing at a time; each is answered by one of `on_sent`, `on_gone`,
    /// `on_status`, `on_failed`, `on_unreachable`.
    pub(super) fn next(&mut self, now: Time) -> Option<Action> {
        while self.under_way < AT_ONCE && self.paused_until <= now {
            let (_, key) = self.due.first().filter(|(due, _)| *due <= now).cloned()?;
            self.due.pop_first();
            let (epoch, sends) = (self.boot.epoch(), &mut self.sends);
            let attempt = || {
                *sends += 1;
                NoteId::attempt(epoch, *sends)
            };
            let flow = self.flows.get_mut(&key)?;
            let step = flow.step(now, attempt);
            if let Some(due) = flow.due() {
                self.due.insert((due, key.clone()));
            }
            let (lane, rules) = (Arc::clone(&flow.lane), flow.rules());
            let Some(step) = step else { continue };
            self.under_way += 1;
            return Some(match step {
                Step::Send { from, to, attempt } => {
                    Action::Send { key, lane, from, to, limit: rules.limit, ttln: rules.ttln, attempt }
                }
                Step::Ask { first, id } => Action::Ask { key, first, id },
            });
        }
        None
    }

    /// When [`Schedule::next`] may have something; `None` if only an answer or growth can change that.
    pub(super) fn deadline(&self) -> Option<Time> {
        let (due, _) = self.due.first().filter(|_| self.under_way < AT_ONCE)?;
        Some((*due).max(self.paused_until))
    }

    /// Records `from` to `last` were stored under `id`; `more` as in [`Flow::on_sent`]. Returns up to where
    /// the reader has everything if that has changed, as do those below.
    pub(super) fn on_sent(
        &mut self,
        key: &FlowKey,
        from: u64,
        last: u64,
        more: bool,
        id: NoteId,
        now: Time,
    ) -> Option<u64> {
        self.reached();
        self.answer(key, |flow, _| flow.on_sent(from, last, more, id, now))
    }

    /// Records `from` to `to` are not to be sent (any more).
    pub(super) fn on_gone(&mut self, key: &FlowKey, from: u64, to: u64, now: Time) -> Option<u64> {
        self.answer(key, |flow, _| flow.on_gone(from, to, now))
    }

    /// What became of the notification that carries the batch from `first` on.
    pub(super) fn on_status(
        &mut self,
        key: &FlowKey,
        first: u64,
        status: NoteStatus,
        now: Time,
    ) -> Option<u64> {
        self.reached();
        self.answer(key, |flow, _| flow.on_status(first, status, now))
    }

    /// It failed for this reader, for now; the server may have what was `sent`.
    pub(super) fn on_failed(&mut self, key: &FlowKey, sent: Option<Pinned>, now: Time) {
        self.answer(key, |flow, dice| flow.on_failed(sent, now, dice));
    }

    /// Our own server was not reached, or did not answer; it may have what was `sent`. All flows wait.
    /// Returns whether this is the first failure since it was reached.
    pub(super) fn on_unreachable(&mut self, key: &FlowKey, sent: Option<Pinned>, now: Time) -> bool {
        // Those that failed together count once.
        if self.paused_until <= now {
            self.unreached += 1;
            self.paused_until = now + UNREACHABLE.pause(self.unreached, &mut self.dice);
        }
        self.answer(key, |flow, _| flow.on_unreachable(sent));
        self.unreached == 1
    }

    /// A receipt came, and the outbox has taken it.
    pub(super) fn on_receipt(&mut self, receipt: &Receipted, now: Time) -> Option<u64> {
        let mut confirmed = None;
        self.change(receipt.key.clone(), |flow| {
            if let Some(flow) = flow {
                flow.on_receipt(receipt, now);
                confirmed = Some(flow.confirmed()).filter(|after| *after > receipt.confirmed);
            }
        });
        confirmed
    }

    /// The agent stops: what waits for company goes now.
    pub(super) fn hurry(&mut self, now: Time) {
        let keys: Vec<FlowKey> = self.flows.keys().cloned().collect();
        for key in keys {
            self.change(key, |flow| flow.iter_mut().for_each(|flow| flow.hurry(now)));
        }
    }

    /// Whether everything was sent that may be.
    pub(super) fn is_sent(&self) -> bool {
        self.flows.values().all(Flow::is_sent)
    }

    /// Whether our own server was not reached when last tried.
    pub(super) const fn is_cut_off(&self) -> bool {
        self.unreached > 0
    }

    fn reached(&mut self) {
        self.unreached = 0;
        self.paused_until = Time::ZERO;
    }

    /// The end of something under way.
    fn answer(&mut self, key: &FlowKey, change: impl FnOnce(&mut Flow, &mut Dice)) -> Option<u64> {
        self.under_way -= 1;
        let mut dice = self.dice.clone();
        let mut confirmed = None;
        self.change(key.clone(), |flow| {
            if let Some(flow) = flow {
                let before = flow.confirmed();
                change(flow, &mut dice);
                confirmed = Some(flow.confirmed()).filter(|after| *after > before);
            }
        });
        self.dice = dice;
        confirmed
    }

    /// Changes the flow of `key`, which may be none yet, and keeps its place in `due` right. A flow of an
    /// earlier boot is forgotten when its reader has everything, since it will not grow again.
    fn change(&mut self, key: FlowKey, change: impl FnOnce(&mut Option<Flow>)) {
        let mut flow = self.flows.remove(&key);
        if let Some(due) = flow.as_ref().and_then(Flow::due) {
            self.due.remove(&(due, key.clone()));
        }
        change(&mut flow);
        if let Some(flow) = flow.filter(|flow| flow.lane.boot == self.boot || !flow.is_drained()) {
            if let Some(due) = flow.due() {
                self.due.insert((due, key.clone()));
            }
            self.flows.insert(key, flow);
        }
    }
}
