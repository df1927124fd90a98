//! All there is, and what happens next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use at_protocol::directory::registration;
use at_protocol::{AtSign, Timestamp};

use super::agenda::{Agenda, Time, Trace};
use super::directory::{Directory, record};
use super::faults::Fault;
use super::gateway::Gateway;
use super::network::{Conn, ConnId, End, Host, Network, SERVERS, Said, StreamId};
use super::people::{Asked, Person, Reader, Ticket};
use super::promises::Promises;
use super::server::{Done, Server, Work};
use super::{Broken, PROMPT, Sabotage};
use crate::random::Random;

/// When the world begins, in milliseconds since 1970.
const DAWN: i64 = 1_800_000_000_000;

pub(super) struct World {
    pub(super) random: Random,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) now: Time,
    /// Where times of the world are on the clock that pure code is handed.
    base: Instant,
    agenda: Agenda<Event>,
    pub(super) trace: Trace,
    pub(super) network: Network,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    pub(super) directory: Directory,
    pub(super) servers: [Server; 2],
    pub(super) gateway: Gateway,
    pub(super) people: Vec<Person>,
    pub(super) reader: Reader,
    pub(super) asked: BTreeMap<Ticket, Asked>,
    pub(super) promises: Promises,
    /// Which server hosts whom, and who has ever hosted whom.
    pub(super) homes: BTreeMap<AtSign, Host>,
    pub(super) ever_homes: BTreeSet<(AtSign, Host)>,
    /// Whether things go wrong.
    pub(super) is_rough: bool,
    /// Whether people have something to say.
    pub(super) is_talkative: bool,
    /// How long what is next in a queue may stay so when all is well.
    pub(super) prompt: Time,
    numbers: u64,
}

/// Something that happens.
pub(super) enum Event {
    /// Something arrives at an end of a connection.
    Arrives {
        conn: ConnId,
        to: End,
        stream: StreamId,
        number: u64,
        said: Said,
    },
    /// An end finds out that its connection is lost.
    Lost {
        conn: ConnId,
        end: End,
    },
    /// A connection over which nothing passes any more in one direction.
    Silent {
        conn: ConnId,
        to: End,
        since: Time,
    },
    /// A server's disk does its work, and has done it.
    Work {
        server: Host,
        life: u64,
        work: Work,
    },
    Done {
        server: Host,
        life: u64,
        done: Box<Done>,
    },
    /// A lane has rested, or a stream waited long enough.
    Rested {
        server: Host,
        life: u64,
        pair: (AtSign, AtSign),
        turn: u64,
    },
    Deadline {
        server: Host,
        life: u64,
        pair: (AtSign, AtSign),
        turn: u64,
    },
    /// How an attempt to reach a node goes.
    Dialled {
        server: Host,
        life: u64,
        to: Host,
        key: String,
        over_quic: bool,
        give_up: Time,
    },
    /// The directory is asked, and has answered or not.
    Asked {
        server: Host,
        life: u64,
        atsign: AtSign,
        tries: u32,
    },
    /// Servers tell the directory of those whom they host.
    Announce {
        server: Host,
        life: u64,
    },
    /// People, and the gateway, speak to servers.
    Speak {
        person: usize,
    },
    Request {
        server: Host,
        ticket: Ticket,
        line: String,
        tenant: AtSign,
    },
    Answered {
        ticket: Ticket,
        answer: Option<String>,
    },
    /// A reader has collected receipts for long enough.
    Receipt {
        lane: String,
    },
    /// The gateway.
    Capture,
    Wake {
        life: u64,
    },
    Notified {
        life: u64,
        value: String,
        moment: i64,
    },
    CatchUp,
    /// A node that speaks for nobody tries to.
    Intrude,
    /// Something goes wrong, or right again.
    Fault(Fault),
}

impl World {
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut random = Random::new(seed);
        let base = Instant::now();
        let servers = [Server::new(2), Server::new(3)];
        let gateway = Gateway::new(&mut random);
        let reader = Reader::default();
        let mut world = Self {
            random,
            sabotage,
            now: Time::ZERO,
            base,
            agenda: Agenda::new(),
            trace: Trace::new(),
            network: Network::default(),
            conns: BTreeMap::new(),
            directory: Directory::new(),
            servers,
            gateway,
            people: Vec::new(),
            reader,
            asked: BTreeMap::new(),
            promises: Promises::default(),
            homes: BTreeMap::new(),
            ever_homes: BTreeSet::new(),
            is_rough: true,
            is_talkative: true,
            prompt: PROMPT,
            numbers: 0,
        };
        let hosted =
            [("@gw", Host::First), ("@dev", Host::First), ("@ops", Host::Second), ("@bob", Host::Second)];
        for (atsign, home) in hosted {
            world.settle_down(&atsign.parse().expect("an atSign"), home);
        }
        world.people =
            vec![Person::new("@dev", "@bob"), Person::new("@bob", "@dev"), Person::new("@dev", "@ops")];
        for server in SERVERS {
            world.start_server(server);
        }
        for person in 0..world.people.len() {
            world.plan(Duration::from_millis(500), Event::Speak { person });
        }
        world.start_gateway();
        world.plan(Duration::from_secs(1), Event::Capture);
        world.plan(Duration::from_secs(30), Event::CatchUp);
        world.plan(Duration::from_secs(20), Event::Intrude);
        world
    }

    /// An atSign is hosted at a server from the beginning.
    fn settle_down(&mut self, atsign: &AtSign, home: Host) {
        self.homes.insert(atsign.clone(), home);
        self.ever_homes.insert((atsign.clone(), home));
        let wall = self.wall(home);
        let server = self.server(home);
        server.add_tenant(atsign, wall);
        let record = record((1, server.node), "*", (atsign, home.name(), 1));
        server.announced.insert(atsign.clone(), record.clone());
        let answer = self.directory.answer(&registration(&record), wall);
        assert!(answer.starts_with("ok"), "{answer}");
    }

    /// What happens until `until`.
    pub(super) fn run(&mut self, until: Time) -> Result<(), Broken> {
        while let Some((at, event)) = self.agenda.next() {
            if at > until {
                self.agenda.plan(at, event);
                break;
            }
            self.now = at;
            self.happen(event);
            if let Some(broken) = self.promises.broken.take() {
                return Err(broken);
            }
        }
        self.now = until;
        Ok(())
    }

    pub(super) fn plan(&mut self, after: Duration, event: Event) {
        self.agenda.plan(self.now + after, event);
    }

    pub(super) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now, what);
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// One in so many times.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.random.below(times) == 0
    }

    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.random.below(to - from))
    }

    pub(super) fn delay(&mut self) -> Duration {
        Network::delay(&mut self.random)
    }

    /// The time as pure code is handed it.
    pub(super) fn instant(&self) -> Instant {
        self.base + self.now
    }

    pub(super) fn since_dawn(&self, instant: Instant) -> Time {
        instant.saturating_duration_since(self.base)
    }

    /// What a server's wall clock shows.
    pub(super) fn wall(&self, server: Host) -> Timestamp {
        let now = self.time_of_day().as_millis();
        Timestamp::from_millis(now + self.servers[place(server)].wall_ahead)
    }

    /// What a clock shows that nobody has set wrong.
    pub(super) fn time_of_day(&self) -> Timestamp {
        Timestamp::from_millis(DAWN + i64::try_from(self.now.as_millis()).expect("worlds are short"))
    }

    /// The time that a server keeps itself, which never jumps.
    pub(super) fn clock(&self, server: Host) -> Timestamp {
        let server = &self.servers[place(server)];
        let up = u64::try_from((self.now - server.started).as_millis()).expect("worlds are short");
        server.began.plus_millis(up)
    }

    pub(super) fn server(&mut self, host: Host) -> &mut Server {
        &mut self.servers[place(host)]
    }

    /// The life of a host in which something is planned.
    pub(super) fn life(&self, host: Host) -> u64 {
        match host {
            Host::First | Host::Second => self.servers[place(host)].life,
            Host::Agent => self.gateway.life,
            Host::Directory | Host::Stranger => 0,
        }
    }

    /// Whether a server still lives the life in which something was planned.
    pub(super) fn lives(&self, host: Host, life: u64) -> bool {
        let server = &self.servers[place(host)];
        server.is_up && server.life == life
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives { conn, to, stream, number, said } => self.arrives(conn, to, stream, number, said),
            Event::Lost { conn, end } => self.lost(conn, end),
            Event::Silent { conn, to, since } => self.silent(conn, to, since),
            Event::Work { server, life, work } if self.lives(server, life) => self.work(server, work),
            Event::Done { server, life, done } if self.lives(server, life) => self.done(server, *done),
            Event::Rested { server, life, pair, turn } if self.lives(server, life) => {
                self.rested(server, &pair, turn);
            }
            Event::Deadline { server, life, pair, turn } if self.lives(server, life) => {
                self.deadline(server, &pair, turn);
            }
            Event::Dialled { server, life, to, key, over_quic, give_up } if self.lives(server, life) => {
                self.dialled(server, to, &key, over_quic, give_up);
            }
            Event::Asked { server, life, atsign, tries } if self.lives(server, life) => {
                self.asked(server, atsign, tries);
            }
            Event::Announce { server, life } if self.lives(server, life) => self.announce(server),
            Event::Work { .. }
            | Event::Done { .. }
            | Event::Rested { .. }
            | Event::Deadline { .. }
            | Event::Dialled { .. }
            | Event::Asked { .. }
            | Event::Announce { .. } => {}
            Event::Speak { person } => self.speak(person),
            Event::Request { server, ticket, line, tenant } => self.request(server, ticket, &line, tenant),
            Event::Answered { ticket, answer } => self.answered(ticket, answer),
            Event::Receipt { lane } => self.say_receipt(&lane),
            Event::Capture => self.capture(),
            Event::Wake { life } => self.wake(life),
            Event::Notified { life, value, moment } => self.notified(life, &value, moment),
            Event::CatchUp => self.catch_up(),
            Event::Intrude => self.intrude(),
            // What was to go right again later has done so already when all is well.
            Event::Fault(fault) if self.is_rough || matches!(fault, Fault::Restart(_)) => self.fault(fault),
            Event::Fault(_) => {}
        }
    }
}

/// The place of a server among the two.
pub(super) fn place(host: Host) -> usize {
    match host {
        Host::First => 0,
        Host::Second => 1,
        Host::Agent | Host::Directory | Host::Stranger => unreachable!("{host:?} is no server"),
    }
}
