//! Acknowledgements in the order of arrival, whatever the order of the commits (MQTT 5.0 §4.6).

use std::collections::VecDeque;

/// The place of a delivery among all of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

/// A delivery that is to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Its packet identifier.
    pub(super) packet: u16,
    /// Its number, as in [`Delivery`](crate::Delivery).
    pub(super) number: u64,
}

/// The deliveries of one connection that are not yet acknowledged.
#[derive(Debug, Default)]
pub(super) struct InOrder {
    /// The place of the front of `waiting`.
    first: u64,
    /// What arrived, and whether each may be acknowledged.
    waiting: VecDeque<(Arrived, bool)>,
}

impl InOrder {
    /// A delivery arrived.
    pub(super) fn arrived(&mut self, arrived: Arrived) -> Place {
        self.waiting.push_back((arrived, false));
        Place(self.first + self.waiting.len() as u64 - 1)
    }

    /// A delivery may be acknowledged.
    pub(super) fn accepted(&mut self, place: Place) {
        let at = place.0.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some((_, accepted)) = at.and_then(|at| self.waiting.get_mut(at)) {
            *accepted = true;
        }
    }

    /// The next to acknowledge, if its turn has come.
    pub(super) fn next(&mut self) -> Option<Arrived> {
        let (arrived, _) = self.waiting.pop_front_if(|(_, accepted)| *accepted)?;
        self.first += 1;
        Some(arrived)
    }

    /// How many are not yet acknowledged.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(packet: u16) -> Arrived {
        Arrived { packet, number: packet.into() }
    }

    #[test]
    fn acknowledgements_leave_in_the_order_of_arrival() {
        let mut order = InOrder::default();
        let places: Vec<_> = [7, 8, 9].into_iter().map(|packet| order.arrived(of(packet))).collect();
        order.accepted(places[2]);
        order.accepted(places[1]);
        assert_eq!(order.next(), None);
        order.accepted(places[0]);
        assert_eq!(
            [order.next(), order.next(), order.next(), order.next()],
            [Some(of(7)), Some(of(8)), Some(of(9)), None]
        );
        assert_eq!(order.len(), 0);
    }

    #[test]
    fn places_stay_right_as_the_queue_moves() {
        let mut order = InOrder::default();
        for round in 0..1000_u16 {
            let place = order.arrived(of(round));
            let behind = order.arrived(of(round));
            order.accepted(place);
            assert_eq!(order.next(), Some(of(round)));
            assert_eq!(order.next(), None);
            order.accepted(place);
            assert_eq!(order.next(), None, "an old place means nothing");
            order.accepted(behind);
            assert_eq!(order.next(), Some(of(round)));
        }
    }
}
