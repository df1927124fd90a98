//! When the other side has provably processed our acknowledgements.
//!
//! Until then it may repeat a delivery, and the gateway has to remember it.

use std::collections::{BTreeSet, VecDeque};

/// Towards a broker: what it answers to a ping proves that it read everything that was sent before
/// the ping, since TCP keeps the order.
#[derive(Debug, Default)]
pub(super) struct SettledByPing {
    acknowledged: BTreeSet<u16>,
    before_ping: BTreeSet<u16>,
}

impl SettledByPing {
    /// A delivery arrived under this packet identifier. If it was in use before, the broker has
    /// processed that acknowledgement, and the newcomer has none yet.
    pub(super) fn arrived(&mut self, packet: u16) {
        self.acknowledged.remove(&packet);
        self.before_ping.remove(&packet);
    }

    /// The acknowledgement was sent.
    pub(super) fn acknowledged(&mut self, packet: u16) {
        self.acknowledged.insert(packet);
    }

    /// The session goes on over another connection: a ping of the last one is never answered. What the
    /// broker has not processed it repeats at once, before it answers the next ping.
    pub(super) fn reconnected(&mut self) {
        self.acknowledged.append(&mut self.before_ping);
    }

    /// A ping was sent.
    pub(super) fn pinged(&mut self) {
        self.before_ping.append(&mut self.acknowledged);
    }

    /// The ping was answered: these are settled.
    pub(super) fn answered(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.before_ping).into_iter().collect()
    }
}

/// Towards a device, which we cannot ping: it may have only so many deliveries under way, so after as
/// many new ones it must have processed the acknowledgement of an old one.
#[derive(Debug, Default)]
pub(super) struct SettledByWindow {
    /// Packet identifiers that were acknowledged, oldest first, with the number of deliveries before.
    acknowledged: VecDeque<(u16, u64)>,
    arrived: u64,
}

impl SettledByWindow {
    /// A delivery arrived that the device does not mark as repeated.
    pub(super) fn arrived(&mut self, packet: u16) {
        self.arrived += 1;
        self.acknowledged.retain(|(other, _)| *other != packet);
    }

    /// The acknowledgement was sent.
    pub(super) fn acknowledged(&mut self, packet: u16) {
        self.acknowledged.retain(|(other, _)| *other != packet);
        self.acknowledged.push_back((packet, self.arrived));
    }

    /// What is settled if the device has at most `window` deliveries under way.
    pub(super) fn settled(&mut self, window: u16) -> Vec<u16> {
        let mut settled = Vec::new();
        while let Some((packet, _)) =
            self.acknowledged.pop_front_if(|(_, at)| self.arrived - *at >= u64::from(window))
        {
            settled.push(packet);
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_acknowledged_before_the_ping_is_settled() {
        let mut settling = SettledByPing::default();
        settling.acknowledged(1);
        settling.pinged();
        settling.acknowledged(2);
        assert_eq!(settling.answered(), [1]);
        assert!(settling.answered().is_empty());
        settling.pinged();
        assert_eq!(settling.answered(), [2]);
    }

    #[test]
    fn a_reused_identifier_is_not_settled_by_its_predecessor() {
        let mut settling = SettledByPing::default();
        settling.acknowledged(1);
        settling.pinged();
        settling.arrived(1);
        assert!(settling.answered().is_empty());
    }

    #[test]
    fn a_new_connection_needs_a_ping_of_its_own() {
        let mut settling = SettledByPing::default();
        settling.acknowledged(1);
        settling.acknowledged(2);
        settling.pinged();
        settling.reconnected();
        assert!(settling.answered().is_empty());
        settling.arrived(2);
        settling.pinged();
        assert_eq!(settling.answered(), [1], "2 was repeated");
    }

    #[test]
    fn a_window_of_new_deliveries_settles_an_old_one() {
        let mut settling = SettledByWindow::default();
        settling.arrived(1);
        settling.acknowledged(1);
        settling.arrived(2);
        assert!(settling.settled(2).is_empty());
        settling.arrived(3);
        assert_eq!(settling.settled(2), [1]);
        settling.acknowledged(2);
        settling.arrived(2);
        settling.arrived(4);
        settling.arrived(5);
        assert!(settling.settled(2).is_empty(), "2 was used again and is not acknowledged");
    }
}
