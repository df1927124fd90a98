//! What to send next, to whom, and what to make of the answers. Pure: time and chance are handed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use at_protocol::AtSign;
use atedge_adapters::StreamName;

use super::drain::{Drain, DrainRules};
use super::flow::{Flow, FlowRules, NoteStatus, Pinned, Step, Time};
use super::pace::{Backoff, Dice};
use crate::outbox::{BatchLimit, FlowKey, LaneId, Priority, Receipted, Waiting};
use crate::payload::{Boot, Lane, NoteId};

/// Steps under way at once, over all flows.
const AT_ONCE: usize = 16;
/// Pauses while our own server is not reached.
const UNREACHABLE: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };

/// How the streams are sent, and to whom.
pub type StreamRules = BTreeMap<StreamName, (Vec<AtSign>, Arc<FlowRules>)>;

/// All that decides how it is sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SendRules {
    /// Each stream.
    pub streams: StreamRules,
    /// What has piled up.
    pub drain: DrainRules,
    /// Streams of which the newest values are to be had as well, and how long those stay when nothing new comes.
    pub latest: BTreeMap<StreamName, Duration>,
    /// Streams that may be lost, so that nobody waits for the disk.
    pub samples: BTreeSet<StreamName>,
}

/// Something to be done for a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take records `from` to `to` of the outbox, as many as `limit` allows, and send them.
    Send {
        /// Of which flow.
        key: FlowKey,
        /// Device, stream and boot.
        lane: Arc<Lane>,
        /// The first number.
        from: u64,
        /// The last number.
        to: u64,
        /// How much a notification may hold.
        limit: BatchLimit,
        /// How long servers may keep it.
        ttln: Duration,
        /// What the id is made of.
        attempt: u64,
    },
    /// Ask what became of a notification.
    Ask {
        /// Of which flow.
        key: FlowKey,
        /// The first number that it carries.
        first: u64,
        /// Its id.
        id: NoteId,
    },
}

/// The place of a flow among those to the same reader from the same device and stream, the oldest boot first.
type Age = (AtSign, Arc<Lane>, LaneId);

/// What goes first of all that is due: what is new before what has piled up, and the important before the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    is_behind: bool,
    priority: Priority,
}

/// All flows, and when each wants something.
pub struct Schedule {
    streams: StreamRules,
    /// Boxed: the map's nodes are half empty.
    flows: BTreeMap<FlowKey, Box<(Class, Flow)>>,
    /// The flows of boots before this one that are not drained: what is older goes first.
    earlier: BTreeSet<Age>,
    due: BTreeMap<Class, BTreeSet<(Time, FlowKey)>>,
    under_way: usize,
    drain: Drain,
    /// The flows whose step under way is the drain's.
    draining: BTreeSet<FlowKey>,
    boot: Boot,
    sends: u32,
    /// Failures in a row to reach our own server, and until when nothing is tried because of them.
    unreached: u32,
    paused_until: Time,
    dice: Dice,
}

impl Schedule {
    /// A schedule without flows, for the agent's run `boot`.
    pub fn new(rules: SendRules, boot: Boot, seed: u64) -> Self {
        let SendRules { streams, drain, .. } = rules;
        let mut dice = Dice::new(seed);
        Self {
            streams,
            flows: BTreeMap::new(),
            earlier: BTreeSet::new(),
            due: BTreeMap::new(),
            under_way: 0,
            drain: Drain::new(drain, AT_ONCE, &mut dice),
            draining: BTreeSet::new(),
            boot,
            sends: 0,
            unreached: 0,
            paused_until: Time::ZERO,
            dice,
        }
    }

    /// The streams and their readers are these from now on. Flows to readers that are none any more are
    /// forgotten, whatever is under way for them; new readers' flows are added by [`Schedule::add_waiting`].
    pub fn configure(&mut self, rules: SendRules, now: Time) {
        self.streams = rules.streams;
        self.drain.follow(rules.drain);
        let keys: Vec<FlowKey> = self.flows.keys().cloned().collect();
        for key in keys {
            let stream = self.flows.get(&key).and_then(|kept| self.streams.get(&kept.1.lane.stream));
            let rules = stream
                .filter(|(readers, _)| readers.contains(&key.reader))
                .map(|(_, rules)| Arc::clone(rules));
            match rules {
                Some(rules) => self.change(key, now, |flow| {
                    flow.iter_mut().for_each(|flow| flow.follow(Arc::clone(&rules)))
                }),
                None => self.forget(&key),
            }
        }
    }

    fn forget(&mut self, key: &FlowKey) {
        let Some((class, flow)) = self.flows.remove(key).map(|kept| *kept) else { return };
        if let Some(due) = flow.due() {
            self.due.entry(class).or_default().remove(&(due, key.clone()));
        }
        self.earlier.remove(&age(key, &flow));
    }

    /// A flow that waited when the agent started, or whose reader is new.
    pub fn add_waiting(&mut self, waiting: Waiting, now: Time) {
        let Waiting { key, lane, upto, last } = waiting;
        let Some((_, rules)) = self.streams.get(&lane.stream) else { return };
        let rules = Arc::clone(rules);
        self.change(key, now, |flow| {
            flow.get_or_insert_with(|| Flow::new(lane, rules, upto)).grow(last, now, true);
        });
    }

    /// A lane got records up to `last`.
    pub fn on_grown(&mut self, id: LaneId, lane: &Arc<Lane>, last: u64, now: Time) {
        let Some((readers, rules)) = self.streams.get(&lane.stream) else { return };
        let (readers, rules) = (readers.clone(), Arc::clone(rules));
        for reader in readers {
            self.change(FlowKey { lane: id, reader }, now, |flow| {
                flow.get_or_insert_with(|| Flow::new(Arc::clone(lane), Arc::clone(&rules), 0))
                    .grow(last, now, false);
            });
        }
    }

    /// What to do at `now`, one thing at a time; each is answered by one of `on_sent`, `on_gone`,
    /// `on_status`, `on_failed`, `on_unreachable`.
    pub fn next(&mut self, now: Time) -> Option<Action> {
        while self.under_way < AT_ONCE && self.paused_until <= now {
            let (_, key) = self.ready().find(|(due, _)| *due <= now)?;
            let key = key.clone();
            let (epoch, sends) = (self.boot.epoch(), &mut self.sends);
            let attempt = || {
                *sends += 1;
                NoteId::attempt(epoch, *sends)
            };
            let (class, flow) = self.flows.get_mut(&key)?.as_mut();
            let class = *class;
            let places = self.due.entry(class).or_default();
            if let Some(due) = flow.due() {
                places.remove(&(due, key.clone()));
            }
            let step = flow.step(now, attempt);
            if let Some(due) = flow.due() {
                places.insert((due, key.clone()));
            }
            let (lane, rules) = (Arc::clone(&flow.lane), flow.rules());
            let Some(step) = step else { continue };
            self.under_way += 1;
            if class.is_behind {
                self.drain.begin();
                self.draining.insert(key.clone());
            }
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
    pub fn deadline(&self) -> Option<Time> {
        let due = self.ready().map(|(due, _)| due).min().filter(|_| self.under_way < AT_ONCE)?;
        Some(due.max(self.paused_until))
    }

    /// Of each class, in their order, the first flow that may go, and when.
    fn ready(&self) -> impl Iterator<Item = (Time, &FlowKey)> {
        self.due.iter().filter_map(|(class, due)| {
            let not_before = if class.is_behind { self.drain.next()? } else { Time::ZERO };
            let (due, key) = due.iter().find(|(_, key)| !self.waits_for_an_earlier_boot(key))?;
            Some(((*due).max(not_before), key))
        })
    }

    /// Whether records of an earlier boot are yet to go: they are older.
    fn waits_for_an_earlier_boot(&self, key: &FlowKey) -> bool {
        // Soon after a start nothing is left of earlier boots, and no flow waits.
        let Some(flow) = self.flows.get(key).filter(|_| !self.earlier.is_empty()).map(|kept| &kept.1) else {
            return false;
        };
        let is_of = |(reader, lane, _): &&Age| {
            *reader == key.reader && lane.device == flow.lane.device && lane.stream == flow.lane.stream
        };
        self.earlier.range(..age(key, flow)).rev().take_while(is_of).any(|(reader, _, lane)| {
            let key = FlowKey { lane: *lane, reader: reader.clone() };
            self.flows.get(&key).is_some_and(|kept| kept.1.has_unsent_or_under_way())
        })
    }

    /// What is being sent for `key` has so many `bytes`: told before it is said what became of it.
    pub fn on_taken(&mut self, key: &FlowKey, bytes: usize, now: Time) {
        if self.draining.contains(key) {
            self.drain.spend(bytes, now);
        }
    }

    /// Records `from` to `last` were stored under `id`; `more` as in [`Flow::on_sent`]. Returns up to where
    /// the reader has everything if that has changed, as do those below.
    pub fn on_sent(
        &mut self,
        key: &FlowKey,
        from: u64,
        last: u64,
        more: bool,
        id: NoteId,
        now: Time,
    ) -> Option<u64> {
        self.reached(now);
        self.answer(key, now, |flow, _| flow.on_sent(from, last, more, id, now))
    }

    /// Records `from` to `to` are not to be sent (any more).
    pub fn on_gone(&mut self, key: &FlowKey, from: u64, to: u64, now: Time) -> Option<u64> {
        self.answer(key, now, |flow, _| flow.on_gone(from, to, now))
    }

    /// What was to be sent is refused for good and was set aside: a gap stands in its place.
    pub fn on_aside(&mut self, key: &FlowKey, now: Time) {
        self.answer(key, now, |flow, _| flow.on_aside(now));
    }

    /// What became of the notification that carries the batch from `first` on.
    pub fn on_status(&mut self, key: &FlowKey, first: u64, status: NoteStatus, now: Time) -> Option<u64> {
        self.reached(now);
        self.answer(key, now, |flow, _| flow.on_status(first, status, now))
    }

    /// It failed for this reader, for now; the server may have what was `sent`.
    pub fn on_failed(&mut self, key: &FlowKey, sent: Option<Pinned>, now: Time) {
        self.answer(key, now, |flow, dice| flow.on_failed(sent, now, dice));
    }

    /// Our own server was not reached, or did not answer; it may have what was `sent`. All flows wait.
    /// Returns whether this is the first failure since it was reached.
    pub fn on_unreachable(&mut self, key: &FlowKey, sent: Option<Pinned>, now: Time) -> bool {
        // Those that failed together count once.
        if self.paused_until <= now {
            self.unreached += 1;
            self.paused_until = now + UNREACHABLE.pause(self.unreached, &mut self.dice);
        }
        self.answer(key, now, |flow, _| flow.on_unreachable(sent));
        self.unreached == 1
    }

    /// A receipt came, and the outbox has taken it.
    pub fn on_receipt(&mut self, receipt: &Receipted, now: Time) -> Option<u64> {
        let mut confirmed = None;
        self.change(receipt.key.clone(), now, |flow| {
            if let Some(flow) = flow {
                flow.on_receipt(receipt, now);
                confirmed = Some(flow.confirmed()).filter(|after| *after > receipt.confirmed);
            }
        });
        confirmed
    }

    /// The agent stops: what waits for company goes now.
    pub fn hurry(&mut self, now: Time) {
        let keys: Vec<FlowKey> = self.flows.keys().cloned().collect();
        for key in keys {
            self.change(key, now, |flow| flow.iter_mut().for_each(|flow| flow.hurry(now)));
        }
    }

    /// Whether everything was sent that may be.
    pub fn is_sent(&self) -> bool {
        self.flows.values().all(|kept| kept.1.is_sent())
    }

    /// Whether our own server was not reached when last tried.
    pub const fn is_cut_off(&self) -> bool {
        self.unreached > 0
    }

    fn reached(&mut self, now: Time) {
        if self.unreached > 0 {
            self.drain.reconnect(now, &mut self.dice);
        }
        self.unreached = 0;
        self.paused_until = Time::ZERO;
    }

    /// The end of something under way.
    fn answer(&mut self, key: &FlowKey, now: Time, change: impl FnOnce(&mut Flow, &mut Dice)) -> Option<u64> {
        self.under_way -= 1;
        if self.draining.remove(key) {
            self.drain.end();
        }
        let mut dice = self.dice.clone();
        let mut confirmed = None;
        self.change(key.clone(), now, |flow| {
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
    fn change(&mut self, key: FlowKey, now: Time, change: impl FnOnce(&mut Option<Flow>)) {
        let (class, mut flow) = self.flows.remove(&key).map(|kept| *kept).unzip();
        if let (Some(class), Some(due)) = (class, flow.as_ref().and_then(Flow::due)) {
            self.due.entry(class).or_default().remove(&(due, key.clone()));
        }
        change(&mut flow);
        let Some(flow) = flow else { return };
        if flow.lane.boot != self.boot {
            let age = age(&key, &flow);
            if flow.is_drained() {
                self.earlier.remove(&age);
                return;
            }
            self.earlier.insert(age);
        }
        let class = Class { is_behind: flow.is_behind(now), priority: flow.rules().priority };
        if let Some(due) = flow.due() {
            self.due.entry(class).or_default().insert((due, key.clone()));
        }
        self.flows.insert(key, Box::new((class, flow)));
    }
}

fn age(key: &FlowKey, flow: &Flow) -> Age {
    (key.reader.clone(), Arc::clone(&flow.lane), key.lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(2);

    fn lane(boot: Boot) -> Arc<Lane> {
        Arc::new(Lane { device: "oven".parse().unwrap(), stream: "process".parse().unwrap(), boot })
    }

    fn sent(action: Option<Action>) -> Option<(Boot, u64, u64)> {
        match action {
            Some(Action::Send { lane, from, to, .. }) => Some((lane.boot, from, to)),
            Some(Action::Ask { .. }) | None => None,
        }
    }

    /// A later boot's full batch must not overtake what an earlier boot left behind, however little.
    #[test]
    fn what_an_earlier_boot_left_goes_first() {
        let (old, new) = (Boot::new(1, 7), Boot::new(2, 9));
        let reader: AtSign = "@ops".parse().unwrap();
        let limit = BatchLimit { records: 10, bytes: 1 << 20 };
        let rules = FlowRules {
            limit,
            linger: LINGER,
            receipts: true,
            aead: false,
            ttln: Duration::from_secs(60),
            priority: Priority::default(),
        };
        let streams =
            StreamRules::from([("process".parse().unwrap(), (vec![reader.clone()], Arc::new(rules)))]);
        let mut schedule = Schedule::new(SendRules { streams, ..SendRules::default() }, new, 1);
        let left = FlowKey { lane: 1, reader };
        let now = LINGER * 2;
        schedule.on_grown(2, &lane(new), 10, now);
        schedule.add_waiting(Waiting { key: left.clone(), lane: lane(old), upto: 0, last: 3 }, now);

        assert_eq!(sent(schedule.next(now)), Some((old, 1, 3)));
        assert_eq!(schedule.next(now), None, "the later boot waits while the earlier is under way");
        schedule.on_failed(&left, None, now);
        assert_eq!(sent(schedule.next(now)), None, "and while it is to be tried again");
        let again = schedule.deadline().expect("it is tried again");
        assert_eq!(sent(schedule.next(again)), Some((old, 1, 3)));
        schedule.on_sent(&left, 1, 3, false, NoteId::new(old, 1, 1), again);
        assert_eq!(sent(schedule.next(again)), Some((new, 1, 10)));
    }

    /// What has piled up keeps to its rate and its places; what is new goes past it, the important first.
    #[test]
    fn what_is_new_goes_past_what_has_piled_up() {
        let boot = Boot::new(1, 7);
        let limit = BatchLimit { records: 10, bytes: 1 << 20 };
        let rules = |priority: u8| FlowRules {
            limit,
            linger: Duration::ZERO,
            receipts: true,
            aead: false,
            ttln: Duration::from_secs(60),
            priority: priority.try_into().unwrap(),
        };
        let reader: AtSign = "@ops".parse().unwrap();
        let stream =
            |name: &str, priority| (name.parse().unwrap(), (vec![reader.clone()], Arc::new(rules(priority))));
        let streams = StreamRules::from([stream("history", 9), stream("process", 5), stream("alarm", 0)]);
        let drain = DrainRules { rate: Some(100), ..DrainRules::default() };
        let mut schedule = Schedule::new(SendRules { streams, drain, ..SendRules::default() }, boot, 1);
        let lane = |stream: &str| {
            Arc::new(Lane { device: "oven".parse().unwrap(), stream: stream.parse().unwrap(), boot })
        };
        let now = Duration::from_secs(100);
        schedule.on_grown(1, &lane("history"), 1000, now);
        schedule.on_grown(2, &lane("process"), 1, now);
        schedule.on_grown(3, &lane("alarm"), 1, now);
        let key = |lane| FlowKey { lane, reader: reader.clone() };
        let next = |schedule: &mut Schedule, now| match schedule.next(now) {
            Some(Action::Send { key, to, .. }) => Some((key.lane, to)),
            _ => None,
        };
        assert_eq!(next(&mut schedule, now), Some((3, 1)));
        assert_eq!(next(&mut schedule, now), Some((2, 1)));
        assert_eq!(next(&mut schedule, now), Some((1, 1000)));
        schedule.on_taken(&key(1), 500, now);
        schedule.on_sent(&key(1), 1, 10, true, NoteId::new(boot, 1, 1), now);
        schedule.on_sent(&key(3), 1, 1, false, NoteId::new(boot, 1, 2), now);
        assert_eq!(next(&mut schedule, now), None, "500 bytes are to be paid for");
        schedule.on_grown(3, &lane("alarm"), 2, now);
        assert_eq!(next(&mut schedule, now), Some((3, 2)), "an alarm does not wait for that");
        assert_eq!(schedule.deadline(), Some(now + Duration::from_secs(5)));
        assert_eq!(next(&mut schedule, now + Duration::from_secs(5)), Some((1, 1000)));
    }

    /// Readers come and go while the agent runs; what is under way for one that went must not confuse.
    #[test]
    fn a_changed_configuration_is_followed_at_once() {
        let boot = Boot::new(1, 7);
        let [stays, goes, comes] = ["@stays", "@goes", "@comes"].map(|name| name.parse::<AtSign>().unwrap());
        let limit = BatchLimit { records: 10, bytes: 1 << 20 };
        let priority = Priority::default();
        let rules = FlowRules {
            limit,
            linger: LINGER,
            receipts: true,
            aead: false,
            ttln: Duration::from_secs(60),
            priority,
        };
        let streams = |readers: [&AtSign; 2], rules| {
            let readers = readers.into_iter().cloned().collect();
            let streams = StreamRules::from([("process".parse().unwrap(), (readers, Arc::new(rules)))]);
            SendRules { streams, ..SendRules::default() }
        };
        let mut schedule = Schedule::new(streams([&stays, &goes], rules), boot, 1);
        let key = |reader: &AtSign| FlowKey { lane: 1, reader: reader.clone() };
        let waiting = |reader: &AtSign| Waiting { key: key(reader), lane: lane(boot), upto: 0, last: 3 };
        let now = LINGER;
        let to = |action: Option<Action>| match action {
            Some(Action::Send { key, limit, .. }) => Some((key.reader, limit.records)),
            Some(Action::Ask { .. }) | None => None,
        };
        schedule.on_grown(1, &lane(boot), 3, Duration::ZERO);
        assert_eq!(to(schedule.next(now)), Some((goes.clone(), 10)));

        let limit = BatchLimit { records: 2, ..limit };
        schedule.configure(streams([&stays, &comes], FlowRules { limit, ..rules }), now);
        schedule.add_waiting(waiting(&stays), now);
        schedule.add_waiting(waiting(&comes), now);
        assert_eq!(to(schedule.next(now)), Some((comes.clone(), 2)));
        assert_eq!(to(schedule.next(now)), Some((stays.clone(), 2)));
        assert_eq!(schedule.next(now), None, "nobody else is sent to");
        for reader in [&goes, &comes, &stays] {
            schedule.on_sent(&key(reader), 1, 3, false, NoteId::new(boot, 1, 1), now);
        }
        assert!(schedule.is_sent());
        schedule.on_grown(1, &lane(boot), 4, now);
        assert_eq!(to(schedule.next(now + LINGER)).map(|(reader, _)| reader), Some(comes));
        assert_eq!(to(schedule.next(now + LINGER)).map(|(reader, _)| reader), Some(stays));
        assert_eq!(schedule.next(now + LINGER), None);
    }
}
