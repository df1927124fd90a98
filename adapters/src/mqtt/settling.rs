//! When the other side has provably processed our acknowledgements.
//!
//! Until then it may repeat a delivery, and the gateway has to remember it. Deliveries are told by their numbers
//! ([`Delivery`](crate::Delivery)), and acknowledged in their order, so that of the settled ones only the last is told.

/// What is acknowledged so far.
#[derive(Debug, Default)]
struct Acknowledged {
    last: u64,
    /// The last that is marked as a repeat. What it repeats is settled no sooner than that it is acknowledged anew.
    repeat: u64,
}

impl Acknowledged {
    fn repeats_nothing(&self) -> bool {
        self.last >= self.repeat
    }
}

/// Towards a broker: what it answers to a ping proves that it read everything that was sent before
/// the ping, since TCP keeps the order.
#[derive(Debug, Default)]
pub(super) struct SettledByPing {
    acknowledged: Acknowledged,
    before_ping: Option<u64>,
}

impl SettledByPing {
    /// A delivery arrived, marked as a repeat or not.
    pub(super) fn arrived(&mut self, number: u64, dup: bool) {
        if dup {
            self.acknowledged.repeat = number;
            self.before_ping = None;
        }
    }

    /// The acknowledgement was sent.
    pub(super) fn acknowledged(&mut self, number: u64) {
        self.acknowledged.last = number;
    }

    /// The session goes on over another connection: a ping of the last one is never answered. What the
    /// broker has not processed it repeats at once, before it answers the next ping.
    pub(super) fn reconnected(&mut self) {
        self.before_ping = None;
    }

    /// A ping was sent.
    pub(super) fn pinged(&mut self) {
        let Acknowledged { last, .. } = self.acknowledged;
        self.before_ping = Some(last).filter(|last| *last > 0 && self.acknowledged.repeats_nothing());
    }

    /// The ping was answered: all up to this one are settled.
    pub(super) fn answered(&mut self) -> Option<u64> {
        self.before_ping.take()
    }
}

/// Towards a device, which we cannot ping: it may have only so many deliveries under way, so after as
/// many new ones it must have processed the acknowledgement of an old one.
#[derive(Debug, Default)]
pub(super) struct SettledByWindow {
    acknowledged: Acknowledged,
    /// New deliveries.
    arrived: u64,
    /// What was acknowledged when so many had arrived.
    mark: Option<(u64, u64)>,
}

impl SettledByWindow {
    /// A delivery arrived, marked as a repeat or not.
    pub(super) fn arrived(&mut self, number: u64, dup: bool) {
        match dup {
            true => self.acknowledged.repeat = number,
            false => self.arrived += 1,
        }
    }

    /// The acknowledgement was sent.
    pub(super) fn acknowledged(&mut self, number: u64) {
        self.acknowledged.last = number;
        self.mark.get_or_insert((number, self.arrived));
    }

    /// What is settled, if the device has at most `window` deliveries under way: all up to this one. Told once in as
    /// many deliveries, at most twice as many are remembered.
    pub(super) fn settled(&mut self, window: u16) -> Option<u64> {
        let (settled, at) = self.mark?;
        if self.arrived - at < u64::from(window) || !self.acknowledged.repeats_nothing() {
            return None;
        }
        self.mark = Some((self.acknowledged.last, self.arrived));
        Some(settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_acknowledged_before_the_ping_is_settled() {
        let mut settling = SettledByPing::default();
        settling.pinged();
        assert_eq!(settling.answered(), None, "nothing was");
        settling.acknowledged(1);
        settling.pinged();
        settling.acknowledged(2);
        assert_eq!(settling.answered(), Some(1));
        assert_eq!(settling.answered(), None);
        settling.pinged();
        assert_eq!(settling.answered(), Some(2));
    }

    #[test]
    fn a_new_connection_needs_a_ping_of_its_own() {
        let mut settling = SettledByPing::default();
        settling.acknowledged(1);
        settling.acknowledged(2);
        settling.pinged();
        settling.reconnected();
        assert_eq!(settling.answered(), None);
        settling.pinged();
        settling.arrived(3, true);
        assert_eq!(settling.answered(), None, "what 3 repeats may be 1 or 2");
        settling.pinged();
        assert_eq!(settling.answered(), None, "3 is not acknowledged");
        settling.acknowledged(3);
        settling.pinged();
        assert_eq!(settling.answered(), Some(3));
    }

    #[test]
    fn a_window_of_new_deliveries_settles_an_old_one() {
        let mut settling = SettledByWindow::default();
        settling.arrived(1, false);
        settling.acknowledged(1);
        settling.arrived(2, false);
        assert_eq!(settling.settled(2), None);
        settling.arrived(3, false);
        assert_eq!(settling.settled(2), Some(1));
        settling.acknowledged(2);
        settling.arrived(4, false);
        assert_eq!(settling.settled(2), None, "it was told when 3 had arrived");
        settling.arrived(5, false);
        assert_eq!(settling.settled(2), Some(1), "no more was acknowledged then");
        settling.arrived(6, true);
        settling.arrived(7, false);
        settling.arrived(8, false);
        assert_eq!(settling.settled(2), None, "what 6 repeats may be 2");
        settling.acknowledged(8);
        assert_eq!(settling.settled(2), Some(2));
    }
}
