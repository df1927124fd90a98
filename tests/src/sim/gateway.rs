//! The gateway: its real schedule over a queue that forgets nothing in a crash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use at_client::{Found, Memory};
use at_protocol::AtSign;
use at_protocol::directory::{SignedRecord, record_answer, record_question};
use atedge_agent::outbox::{BatchLimit, FlowKey, LaneId, Priority, Receipted, Waiting};
use atedge_agent::payload::{Boot, Lane, NoteId};
use atedge_agent::uplink::pure::{Action, Pinned, Schedule};
use atedge_agent::uplink::{FlowRules, NoteStatus, SendRules, StreamRules};
use atedge_server::store::Notification;

use super::agenda::Time;
use super::lookup;
use super::network::Host;
use super::people::Asked;
use super::server::Work;
use super::world::{Event, World};
use crate::random::Random;

const DEVICES: u64 = 2;
const HOME: Host = Host::First;

pub(super) struct Gateway {
    rules: SendRules,
    // What a crash leaves.
    epoch: u64,
    lanes: Vec<OutLane>,
    next_value: u64,
    /// What was acknowledged to each device.
    pub(super) acknowledged: BTreeMap<String, Vec<u64>>,
    cursor: i64,
    /// The newest record of its server that it believed.
    kept: Option<SignedRecord>,
    // What it takes.
    memory: Memory,
    /// With whom it has a session.
    session: Option<Host>,
    pub(super) is_up: bool,
    pub(super) life: u64,
    pub(super) started: Time,
    boot: Boot,
    schedule: Schedule,
    wakes_at: Option<Time>,
}

/// A lane of the outbox, with its only reader.
struct OutLane {
    lane: Arc<Lane>,
    records: BTreeMap<u64, u64>,
    last: u64,
    upto: u64,
    sent: u64,
}

fn reader() -> AtSign {
    "@ops".parse().expect("an atSign")
}

fn gateway() -> AtSign {
    "@gw".parse().expect("an atSign")
}

impl Gateway {
    pub(super) fn new(random: &mut Random) -> Self {
        let rules = FlowRules {
            limit: BatchLimit { records: 7, bytes: 1 << 16 },
            linger: Duration::from_secs(2),
            receipts: random.below(3) > 0,
            aead: false,
            ttln: Duration::from_secs(86_400),
            priority: Priority::default(),
        };
        let rules =
            StreamRules::from([("process".parse().expect("a stream"), (vec![reader()], Arc::new(rules)))]);
        let rules = SendRules { streams: rules, ..SendRules::default() };
        let boot = Boot::new(0, 0);
        let schedule = Schedule::new(rules.clone(), boot, 0);
        Self {
            rules,
            epoch: 0,
            lanes: Vec::new(),
            next_value: 0,
            acknowledged: BTreeMap::new(),
            cursor: 0,
            kept: None,
            memory: Memory::default(),
            session: None,
            is_up: false,
            life: 0,
            started: Time::ZERO,
            boot,
            schedule,
            wakes_at: None,
        }
    }

    /// Its reader has everything.
    pub(super) fn is_drained(&self) -> bool {
        self.lanes.iter().all(|lane| lane.upto == lane.last)
    }

    fn append(&mut self, device: u64, value: u64) -> (LaneId, Arc<Lane>, u64) {
        let name = format!("d{device}");
        self.acknowledged.entry(name.clone()).or_default().push(value);
        let boot = self.boot;
        let is_it = |one: &OutLane| one.lane.boot == boot && one.lane.device.as_str() == name;
        let place = self.lanes.iter().position(is_it).unwrap_or_else(|| {
            let (device, stream) = (name.parse().expect("a device"), "process".parse().expect("a stream"));
            let lane = Arc::new(Lane { device, stream, boot });
            self.lanes.push(OutLane { lane, records: BTreeMap::new(), last: 0, upto: 0, sent: 0 });
            self.lanes.len() - 1
        });
        let lane = &mut self.lanes[place];
        lane.last += 1;
        lane.records.insert(lane.last, value);
        (id(place), Arc::clone(&lane.lane), lane.last)
    }

    /// Some records, as one text.
    fn take(&mut self, key: &FlowKey, from: u64, to: u64, most: usize) -> Option<(u64, u64, String)> {
        let lane = &mut self.lanes[place(key)];
        let taken: Vec<(u64, u64)> =
            lane.records.range(from..=to).take(most).map(|(seq, value)| (*seq, *value)).collect();
        let ((first, _), (last, _)) = (taken.first()?, taken.last()?);
        lane.sent = lane.sent.max(*last);
        let values: Vec<String> = taken.iter().map(|(_, value)| value.to_string()).collect();
        let text = format!("{}_{}_{first}_{}", lane.lane.device, lane.lane.boot, values.join("."));
        Some((*first, *last, text))
    }

    fn confirm(&mut self, key: &FlowKey, upto: u64) {
        let lane = &mut self.lanes[place(key)];
        lane.upto = lane.upto.max(upto);
        lane.sent = lane.sent.max(upto);
        lane.records = lane.records.split_off(&(lane.upto + 1));
    }

    /// What the outbox makes of a receipt.
    fn receipt(&mut self, text: &str) -> Option<Receipted> {
        let parts: Vec<&str> = text.split('_').collect();
        let [device, boot, upto, missing] = parts[..] else { unreachable!("{text} is no receipt") };
        let upto: u64 = upto.parse().expect("a number");
        let is_it = |one: &OutLane| one.lane.boot.to_string() == boot && one.lane.device.as_str() == device;
        let place = self.lanes.iter().position(is_it)?;
        let lane = &self.lanes[place];
        if upto > lane.sent {
            return None;
        }
        let mut gaps = Vec::new();
        for gap in missing.split('.').filter(|gap| !gap.is_empty()) {
            let (first, last) = gap.split_once('-').expect("a gap");
            let (first, last): (u64, u64) = (first.parse().expect("first"), last.parse().expect("last"));
            let first = first.max(lane.upto + 1);
            if first <= last {
                let here = lane.records.range(first..=last);
                let here: Vec<u64> = here.map(|(seq, _)| *seq).collect();
                if let (Some(first), Some(last)) = (here.first(), here.last()) {
                    gaps.push((*first, *last));
                }
            }
        }
        let confirmed = gaps.first().map_or(upto, |(first, _)| first - 1).max(lane.upto).min(lane.sent);
        let key = FlowKey { lane: id(place), reader: reader() };
        self.confirm(&key, confirmed);
        Some(Receipted { key, confirmed, upto, missing: gaps })
    }
}

fn id(place: usize) -> LaneId {
    LaneId::try_from(place).expect("few lanes")
}

fn place(key: &FlowKey) -> usize {
    usize::try_from(key.lane).expect("it was made of a place")
}

impl World {
    pub(super) fn start_gateway(&mut self) {
        if self.gateway.is_up {
            return;
        }
        let (seed, random, now) = (self.random.number(), self.random.number(), self.now);
        let (trusted, instant) = (self.trusted(), self.instant());
        let gateway = &mut self.gateway;
        gateway.is_up = true;
        gateway.life += 1;
        gateway.epoch += 1;
        gateway.started = now;
        gateway.boot = Boot::new(gateway.epoch, random);
        gateway.wakes_at = None;
        gateway.session = None;
        gateway.memory = Memory::trusting(trusted, gateway.kept.clone(), instant);
        gateway.schedule = Schedule::new(gateway.rules.clone(), gateway.boot, seed);
        for (place, lane) in gateway.lanes.iter().enumerate().filter(|(_, lane)| lane.upto < lane.last) {
            let key = FlowKey { lane: id(place), reader: reader() };
            let waiting = Waiting { key, lane: Arc::clone(&lane.lane), upto: lane.upto, last: lane.last };
            gateway.schedule.add_waiting(waiting, Duration::ZERO);
        }
        self.note(format_args!("the gateway starts"));
        self.drive_gateway();
    }

    pub(super) fn crash_gateway(&mut self) {
        if std::mem::take(&mut self.gateway.is_up) {
            self.note(format_args!("the gateway crashes"));
            let after = self.millis(500, 20_000);
            self.plan(after, Event::Fault(super::faults::Fault::Restart(Host::Agent)));
        }
    }

    /// Where the gateway believes its server to be, and after which time.
    pub(super) fn gateways_server(&mut self) -> (Option<Host>, Duration) {
        if self.gateway.session.is_some() {
            return (self.gateway.session, Duration::ZERO);
        }
        let (atsign, instant, wall) = (gateway(), self.instant(), self.time_of_day());
        if let Some(found) = self.gateway.memory.fresh(&atsign, instant, wall) {
            return (Host::of(found.address.host()), Duration::ZERO);
        }
        let is_reached = self.directory.is_up && self.network.passes_both_ways(Host::Agent, Host::Directory);
        let (answer, after) = if is_reached {
            (Some(self.directory.answer(&record_question(&atsign), wall)), self.delay() + self.delay())
        } else {
            (None, lookup::PATIENCE * lookup::TRIES)
        };
        let memory = &mut self.gateway.memory;
        let record = answer.and_then(|line| record_answer(line.trim_end_matches('@')).ok().flatten());
        let checked = record.map(|record| memory.check(&atsign, record, wall));
        let found = if let Some(Ok(record)) = checked {
            if let Some(kept) = memory.remember(&atsign, &Found::from(record), instant) {
                self.gateway.kept = Some(SignedRecord::clone(&kept));
            }
            memory.last(&atsign, wall)
        } else {
            self.promises.refused += u64::from(checked.is_some());
            memory.stand_in(&atsign, instant, wall)
        };
        let Some(record) = found.and_then(|found| found.record) else { return (None, after) };
        let (seq, at) = (record.at.seq, record.at.address.host());
        self.promises.uses(Host::Agent, &atsign, (seq, at), Host::of(at) == Some(HOME));
        (Host::of(at), after)
    }

    /// A server has crashed: if it was the gateway's, its session is over.
    pub(super) fn end_session(&mut self, host: Host) {
        self.gateway.session.take_if(|session| *session == host);
    }

    /// A device is read now and again.
    pub(super) fn capture(&mut self) {
        if self.is_talkative {
            self.capture_one();
        }
        let after = self.millis(500, 8_000);
        self.plan(after, Event::Capture);
    }

    pub(super) fn capture_one(&mut self) {
        if self.gateway.is_up {
            let device = self.random.below(DEVICES);
            self.gateway.next_value += 1;
            let (id, lane, last) = self.gateway.append(device, self.gateway.next_value);
            let now = self.since_start();
            self.gateway.schedule.on_grown(id, &lane, last, now);
            self.drive_gateway();
        }
    }

    pub(super) fn wake(&mut self, life: u64) {
        if self.gateway.is_up && self.gateway.life == life {
            self.gateway.wakes_at = None;
            self.drive_gateway();
        }
    }

    fn drive_gateway(&mut self) {
        let now = self.since_start();
        while let Some(action) = self.gateway.schedule.next(now) {
            match action {
                Action::Send { key, lane, from, to, limit, ttln: _, attempt } => {
                    let Some((first, last, text)) = self.gateway.take(&key, from, to, limit.records) else {
                        let upto = self.gateway.schedule.on_gone(&key, from, to, now);
                        self.confirm(&key, upto);
                        continue;
                    };
                    let id = NoteId::new(lane.boot, first, attempt);
                    let line = format!(
                        "notify:id:{}:update:ttln:86400000:@ops:process.{}.tel.edge@gw:{text}",
                        id.as_str(),
                        lane.device
                    );
                    let life = self.gateway.life;
                    self.ask(&gateway(), line, Asked::Batch { life, key, from, last, to, id, attempt });
                }
                Action::Ask { key, first, id } => {
                    let line = format!("notify:status:{}", id.as_str());
                    let life = self.gateway.life;
                    self.ask(&gateway(), line, Asked::Status { life, key, first });
                }
            }
        }
        let Some(due) = self.gateway.schedule.deadline() else { return };
        let at = self.gateway.started + due.max(now);
        if self.gateway.wakes_at.is_none_or(|wakes| at < wakes) {
            self.gateway.wakes_at = Some(at);
            let life = self.gateway.life;
            self.plan(at - self.now, Event::Wake { life });
        }
    }

    fn confirm(&mut self, key: &FlowKey, upto: Option<u64>) {
        if let Some(upto) = upto {
            self.gateway.confirm(key, upto);
        }
    }

    pub(super) fn gateway_answered(&mut self, asked: Asked, answer: Option<String>) {
        let now = self.since_start();
        let answer = answer.filter(|_| self.network.passes(HOME, Host::Agent));
        let (is_up, now_living) = (self.gateway.is_up, self.gateway.life);
        self.gateway.session = answer.is_some().then_some(HOME);
        if answer.is_none() {
            let instant = self.instant();
            self.gateway.memory.suspect(&gateway(), instant);
        }
        let schedule = &mut self.gateway.schedule;
        match asked {
            Asked::Batch { life, .. } | Asked::Status { life, .. } if !is_up || life != now_living => return,
            Asked::Batch { key, from, last, to, id, attempt, .. } => {
                if answer.is_some() {
                    let upto = schedule.on_sent(&key, from, last, last < to, id, now);
                    self.confirm(&key, upto);
                } else {
                    schedule.on_unreachable(&key, Some(Pinned { from, to: last, attempt }), now);
                }
            }
            Asked::Status { key, first, .. } => match answer.as_deref() {
                None => drop(schedule.on_unreachable(&key, None, now)),
                Some(text) => {
                    let status = match text {
                        "delivered" => NoteStatus::Delivered,
                        "queued" => NoteStatus::Queued,
                        "errored" => NoteStatus::Errored,
                        _ => NoteStatus::Failed,
                    };
                    let upto = schedule.on_status(&key, first, status, now);
                    self.confirm(&key, upto);
                }
            },
            Asked::Word { .. } | Asked::Receipt { .. } => {}
        }
        self.drive_gateway();
    }

    /// The gateway's server has something for it.
    pub(super) fn push(&mut self, host: Host, notification: &Notification) {
        if !self.gateway.is_up || !self.network.passes(host, Host::Agent) {
            return;
        }
        let (life, after) = (self.gateway.life, self.delay());
        let value = notification.value.clone().unwrap_or_default();
        let moment = notification.created.as_millis();
        self.plan(after, Event::Notified { life, value, moment });
    }

    pub(super) fn notified(&mut self, life: u64, value: &str, moment: i64) {
        let now = self.since_start();
        if !self.gateway.is_up || self.gateway.life != life {
            return;
        }
        // What has come in between is asked for again, which does no harm.
        self.gateway.cursor = self.gateway.cursor.max(moment - 60_000);
        if let Some(taken) = self.gateway.receipt(value) {
            let upto = self.gateway.schedule.on_receipt(&taken, now);
            self.confirm(&taken.key, upto);
            self.drive_gateway();
        }
    }

    /// The gateway asks for what it may have missed.
    pub(super) fn catch_up(&mut self) {
        let after = self.gateway.cursor;
        if self.gateway.is_up && self.network.passes_both_ways(Host::Agent, HOME) && self.server(HOME).is_up {
            self.ask_disk(HOME, Work::Received { tenant: gateway(), after });
        }
        self.plan(Duration::from_secs(30), Event::CatchUp);
    }
}
