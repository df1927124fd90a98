//! What a router does that translates addresses: one host is seen by another under an address that is not
//! its own.
//!
//! The router knows no connections: what a host sends by UDP, or over TCP from a port that the system hands
//! to those who connect, comes from the other address; what is sent to that one comes back. When the
//! address changes, connections from before are no more: nothing reaches them.

use std::net::Ipv4Addr;

/// The first port that the system hands to those who connect.
const FIRST_FREE: u16 = 32_768;

/// What has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    fn of(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

/// What speaks with what: a protocol, the sender's port and the recipient's.
pub(super) fn flow(packet: &[u8]) -> Option<(Protocol, u16, u16)> {
    Header::of(packet).map(|header| (header.protocol, header.source_port, header.destination_port))
}

/// Where a packet has its addresses.
const SOURCE: usize = 12;
const DESTINATION: usize = 16;

/// The address under which a host is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disguise {
    /// Its own.
    pub own: Ipv4Addr,
    /// The other.
    pub shown: Ipv4Addr,
}

/// What the router does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It leads nowhere any more.
    Drop,
}

impl Disguise {
    /// A packet from the host.
    pub fn leave(self, packet: &mut [u8]) {
        let Some(header) = Header::of(packet) else { return };
        let is_ours = header.source == self.own;
        let is_dialled = header.protocol == Protocol::Udp || header.source_port >= FIRST_FREE;
        if is_ours && is_dialled {
            header.replace(packet, SOURCE, self.shown);
        }
    }

    /// A packet to the host.
    #[must_use]
    pub fn enter(self, packet: &mut [u8]) -> Verdict {
        let Some(header) = Header::of(packet) else { return Verdict::Pass };
        if header.destination == self.shown {
            header.replace(packet, DESTINATION, self.own);
            return Verdict::Pass;
        }
        let is_from_before = header.destination == self.own && header.destination_port >= FIRST_FREE;
        if is_from_before { Verdict::Drop } else { Verdict::Pass }
    }
}

/// What matters of the headers of an unfragmented packet of UDP or TCP.
struct Header {
    protocol: Protocol,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_port: u16,
    destination_port: u16,
    /// Where the header behind the one of IP begins.
    next: usize,
}

impl Header {
    fn of(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let next = usize::from(first & 15) * 4;
        let is_whole = word(packet, 6)? & 0x3fff == 0;
        let protocol = Protocol::of(*packet.get(9)?)?;
        if first >> 4 != 4 || next < 20 || !is_whole {
            return None;
        }
        let length = match protocol {
            Protocol::Tcp => 20,
            Protocol::Udp => 8,
        };
        packet.get(next..next + length)?;
        Some(Self {
            protocol,
            source: address(packet, SOURCE)?,
            destination: address(packet, DESTINATION)?,
            source_port: word(packet, next)?,
            destination_port: word(packet, next + 2)?,
            next,
        })
    }

    /// Puts another address in, and corrects both checksums by the difference.
    fn replace(&self, packet: &mut [u8], at: usize, new: Ipv4Addr) {
        let mut old = [0; 4];
        old.copy_from_slice(&packet[at..at + 4]);
        packet[at..at + 4].copy_from_slice(&new.octets());
        let corrected = |sum: u16| {
            let words = |octets: [u8; 4]| {
                [u16::from_be_bytes([octets[0], octets[1]]), u16::from_be_bytes([octets[2], octets[3]])]
            };
            let taken: u32 = words(old).map(|word| u32::from(!word)).iter().sum();
            let given: u32 = words(new.octets()).map(u32::from).iter().sum();
            !fold(u32::from(!sum) + taken + given)
        };
        let mut correct = |at: usize, is_optional: bool| {
            let Some(sum) = word(packet, at).filter(|sum| *sum != 0 || !is_optional) else { return };
            // To UDP, zero says that there is no checksum.
            let sum = match corrected(sum) {
                0 if is_optional => u16::MAX,
                sum => sum,
            };
            packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        };
        correct(10, false);
        match self.protocol {
            Protocol::Udp => correct(self.next + 6, true),
            Protocol::Tcp => correct(self.next + 16, false),
        }
    }
}

fn word(packet: &[u8], at: usize) -> Option<u16> {
    packet.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn address(packet: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

/// A sum of words in ones' complement.
fn fold(mut sum: u32) -> u16 {
    while sum > u32::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);
    const SHOWN: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 11);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const DISGUISE: Disguise = Disguise { own: HOST, shown: SHOWN };

    fn sum(bytes: impl IntoIterator<Item = u8>) -> u16 {
        let bytes: Vec<u8> = bytes.into_iter().collect();
        let words =
            bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        !fold(words.sum())
    }

    /// The checksums of a packet, over it as it is, are zero where they are right.
    fn sums(packet: &[u8]) -> [u16; 2] {
        let length = u16::try_from(packet.len() - 20).unwrap().to_be_bytes();
        let pseudo = packet[12..20].iter().copied().chain([0, packet[9]]).chain(length);
        [sum(packet[..20].iter().copied()), sum(pseudo.chain(packet[20..].iter().copied()))]
    }

    fn packet(protocol: u8, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
        let (header, at) = if protocol == TCP { (20, 36) } else { (8, 26) };
        let mut packet = vec![0; 20 + header];
        packet[0] = 0x45;
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&from.0.octets());
        packet[16..20].copy_from_slice(&to.0.octets());
        packet[20..22].copy_from_slice(&from.1.to_be_bytes());
        packet[22..24].copy_from_slice(&to.1.to_be_bytes());
        packet.extend_from_slice(payload);
        let [ip, next] = sums(&packet);
        packet[10..12].copy_from_slice(&ip.to_be_bytes());
        packet[at..at + 2].copy_from_slice(&next.to_be_bytes());
        assert_eq!(sums(&packet), [0, 0]);
        packet
    }

    #[test]
    fn packets_come_from_the_other_address_and_back_and_their_sums_are_right() {
        let mut random = Random::new(1);
        for (protocol, length) in [(UDP, 0), (UDP, 7), (UDP, 1200), (TCP, 0), (TCP, 1001)] {
            for _ in 0..200 {
                let payload: Vec<u8> = (0..length).map(|_| random.byte()).collect();
                let original = packet(protocol, (HOST, 40_000), (PEER, 6464), &payload);
                let mut sent = original.clone();
                DISGUISE.leave(&mut sent);
                assert_eq!(flow(&sent), Some((Protocol::of(protocol).unwrap(), 40_000, 6464)));
                assert_eq!(sent[12..16], SHOWN.octets());
                assert_eq!((sums(&sent), &sent[20..24]), ([0, 0], &original[20..24]));
                let mut answer = packet(protocol, (PEER, 6464), (SHOWN, 40_000), &payload);
                assert_eq!(DISGUISE.enter(&mut answer), Verdict::Pass);
                assert_eq!((sums(&answer), &answer[16..20]), ([0, 0], &HOST.octets()[..]));
            }
        }
    }

    #[test]
    fn who_connects_to_the_host_still_finds_it_and_connections_from_before_are_gone() {
        let mut incoming = packet(TCP, (PEER, 40_000), (HOST, 6464), b"x");
        assert_eq!(DISGUISE.enter(&mut incoming), Verdict::Pass);
        let mut answer = packet(TCP, (HOST, 6464), (PEER, 40_000), b"x");
        DISGUISE.leave(&mut answer);
        assert_eq!(answer[12..16], HOST.octets());
        for protocol in [TCP, UDP] {
            let mut late = packet(protocol, (PEER, 6464), (HOST, 40_000), b"x");
            assert_eq!(DISGUISE.enter(&mut late), Verdict::Drop);
        }
    }

    #[test]
    fn nothing_else_is_touched() {
        let mut random = Random::new(2);
        for length in 0..60 {
            let mut bytes: Vec<u8> = (0..length).map(|_| random.byte()).collect();
            let before = bytes.clone();
            DISGUISE.leave(&mut bytes);
            assert_eq!(DISGUISE.enter(&mut bytes), Verdict::Pass);
            assert_eq!(bytes, before);
        }
        let mut without_sum = packet(UDP, (HOST, 40_000), (PEER, 6464), b"x");
        without_sum[26..28].fill(0);
        DISGUISE.leave(&mut without_sum);
        assert_eq!(without_sum[26..28], [0, 0]);
    }
}
