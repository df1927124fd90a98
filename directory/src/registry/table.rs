//! A hash table of places in a vector, made for one thing: that a look-up waits for memory as seldom as can be.
//!
//! A slot holds a place and 32 bits of the hash of what stands there. Where the hash fits, the place is nearly
//! always the one that is meant, so that a look-up reads one slot, or some beside it, and then the name; and
//! nothing needs to be read at all when the table grows.

/// Where something begins in its vector.
pub(super) type Place = u32;

/// The slots of a table that begins.
const FEW: usize = 16;

/// Places by the hashes of what stands there.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The hash in the upper half, one more than the place in the lower; 0 where there is none. As many as a power
    /// of two.
    slots: Vec<u64>,
    used: usize,
}

impl Table {
    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// All places, in no order.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.slots.iter().copied().filter(|slot| *slot != 0).map(place)
    }

    /// The place with this hash that `is_it`.
    pub(super) fn find(&self, hash: u32, is_it: impl Fn(Place) -> bool) -> Option<Place> {
        self.slot_of(hash, is_it).map(|at| place(self.slots[at]))
    }

    /// Puts in a place that is not there, and is not the highest that there could be.
    pub(super) fn insert(&mut self, hash: u32, place: Place) {
        // A quarter stays empty, so that the ways to an empty slot are short.
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        self.used += 1;
        self.settle(u64::from(hash) << 32 | u64::from(place + 1));
    }

    /// Takes out the place with this hash that `is_it`.
    pub(super) fn remove(&mut self, hash: u32, is_it: impl Fn(Place) -> bool) -> Option<Place> {
        let at = self.slot_of(hash, is_it)?;
        let removed = place(self.slots[at]);
        self.used -= 1;
        self.close_gap(at);
        Some(removed)
    }

    fn slot_of(&self, hash: u32, is_it: impl Fn(Place) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            if hash_of(slot) == hash && is_it(place(slot)) {
                return Some(at);
            }
            at = self.behind(at);
        }
    }

    /// Puts a slot where its hash says, or behind.
    fn settle(&mut self, slot: u64) {
        let mut at = self.home(hash_of(slot));
        while self.slots[at] != 0 {
            at = self.behind(at);
        }
        self.slots[at] = slot;
    }

    fn grow(&mut self) {
        let more = (self.slots.len() * 2).max(FEW);
        for slot in std::mem::replace(&mut self.slots, vec![0; more]) {
            if slot != 0 {
                self.settle(slot);
            }
        }
    }

    /// Empties a slot and moves up what would not be found behind an empty one.
    fn close_gap(&mut self, mut gap: usize) {
        self.slots[gap] = 0;
        let mut at = self.behind(gap);
        while self.slots[at] != 0 {
            let home = self.home(hash_of(self.slots[at]));
            if self.distance(home, at) >= self.distance(gap, at) {
                self.slots[gap] = std::mem::take(&mut self.slots[at]);
                gap = at;
            }
            at = self.behind(at);
        }
    }

    /// The slot at which the search for a hash begins.
    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    fn behind(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    /// How far `to` is behind `from`, around the end.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.slots.len() - 1)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is the lower half")]
fn place(slot: u64) -> Place {
    slot as u32 - 1
}

fn hash_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Places are numbers here, and hashes so bad that they collide and crowd around the end.
    #[test]
    fn it_agrees_with_a_map_however_bad_the_hashes_are() {
        for spread in [1, 3, 64, 1 << 20] {
            let hash = |n: u32| 0xffff_fff0_u32.wrapping_add(n.wrapping_mul(0x9e37_79b9) % spread);
            let (mut table, mut model, mut random) = (Table::default(), BTreeMap::new(), 7_u64);
            for _ in 0..20_000 {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                let n = u32::try_from((random >> 33) % 200).unwrap();
                let found = table.find(hash(n), |place| place == n);
                assert_eq!(found.is_some(), model.contains_key(&n));
                if found.is_some() {
                    assert_eq!(table.remove(hash(n), |place| place == n), Some(n));
                    model.remove(&n);
                } else {
                    table.insert(hash(n), n);
                    model.insert(n, ());
                }
                assert_eq!(table.len(), model.len());
            }
            let mut places: Vec<Place> = table.places().collect();
            places.sort_unstable();
            assert!(places.iter().eq(model.keys()), "spread over {spread}");
        }
    }
}
