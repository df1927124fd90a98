//! Hosts, what is between them, and the connections over it, which hide loss and disorder as QUIC and TCP do:
//! what one end says on a stream the other hears in its order, or not at all.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use atedge_server::pure::roads::Way;

use super::agenda::Time;
use crate::random::Random;

/// Who there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    Agent,
    First,
    Second,
    Directory,
    Stranger,
}

pub(super) const SERVERS: [Host; 2] = [Host::First, Host::Second];

/// A connection that has gone silent is lost after this.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// What is not acknowledged is sent again after this.
const AGAIN: Duration = Duration::from_millis(700);

impl Host {
    /// Its name, by which addresses name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::First => "first",
            Self::Second => "second",
            Self::Directory => "directory",
            Self::Stranger => "stranger",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        [Self::First, Self::Second, Self::Stranger].into_iter().find(|host| host.name() == name)
    }
}

pub(super) type ConnId = u64;
pub(super) type StreamId = u64;

/// One end of a connection: 0 has made it.
pub(super) type End = usize;

/// What is said on a stream.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Bytes(String),
    End,
}

/// A connection between two nodes.
pub(super) struct Conn {
    pub(super) ends: [Host; 2],
    pub(super) lives: [u64; 2],
    pub(super) is_quic: bool,
    /// Whether each end holds it to be open.
    pub(super) open: [Rc<Cell<bool>>; 2],
    /// What goes to each end, by stream.
    channels: [BTreeMap<StreamId, Channel>; 2],
}

/// One direction of a stream.
#[derive(Default)]
struct Channel {
    said: u64,
    heard: u64,
    early: BTreeMap<u64, Said>,
}

impl Conn {
    pub(super) fn new(ends: [Host; 2], lives: [u64; 2], is_quic: bool) -> Self {
        let open = [Rc::new(Cell::new(true)), Rc::new(Cell::new(true))];
        Self { ends, lives, is_quic, open, channels: Default::default() }
    }

    /// The number of the next thing that is said to an end.
    pub(super) fn say(&mut self, to: End, stream: StreamId) -> u64 {
        let channel = self.channels[to].entry(stream).or_default();
        channel.said += 1;
        channel.said
    }

    /// Something has arrived; gives what can be heard because of it.
    pub(super) fn arrive(&mut self, to: End, stream: StreamId, number: u64, said: Said) -> Vec<Said> {
        let channel = self.channels[to].entry(stream).or_default();
        if number > channel.heard {
            channel.early.insert(number, said);
        }
        let mut heard = Vec::new();
        while let Some(said) = channel.early.remove(&(channel.heard + 1)) {
            channel.heard += 1;
            heard.push(said);
        }
        heard
    }
}

/// A way to a node, as its [`Road`](atedge_server::pure::roads::Road) keeps it.
#[derive(Clone)]
pub(super) enum Over {
    Quic(ConnId, Rc<Cell<bool>>),
    Tls(Instant),
}

impl Way for Over {
    fn is_good(&self, now: Instant) -> bool {
        match self {
            Self::Quic(_, is_open) => is_open.get(),
            Self::Tls(until) => *until > now,
        }
    }
}

/// What is between the hosts.
#[derive(Default)]
pub(super) struct Network {
    /// Since when nothing passes from one to another.
    blocked: BTreeMap<(Host, Host), Time>,
    /// Whether UDP does not pass between servers.
    pub(super) is_without_udp: bool,
}

impl Network {
    pub(super) fn block(&mut self, from: Host, to: Host, now: Time) {
        self.blocked.entry((from, to)).or_insert(now);
    }

    pub(super) fn heal(&mut self, from: Host, to: Host) {
        self.blocked.remove(&(from, to));
    }

    pub(super) fn heal_all(&mut self) {
        *self = Self::default();
    }

    pub(super) fn passes(&self, from: Host, to: Host) -> bool {
        !self.blocked.contains_key(&(from, to))
    }

    pub(super) fn passes_both_ways(&self, one: Host, other: Host) -> bool {
        self.passes(one, other) && self.passes(other, one)
    }

    pub(super) fn blocked_since(&self, from: Host, to: Host) -> Option<Time> {
        self.blocked.get(&(from, to)).copied()
    }

    /// How long something takes this time: now and then it is lost and sent again.
    pub(super) fn delay(random: &mut Random) -> Duration {
        let millis = Duration::from_millis(1 + random.below(80));
        match random.below(20) {
            0 => millis + AGAIN,
            1 => millis + AGAIN * 3,
            _ => millis,
        }
    }

    /// How long until what did not pass is tried again.
    pub(super) fn again(random: &mut Random) -> Duration {
        AGAIN + Duration::from_millis(random.below(400))
    }
}
