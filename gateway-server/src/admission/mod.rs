//! Who is let in, and how much of the node one source or one tenant may take.
//!
//! Everything here is counted in memory that has a bound. A *source* is an address prefix: what a single
//! stranger can easily have many of counts as one.

mod logins;
mod places;
mod recent;
mod room;
mod seats;
mod turns;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use at_protocol::AtSign;

use crate::config::LimitsConfig;

pub(crate) use logins::Verdict;
pub(crate) use places::Place;
pub(crate) use room::{Held, SMALL};
pub(crate) use seats::Seat;
pub(crate) use turns::Turn;

/// Where a connection comes from: an IPv4 address, or the /64 of an IPv6 address, which is what one
/// customer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// One IPv4 address.
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
    V6(u64),
}

/// All that is counted.
pub(crate) struct Admission {
    places: Arc<places::Places>,
    seats: Arc<seats::Seats>,
    turns: Arc<turns::Turns>,
    logins: logins::Logins,
    room: room::Room,
}

impl Admission {
    pub(crate) fn new(limits: &LimitsConfig) -> Self {
        Self {
            places: Arc::new(places::Places::new(&limits.node)),
            seats: Arc::new(seats::Seats::new(&limits.tenant)),
            turns: Arc::new(turns::Turns::new(limits.node.handshakes)),
            logins: logins::Logins::new(&limits.logins),
            room: room::Room::new(limits.node.buffers),
        }
    }

    /// Connections from clients and servers.
    pub(crate) fn connections(&self) -> usize {
        self.places.taken()
    }

    /// Takes one of the places for connections; none is left once even those who are only told so are too
    /// many.
    pub(crate) fn place(&self, source: Source) -> Option<Place> {
        self.places.take(source)
    }

    /// Waits for the source's turn to make a TLS handshake.
    pub(crate) async fn turn(&self, source: Source) -> Turn {
        self.turns.wait(source).await
    }

    /// Takes one of the tenant's places, as a stranger's; `None` if it has none left.
    pub(crate) fn seat(&self, tenant: &AtSign) -> Option<Seat> {
        self.seats.take(tenant)
    }

    /// How crowded it is, in thousandths of the way from the low-water mark (half of the connections) to
    /// the limit: of the node or of the tenant, whichever is worse (atProtocol wire reference §2.5).
    pub(crate) fn crowding(&self, tenant: Option<&AtSign>) -> u32 {
        let here = tenant.map_or(0, |tenant| self.seats.crowding(tenant));
        here.max(self.places.crowding())
    }

    /// Failed logins.
    pub(crate) fn logins(&self) -> &logins::Logins {
        &self.logins
    }

    /// Memory for long lines and answers.
    pub(crate) fn room(&self) -> &room::Room {
        &self.room
    }
}

/// Thousandths of the way from half of `most` to `most`.
fn crowding(taken: usize, most: usize) -> u32 {
    let low = most / 2;
    let beyond = taken.saturating_sub(low).saturating_mul(1000);
    u32::try_from(beyond.checked_div(most - low).unwrap_or(0)).unwrap_or(u32::MAX).min(1000)
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d].iter().fold(0, |bits, part| bits << 16 | u64::from(*part)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_ipv4_address_or_a_customers_ipv6_prefix() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }

    #[test]
    fn crowding_begins_at_half_and_ends_at_the_limit() {
        let of_200 = [0, 100, 101, 150, 200, 500].map(|taken| crowding(taken, 200));
        assert_eq!(of_200, [0, 0, 10, 500, 1000, 1000]);
        assert_eq!([crowding(0, 0), crowding(5, 0), crowding(1, 1)], [0, 0, 1000]);
    }
}
