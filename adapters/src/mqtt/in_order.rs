//! Acknowledgements in the order of arrival, whatever the order of the commits (MQTT 5.0 §4.6).

use std::collections::VecDeque;

/// The place of a delivery among all of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

/// The deliveries of one connection that are not yet acknowledged.
#[derive(Debug, Default)]
pub(super) struct InOrder {
    /// The place of the front of `waiting`.
    first: u64,
    /// Packet identifiers, and whether each may be acknowledged.
    waiting: VecDeque<(u16, bool)>,
}

impl InOrder {
    /// A delivery arrived.
    pub(super) fn arrived(&mut self, packet: u16) -> Place {
        self.waiting.push_back((packet, false));
        Place(self.first + self.waiting.len() as u64 - 1)
    }

    /// A delivery may be acknowledged.
    pub(super) fn accepted(&mut self, place: Place) {
        let at = place.0.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some((_, accepted)) = at.and_then(|at| self.waiting.get_mut(at)) {
            *accepted = true;
        }
    }

    /// The next packet to acknowledge, if its turn has come.
    pub(super) fn next(&mut self) -> Option<u16> {
        let (packet, _) = self.waiting.pop_front_if(|(_, accepted)| *accepted)?;
        self.first += 1;
        Some(packet)
    }

    /// How many are not yet acknowledged.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_leave_in_the_order_of_arrival() {
        let mut order = InOrder::default();
        let places: Vec<_> = [7, 8, 9].into_iter().map(|packet| order.arrived(packet)).collect();
        order.accepted(places[2]);
        order.accepted(places[1]);
        assert_eq!(order.next(), None);
        order.accepted(places[0]);
        assert_eq!(
            [order.next(), order.next(), order.next(), order.next()],
            [Some(7), Some(8), Some(9), None]
        );
        assert_eq!(order.len(), 0);
    }

    #[test]
    fn places_stay_right_as_the_queue_moves() {
        let mut order = InOrder::default();
        for round in 0..1000_u16 {
            let place = order.arrived(round);
            let behind = order.arrived(round);
            order.accepted(place);
            assert_eq!(order.next(), Some(round));
            assert_eq!(order.next(), None);
            order.accepted(place);
            assert_eq!(order.next(), None, "an old place means nothing");
            order.accepted(behind);
            assert_eq!(order.next(), Some(round));
        }
    }
}
