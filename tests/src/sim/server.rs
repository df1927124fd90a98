//! A server: what it keeps in its store, which is the real one, and what a crash takes from it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use at_client::Memory;
use at_protocol::directory::{SignedRecord, registration, registration_answer};
use at_protocol::response::Failure;
use at_protocol::{AtSign, Timestamp};
use atedge_server::pure::fences::Fences;
use atedge_server::pure::roads::Road;
use atedge_server::store::{
    Committed, Notification, Quota, Reached, Settled, SqliteStore, Store, Tenant, Watcher,
};

use super::Sabotage;
use super::agenda::Time;
use super::directory::record;
use super::lookup::Asker;
use super::network::{Host, Over, StreamId};
use super::people::Ticket;
use super::receiving::Arrival;
use super::sending::{Dial, Sending};
use super::world::{Event, World};

/// How often all that are hosted are announced anew.
const ANNOUNCE: Duration = Duration::from_secs(45);

pub(super) struct Server {
    /// Of what its key is made.
    pub(super) node: u8,
    // What a crash leaves.
    pub(super) store: SqliteStore,
    told: Arc<Told>,
    /// What it says of those whom it hosts.
    pub(super) announced: BTreeMap<AtSign, SignedRecord>,
    pub(super) wall_ahead: i64,
    // What it takes.
    pub(super) is_up: bool,
    pub(super) life: u64,
    pub(super) started: Time,
    pub(super) began: Timestamp,
    disk_free: Time,
    pub(super) hosted: BTreeSet<AtSign>,
    pub(super) memory: Memory,
    pub(super) looking: BTreeMap<AtSign, Vec<Asker>>,
    pub(super) roads: BTreeMap<Host, Road<Over>>,
    pub(super) met: BTreeMap<Host, Over>,
    pub(super) dials: BTreeMap<Host, Dial>,
    pub(super) lanes: BTreeMap<(AtSign, AtSign), Sending>,
    pub(super) arrivals: BTreeMap<StreamId, Arrival>,
    pub(super) fences: Arc<Fences>,
    /// The next work of the disk is the last of this life.
    pub(super) crashes_next: bool,
}

/// What the store has told.
#[derive(Default)]
struct Told(Mutex<Vec<Committed>>);

impl Watcher for Told {
    fn committed(&self, what: Committed) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

/// What is to be done to the disk. A crash before loses it; a crash behind loses only that it was done.
pub(super) enum Work {
    First((AtSign, AtSign)),
    Page { pair: (AtSign, AtSign), stream: StreamId, reached: Reached, limit: usize },
    Settle { pair: (AtSign, AtSign), stream: Option<StreamId>, settled: Vec<Settled> },
    HandOver { pair: (AtSign, AtSign), next: Box<Notification> },
    Receive { stream: StreamId, to: AtSign, batch: Vec<Notification>, refused: Option<Failure> },
    Keep { record: Box<SignedRecord> },
    Send { ticket: Ticket, sent: Box<Notification> },
    Status { ticket: Ticket, tenant: AtSign, id: String },
    Received { tenant: AtSign, after: i64 },
}

/// What came of it.
pub(super) enum Done {
    First((AtSign, AtSign), Option<Box<Notification>>),
    Page { pair: (AtSign, AtSign), stream: StreamId, page: Vec<Notification> },
    Settled { pair: (AtSign, AtSign), stream: Option<StreamId> },
    HandedOver((AtSign, AtSign), bool),
    Received { stream: StreamId, count: usize, is_taken: bool, refused: Option<Failure> },
    Kept(AtSign),
    Answer(Ticket, String),
    Stored(Vec<Notification>),
}

impl Server {
    pub(super) fn new(node: u8) -> Self {
        let told = Arc::new(Told::default());
        let watcher = Arc::clone(&told) as Arc<dyn Watcher>;
        Self {
            node,
            store: SqliteStore::in_place(Quota::default(), watcher).expect("memory"),
            told,
            announced: BTreeMap::new(),
            wall_ahead: 0,
            is_up: false,
            life: 0,
            started: Time::ZERO,
            began: Timestamp::from_millis(0),
            disk_free: Time::ZERO,
            hosted: BTreeSet::new(),
            memory: Memory::default(),
            looking: BTreeMap::new(),
            roads: BTreeMap::new(),
            met: BTreeMap::new(),
            dials: BTreeMap::new(),
            lanes: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            fences: Arc::default(),
            crashes_next: false,
        }
    }

    pub(super) fn add_tenant(&mut self, atsign: &AtSign, now: Timestamp) {
        let tenant = Tenant { atsign: atsign.clone(), listen: None };
        wait(self.store.add_tenant(tenant, Vec::new(), now)).expect("a sound store");
    }

    /// Nothing waits to be sent.
    pub(super) fn is_drained(&self) -> bool {
        wait(self.store.waiting_pairs()).expect("a sound store").is_empty()
    }

    /// What goes next between each two.
    pub(super) fn heads(&self) -> Vec<((AtSign, AtSign), String)> {
        let pairs = wait(self.store.waiting_pairs()).expect("a sound store");
        let head = |(from, to): (AtSign, AtSign)| {
            let mut page =
                wait(self.store.waiting(&from, &to, Reached::default(), 1)).expect("a sound store");
            page.pop().map(|first| ((from, to), first.id))
        };
        pairs.into_iter().filter_map(head).collect()
    }

    fn take_told(&self) -> Vec<Committed> {
        std::mem::take(&mut *self.told.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl World {
    /// A server begins with what is on its disk.
    pub(super) fn start_server(&mut self, host: Host) {
        let (wall, now, instant) = (self.wall(host), self.now, self.instant());
        let trusted = self.trusted();
        let server = self.server(host);
        if server.is_up {
            return;
        }
        server.life += 1;
        server.is_up = true;
        server.started = now;
        server.disk_free = now;
        server.began = wall.max(wait(server.store.newest()).expect("a sound store"));
        let tenants = wait(server.store.tenants()).expect("a sound store");
        server.hosted = tenants.into_iter().map(|tenant| tenant.atsign).collect();
        let kept = wait(server.store.signed_records()).expect("a sound store");
        server.memory = Memory::trusting(trusted, kept, instant);
        let (life, waiting) = (server.life, wait(server.store.waiting_pairs()).expect("a sound store"));
        self.note(format_args!("{host:?} starts"));
        for pair in waiting {
            self.tell_lane(host, pair);
        }
        let after = self.millis(100, 1000);
        self.plan(after, Event::Announce { server: host, life });
    }

    /// All is lost that is not on its disk.
    pub(super) fn crash_server(&mut self, host: Host) {
        let server = self.server(host);
        if !server.is_up {
            return;
        }
        server.is_up = false;
        server.crashes_next = false;
        server.memory = Memory::default();
        server.fences = Arc::default();
        server.looking.clear();
        server.roads.clear();
        server.met.clear();
        server.dials.clear();
        server.lanes.clear();
        server.arrivals.clear();
        server.hosted.clear();
        self.note(format_args!("{host:?} crashes"));
        self.lose_all_of(host);
        self.end_session(host);
        self.plan_restart(host);
    }

    /// Has the disk do something, behind what it does already.
    pub(super) fn ask_disk(&mut self, host: Host, work: Work) {
        let takes = self.millis(1, 12);
        let now = self.now;
        let server = self.server(host);
        server.disk_free = server.disk_free.max(now) + takes;
        let (life, after) = (server.life, server.disk_free - now);
        self.plan(after, Event::Work { server: host, life, work });
    }

    pub(super) fn work(&mut self, host: Host, work: Work) {
        let clock = self.clock(host);
        if let Work::Receive { stream, batch, .. } = &work
            && !batch.is_empty()
        {
            self.check_commit(host, *stream);
        }
        if let Work::Send { sent, .. } = &work
            && !self.server(host).hosted.contains(&sent.from)
        {
            return;
        }
        let done = self.server(host).perform(work, clock);
        for told in self.server(host).take_told() {
            self.told(host, told);
        }
        if std::mem::take(&mut self.server(host).crashes_next) {
            // It was done, and nobody knows.
            self.crash_server(host);
            return;
        }
        let (life, after) = (self.life(host), self.millis(0, 4));
        self.plan(after, Event::Done { server: host, life, done: Box::new(done) });
    }

    fn told(&mut self, host: Host, told: Committed) {
        match told {
            Committed::Queued { from, to } => self.tell_lane(host, (from, to)),
            Committed::Received { notification } => self.received(host, &notification),
            Committed::Changed { .. } => {}
        }
    }

    pub(super) fn done(&mut self, host: Host, done: Done) {
        match done {
            Done::First(pair, first) => self.first_found(host, &pair, first.map(|first| *first)),
            Done::Page { pair, stream, page } => self.page_read(host, &pair, stream, &page),
            Done::Settled { pair, stream } => self.settled(host, &pair, stream),
            Done::HandedOver(pair, is_taken) => self.handed_over(host, &pair, is_taken),
            Done::Received { stream, count, is_taken, refused } => {
                self.committed(host, stream, count, is_taken, refused);
            }
            Done::Kept(atsign) => self.looked_up(host, &atsign, false),
            Done::Answer(ticket, text) => {
                let after = self.delay();
                if !self.is_rough || !self.one_in(30) {
                    self.plan(after, Event::Answered { ticket, answer: Some(text) });
                }
            }
            Done::Stored(all) => {
                for one in all {
                    self.push(host, &one);
                }
            }
        }
    }

    /// Tells the directory of all whom a server hosts.
    pub(super) fn announce(&mut self, host: Host) {
        let life = self.life(host);
        if self.directory.is_up && self.network.passes_both_ways(host, Host::Directory) {
            let wall = self.wall(host);
            let server = self.server(host);
            for (atsign, record) in server.announced.clone() {
                let line = registration(&record);
                let answer = self.directory.answer(&line, wall);
                if let Err(why) = registration_answer(answer.trim_end_matches('@')) {
                    self.note(format_args!("{host:?} cannot announce {atsign}: {why}"));
                }
            }
        }
        self.plan(ANNOUNCE, Event::Announce { server: host, life });
    }

    /// Has an atSign live on another server from now on.
    pub(super) fn move_house(&mut self, atsign: &AtSign, to: Host) {
        let from = self.homes[atsign];
        if from == to || !self.server(from).is_up || !self.server(to).is_up {
            return;
        }
        self.note(format_args!("{atsign} moves to {to:?}"));
        self.cut(from, atsign);
        let seq = self.directory.highest(atsign).max(self.server(from).announced[atsign].at.seq) + 1;
        let now = self.clock(to);
        let rows = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&rows);
        let old = self.server(from);
        let export = old.store.export(
            atsign,
            Box::new(move |row| {
                taken.lock().unwrap_or_else(PoisonError::into_inner).push(Ok(row));
                true
            }),
        );
        wait(export).expect("a sound store");
        wait(old.store.remove_tenant(atsign)).expect("a sound store");
        while !wait(old.store.expire(now)).expect("a sound store").is_none() {}
        old.hosted.remove(atsign);
        old.announced.remove(atsign);
        let rows = std::mem::take(&mut *rows.lock().unwrap_or_else(PoisonError::into_inner));
        let new = self.server(to);
        let tenant = Tenant { atsign: atsign.clone(), listen: None };
        let imported = wait(new.store.import(tenant, Box::new(rows.into_iter()), now));
        assert!(imported.expect("a sound store"), "{atsign} was there already");
        new.hosted.insert(atsign.clone());
        new.announced.insert(atsign.clone(), record((1, new.node), "*", (atsign, to.name(), seq)));
        let waiting = wait(new.store.waiting_pairs()).expect("a sound store");
        self.homes.insert(atsign.clone(), to);
        self.ever_homes.insert((atsign.clone(), to));
        for pair in waiting.into_iter().filter(|(sender, _)| sender == atsign) {
            self.tell_lane(to, pair);
        }
        let (life, after) = (self.life(to), self.millis(50, 2000));
        self.plan(after, Event::Announce { server: to, life });
    }
}

impl Server {
    fn perform(&mut self, work: Work, now: Timestamp) -> Done {
        const SOUND: &str = "a sound store";
        let store = &self.store;
        match work {
            Work::First(pair) => {
                let mut first = wait(store.waiting(&pair.0, &pair.1, Reached::default(), 1)).expect(SOUND);
                Done::First(pair, first.pop().map(Box::new))
            }
            Work::Page { pair, stream, reached, limit } => {
                let page = wait(store.waiting(&pair.0, &pair.1, reached, limit)).expect(SOUND);
                Done::Page { pair, stream, page }
            }
            Work::Settle { pair, stream, settled } => {
                wait(store.settle(&pair.0, settled)).expect(SOUND);
                Done::Settled { pair, stream }
            }
            Work::HandOver { pair, next } => {
                let is_taken = wait(store.hand_over(&next, now)).expect(SOUND);
                Done::HandedOver(pair, is_taken)
            }
            Work::Receive { stream, to, batch, refused } => {
                let count = batch.len();
                let is_taken = count == 0 || wait(store.receive_all(&to, batch, now)).expect(SOUND);
                Done::Received { stream, count, is_taken, refused }
            }
            Work::Keep { record } => {
                let atsign = record.atsign.clone();
                wait(store.keep_signed_record(*record)).expect(SOUND);
                Done::Kept(atsign)
            }
            Work::Send { ticket, sent } => {
                let id = sent.id.clone();
                wait(store.send(*sent, now)).expect(SOUND);
                Done::Answer(ticket, id)
            }
            Work::Status { ticket, tenant, id } => {
                let found = wait(store.notification(&tenant, &id)).expect(SOUND);
                Done::Answer(ticket, found.map_or("none", |found| found.status_at(now)).to_owned())
            }
            Work::Received { tenant, after } => {
                Done::Stored(wait(store.received_after(&tenant, after, 1000, now)).expect(SOUND))
            }
        }
    }
}

impl Sabotage {
    pub(super) fn is(self, on: Option<Self>) -> bool {
        on == Some(self)
    }
}

/// The answer of a store that has it at once.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => unreachable!("whoever asks does the work"),
    }
}
