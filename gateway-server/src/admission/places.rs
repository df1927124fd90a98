//! Places for connections: of the node, and of one source.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Source, crowding};
use crate::config::NodeLimits;

/// Connections beyond the limit that are told so, which costs a handshake each. All others are dropped.
const REFUSED_AT_ONCE: usize = 64;

/// How many connections there are.
pub(super) struct Places {
    most: usize,
    most_each: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    refused: usize,
    by_source: HashMap<Source, usize>,
}

/// A connection's place, given back when dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    source: Source,
    /// Whether it is only good for being told that there is none.
    pub(crate) is_full: bool,
}

impl Places {
    pub(super) fn new(limits: &NodeLimits) -> Self {
        Self { most: limits.connections, most_each: limits.connections_per_source, taken: Mutex::default() }
    }

    pub(super) fn taken(&self) -> usize {
        self.lock().all
    }

    pub(super) fn crowding(&self) -> u32 {
        crowding(self.taken(), self.most)
    }

    pub(super) fn take(self: &Arc<Self>, source: Source) -> Option<Place> {
        let mut taken = self.lock();
        let here = taken.by_source.get(&source).copied().unwrap_or(0);
        let is_full = taken.all >= self.most || here >= self.most_each;
        if is_full {
            if taken.refused >= REFUSED_AT_ONCE {
                return None;
            }
            taken.refused += 1;
        } else {
            taken.all += 1;
            *taken.by_source.entry(source).or_default() += 1;
        }
        Some(Place { places: Arc::clone(self), source, is_full })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if self.is_full {
            taken.refused -= 1;
            return;
        }
        taken.all -= 1;
        if let Some(here) = taken.by_source.get_mut(&self.source) {
            *here -= 1;
            if *here == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn places(connections: usize, connections_per_source: usize) -> Arc<Places> {
        Arc::new(Places::new(&NodeLimits { connections, connections_per_source, ..NodeLimits::default() }))
    }

    fn source(number: u8) -> Source {
        Source::V4(Ipv4Addr::new(192, 0, 2, number))
    }

    #[test]
    fn places_come_back_when_connections_end() {
        let places = places(1, 10);
        let first = places.take(source(1)).unwrap();
        let refused: Vec<_> = (0..REFUSED_AT_ONCE).map(|_| places.take(source(1)).unwrap()).collect();
        assert!(!first.is_full && refused.iter().all(|place| place.is_full));
        assert!(places.take(source(1)).is_none(), "beyond, nobody is even told");
        drop(refused);
        drop(first);
        assert!(!places.take(source(1)).unwrap().is_full);
        assert_eq!(places.lock().by_source.len(), 0);
    }

    #[test]
    fn one_source_does_not_take_them_all() {
        let places = places(10, 3);
        let greedy: Vec<_> = (0..5).map(|_| places.take(source(1)).unwrap()).collect();
        assert_eq!(greedy.iter().filter(|place| place.is_full).count(), 2);
        assert!(!places.take(source(2)).unwrap().is_full);
    }
}
