//! The way to one node: which one is taken, and when it is left alone for a while. Pure, without the
//! network, or a clock.

use std::time::{Duration, Instant};

use at_protocol::directory::Address;

use super::lane::pause;

/// How long connecting may take.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long QUIC has for itself before TLS over TCP is tried beside it.
pub const HEAD_START: Duration = Duration::from_secs(1);
/// How long QUIC goes on when TCP has failed. Its first packets are repeated ever more seldom, so that a node that
/// has come back is found sooner by another attempt.
pub const ALONE: Duration = Duration::from_secs(4);
/// How long a node is spoken to over TCP, where UDP did not get through, before UDP is tried again.
pub const UDP_AGAIN: Duration = Duration::from_secs(60);
/// How long a connection is kept without a stream.
const UNUSED: Duration = Duration::from_secs(120);

/// Why a node is not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoadError {
    /// Neither over QUIC nor over TLS.
    #[error("cannot reach the node at {address}: {quic}; over TCP: {tcp}")]
    Unreachable {
        /// Where.
        address: Address,
        /// What QUIC came to.
        quic: String,
        /// What TCP came to.
        tcp: String,
    },
    /// It was not reached a moment ago, and is left alone.
    #[error("{0}; it is left alone for a moment")]
    Resting(Box<RoadError>),
    /// The connection failed when a stream was asked for.
    #[error("the connection to the node at {0} failed: {1}")]
    Failed(Address, String),
}

/// How a node is spoken to.
pub trait Way: Clone {
    /// Whether it can be used.
    fn is_good(&self, now: Instant) -> bool;
}

/// The way to one node.
#[derive(Debug)]
pub struct Road<W> {
    way: Option<W>,
    /// How much had been said on the streams of the connection, and since when it is no more.
    quiet: Option<(u64, Instant)>,
    failures: u32,
    /// Until when it is left alone, and why.
    resting: Option<(Instant, RoadError)>,
}

/// What to do to reach it.
#[derive(Debug, PartialEq, Eq)]
pub enum Look<W> {
    /// Take this way.
    Take(W),
    /// Leave it alone.
    Leave(RoadError),
    /// Connect; [`Road::up`] or [`Road::down`].
    Connect,
}

impl<W> Default for Road<W> {
    fn default() -> Self {
        Self { way: None, quiet: None, failures: 0, resting: None }
    }
}

impl<W: Way> Road<W> {
    /// What to do to reach the node, which may itself have made a connection, `met`.
    pub fn look(&mut self, met: Option<W>, now: Instant) -> Look<W> {
        if let Some(way) = self.way.clone().filter(|way| way.is_good(now)) {
            return Look::Take(way);
        }
        if let Some(met) = met.filter(|met| met.is_good(now)) {
            self.up(met.clone());
            return Look::Take(met);
        }
        match &self.resting {
            Some((until, why)) if *until > now => Look::Leave(RoadError::Resting(Box::new(why.clone()))),
            Some(_) | None => Look::Connect,
        }
    }

    /// It can be reached in this way.
    pub fn up(&mut self, way: W) {
        *self = Self { way: Some(way), ..Self::default() };
    }

    /// It cannot be reached. `random` is chance.
    pub fn down(&mut self, why: RoadError, now: Instant, random: u8) {
        self.way = None;
        self.resting = Some((now + pause(self.failures, random), why));
        self.failures = self.failures.saturating_add(1);
    }

    /// The way that was taken last.
    pub fn way(&self) -> Option<&W> {
        self.way.as_ref()
    }

    /// Whether nothing was said for so long that the connection is not worth keeping, of which `said` is how
    /// much was said up to now.
    pub fn is_unused(&mut self, said: u64, now: Instant) -> bool {
        match self.quiet {
            Some((before, since)) if before == said => now.saturating_duration_since(since) > UNUSED,
            Some(_) | None => {
                self.quiet = Some((said, now));
                false
            }
        }
    }

    /// Whether nothing would be lost if it were forgotten.
    pub fn is_forgettable(&mut self, now: Instant) -> bool {
        self.way.take_if(|way| !way.is_good(now));
        self.way.is_none() && self.resting.as_ref().is_none_or(|(until, _)| *until <= now)
    }
}

/// QUIC, and if that takes long, TLS beside it: whichever is there first. Both prove the same keys, so whoever
/// drops packets gains nothing.
#[derive(Debug, Default)]
pub struct Race {
    quic: Option<String>,
    tcp: Option<String>,
}

/// What to do when one of the two has failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Failed {
    /// Wait for QUIC, which is still on its way.
    Wait,
    /// Begin with TLS now if that has not begun.
    Hurry,
    /// Both have: what QUIC came to, and what TCP came to.
    Both(String, String),
}

impl Race {
    /// Whether QUIC may still get through.
    #[must_use]
    pub fn has_quic(&self) -> bool {
        self.quic.is_none()
    }

    /// Whether TLS may still get through.
    #[must_use]
    pub fn has_tcp(&self) -> bool {
        self.tcp.is_none()
    }

    /// QUIC did not get through.
    pub fn on_quic_failed(&mut self, why: String) -> Failed {
        self.quic = Some(why);
        self.next()
    }

    /// TLS did not get through.
    pub fn on_tcp_failed(&mut self, why: String) -> Failed {
        self.tcp = Some(why);
        self.next()
    }

    fn next(&mut self) -> Failed {
        match (&mut self.quic, &mut self.tcp) {
            (Some(quic), Some(tcp)) => Failed::Both(std::mem::take(quic), std::mem::take(tcp)),
            (Some(_), None) => Failed::Hurry,
            (None, _) => Failed::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Until(u8, Instant);

    impl Way for Until {
        fn is_good(&self, now: Instant) -> bool {
            self.1 > now
        }
    }

    fn why() -> RoadError {
        let address = "node1.example:6464".parse().unwrap();
        RoadError::Unreachable { address, quic: "no answer".to_owned(), tcp: "refused".to_owned() }
    }

    #[test]
    fn who_is_not_reached_is_left_alone_until_it_comes_itself() {
        let start = Instant::now();
        let second = |number| start + Duration::from_secs(number);
        let mut road = Road::default();
        assert_eq!(road.look(None, start), Look::Connect);
        road.down(why(), start, 255);
        assert_eq!(road.look(None, start), Look::Leave(RoadError::Resting(Box::new(why()))));
        assert!(!road.is_forgettable(start));
        assert_eq!(road.look(None, second(1)), Look::Connect);
        for _ in 0..20 {
            road.down(why(), second(1), 255);
        }
        assert!(matches!(road.look(None, second(10)), Look::Leave(_)), "longer, the more often");
        let met = Until(1, second(20));
        assert_eq!(road.look(Some(met.clone()), second(10)), Look::Take(met.clone()));
        assert_eq!(road.look(None, second(11)), Look::Take(met), "it is remembered");
        assert_eq!(road.look(None, second(20)), Look::Connect, "and its failures are forgotten");
        assert!(road.is_forgettable(second(20)));
    }

    #[test]
    fn a_connection_on_which_nothing_is_said_is_not_kept_for_ever() {
        let start = Instant::now();
        let mut road = Road::<Until>::default();
        assert!(!road.is_unused(5, start));
        assert!(!road.is_unused(5, start + UNUSED));
        assert!(!road.is_unused(6, start + UNUSED * 2), "something was said");
        assert!(road.is_unused(6, start + UNUSED * 4));
    }

    #[test]
    fn both_ways_fail_before_a_node_is_given_up() {
        let mut race = Race::default();
        assert_eq!(race.on_tcp_failed("refused".to_owned()), Failed::Wait);
        assert!(race.has_quic() && !race.has_tcp());
        let both = Failed::Both("no answer".to_owned(), "refused".to_owned());
        assert_eq!(race.on_quic_failed("no answer".to_owned()), both);
        assert_eq!(Race::default().on_quic_failed(String::new()), Failed::Hurry);
    }
}
