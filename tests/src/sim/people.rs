//! People who notify each other, the reader of the gateway's telemetry, and somebody who should not be heard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use at_protocol::{AtSign, Verb};
use atedge_agent::outbox::FlowKey;
use atedge_agent::payload::{Boot, NoteId, Receipt, Seen};
use atedge_agent::uplink::pure::Time as SinceStart;
use atedge_server::access::{Principal, may};
use atedge_server::pure::said;
use atedge_server::store::Notification;

use super::Sabotage;
use super::network::{Host, SERVERS, Said};
use super::server::Work;
use super::world::{Event, World, place};

/// A request that waits for its answer.
pub(super) type Ticket = u64;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long receipts are collected.
const COLLECT: Duration = Duration::from_secs(1);

/// What was asked, and by whom.
pub(super) enum Asked {
    Word { person: usize, number: u64 },
    Receipt { lane: String },
    Batch { life: u64, key: FlowKey, from: u64, last: u64, to: u64, id: NoteId, attempt: u64 },
    Status { life: u64, key: FlowKey, first: u64 },
}

/// Somebody who notifies somebody else, one after the other.
pub(super) struct Person {
    me: AtSign,
    to: AtSign,
    /// Not yet acknowledged, oldest first.
    waiting: VecDeque<u64>,
    is_asking: bool,
    said: u64,
    tries: u64,
    /// Acknowledged.
    pub(super) acknowledged: BTreeSet<u64>,
}

impl Person {
    pub(super) fn new(me: &str, to: &str) -> Self {
        let atsign = |text: &str| text.parse().expect("an atSign");
        Self {
            me: atsign(me),
            to: atsign(to),
            waiting: VecDeque::new(),
            is_asking: false,
            said: 0,
            tries: 0,
            acknowledged: BTreeSet::new(),
        }
    }

    /// Everything said was acknowledged.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// The reader of what the gateway sends.
#[derive(Default)]
pub(super) struct Reader {
    seen: BTreeMap<String, Seen>,
    /// What was new, by device, in its order.
    pub(super) values: BTreeMap<String, Vec<u64>>,
    collecting: BTreeSet<String>,
    receipts: u64,
}

impl World {
    /// Asks the server of an atSign.
    pub(super) fn ask(&mut self, tenant: &AtSign, line: String, asked: Asked) {
        let ticket = self.number();
        let is_gateways = matches!(asked, Asked::Batch { .. } | Asked::Status { .. });
        self.asked.insert(ticket, asked);
        let (server, found_after) =
            if is_gateways { self.gateways_server() } else { (Some(self.homes[tenant]), Duration::ZERO) };
        self.plan(PATIENCE, Event::Answered { ticket, answer: None });
        let Some(server) = server else { return };
        if (is_gateways && !self.network.passes(Host::Agent, server)) || (self.is_rough && self.one_in(40)) {
            return;
        }
        let after = found_after + self.delay();
        self.plan(after, Event::Request { server, ticket, line, tenant: tenant.clone() });
    }

    /// A request has reached a server.
    pub(super) fn request(&mut self, host: Host, ticket: Ticket, line: &str, tenant: AtSign) {
        let clock = self.clock(host);
        let server = self.server(host);
        if !server.is_up || !server.hosted.contains(&tenant) {
            return;
        }
        let verb: Verb = line.parse().expect("a verb");
        may(&Principal::Owner, &tenant, &verb).expect("the owner may");
        let work = if let Verb::Notify(notify) = verb {
            let sent = said(&tenant, *notify, 900_000, clock).expect("a notification");
            Work::Send { ticket, sent: Box::new(sent) }
        } else {
            let Verb::NotifyStatus(status) = verb else { unreachable!("nobody says {line}") };
            Work::Status { ticket, tenant, id: status.id }
        };
        if Sabotage::AnswersEarly.is(self.sabotage) {
            self.plan(Duration::ZERO, Event::Answered { ticket, answer: Some("early".to_owned()) });
        }
        self.ask_disk(host, work);
    }

    /// An answer has come, or none will.
    pub(super) fn answered(&mut self, ticket: Ticket, answer: Option<String>) {
        let Some(asked) = self.asked.remove(&ticket) else { return };
        match asked {
            Asked::Word { person, number } => self.word_answered(person, number, answer.is_some()),
            Asked::Receipt { lane } => {
                if answer.is_none() {
                    self.plan(COLLECT, Event::Receipt { lane });
                }
            }
            Asked::Batch { .. } | Asked::Status { .. } => self.gateway_answered(asked, answer),
        }
    }

    /// Somebody may have something to say.
    pub(super) fn speak(&mut self, person: usize) {
        if self.is_talkative {
            let words = 1 + self.random.below(6);
            self.say_words(person, words);
        }
        let after = self.millis(3_000, 40_000);
        self.plan(after, Event::Speak { person });
    }

    pub(super) fn say_words(&mut self, person: usize, words: u64) {
        let one = &mut self.people[person];
        for _ in 0..words {
            one.said += 1;
            one.waiting.push_back(one.said);
        }
        self.ask_word(person);
    }

    fn ask_word(&mut self, person: usize) {
        let takes_another_id = Sabotage::AnotherId.is(self.sabotage);
        let one = &mut self.people[person];
        let Some(number) = one.waiting.front().copied().filter(|_| !one.is_asking) else { return };
        one.is_asking = true;
        let (me, to) = (one.me.clone(), &one.to);
        let attempt = if takes_another_id { one.tries } else { 0 };
        let line = format!(
            "notify:id:ae1-p{person}-{number}-{attempt}:update:ttln:86400000:{to}:chat.edge{me}:p{person}_{number}"
        );
        self.ask(&me, line, Asked::Word { person, number });
    }

    fn word_answered(&mut self, person: usize, number: u64, is_acknowledged: bool) {
        let one = &mut self.people[person];
        one.is_asking = false;
        if is_acknowledged {
            one.tries = 0;
            one.waiting.pop_front();
            one.acknowledged.insert(number);
        } else {
            one.tries += 1;
        }
        self.ask_word(person);
    }

    /// A server has committed what somebody is to read.
    pub(super) fn received(&mut self, host: Host, notification: &Notification) {
        let (to, value) = (notification.to.to_string(), notification.value.as_deref().unwrap_or_default());
        self.note(format_args!("{host:?} has for {to}: {} {value}", notification.id));
        let is_home = self.homes[&notification.to] == host;
        self.promises.received(host, notification, is_home);
        match (notification.from.to_string().as_str(), to.as_str()) {
            ("@gw", "@ops") => self.read_batch(value),
            ("@ops", "@gw") => self.push(host, notification),
            _ => {}
        }
    }

    fn read_batch(&mut self, value: &str) {
        let parts: Vec<&str> = value.split('_').collect();
        let [device, boot, first, values] = parts[..] else { unreachable!("{value} is no batch") };
        let lane = format!("{device}_{boot}");
        let first: u64 = first.parse().expect("a number");
        for (seq, value) in (first..).zip(values.split('.')) {
            if self.reader.seen.entry(lane.clone()).or_default().insert(seq) {
                let value: u64 = value.parse().expect("a value");
                let values = self.reader.values.entry(device.to_owned()).or_default();
                if values.last().is_some_and(|last| *last >= value) {
                    self.promises
                        .break_one(format!("of {device}, {value} is read behind {:?}", values.last()));
                    return;
                }
                values.push(value);
            }
        }
        if self.reader.collecting.insert(lane.clone()) {
            self.plan(COLLECT, Event::Receipt { lane });
        }
    }

    pub(super) fn say_receipt(&mut self, lane: &str) {
        self.reader.collecting.remove(lane);
        let (device, boot) = lane.split_once('_').expect("a lane");
        let boot: Boot = boot.parse().expect("a boot");
        let receipt = Receipt::of(boot, &self.reader.seen[lane]);
        let missing: Vec<String> =
            receipt.missing().iter().map(|(first, last)| format!("{first}-{last}")).collect();
        self.reader.receipts += 1;
        let line = format!(
            "notify:id:ae1-ops-{}-1:update:ttln:86400000:@gw:receipt.edge@ops:{device}_{boot}_{}_{}",
            self.reader.receipts,
            receipt.upto(),
            missing.join(".")
        );
        let ops = "@ops".parse().expect("an atSign");
        self.ask(&ops, line, Asked::Receipt { lane: lane.to_owned() });
    }

    /// A node of its own key says that it is @dev's.
    pub(super) fn intrude(&mut self) {
        let host = SERVERS[self.random.place(2)];
        if self.is_rough && self.servers[place(host)].is_up {
            let (conn, stream) = (self.connect(Host::Stranger, host, true), self.number());
            let to = if self.homes[&"@bob".parse().expect("an atSign")] == host { "@bob" } else { "@dev" };
            let from = if to == "@bob" { "@dev" } else { "@bob" };
            self.say(Host::Stranger, conn, stream, Said::Bytes(format!("from:{from} to:{to}\n")));
            let line = format!("notify:id:ae1-forged-{stream}-1:update:{to}:chat.edge{from}:forged\n");
            self.say(Host::Stranger, conn, stream, Said::Bytes(line));
            self.plan(Duration::from_secs(15), Event::Lost { conn, end: 0 });
        }
        let after = self.millis(20_000, 60_000);
        self.plan(after, Event::Intrude);
    }

    /// How long the gateway has been running.
    pub(super) fn since_start(&self) -> SinceStart {
        self.now - self.gateway.started
    }
}
