//! Which sequence numbers of one boot a reader has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A set of sequence numbers, kept as ranges: what a reader has of one (gateway, device, stream, boot).
///
/// Its size is the number of gaps, not of records. Serialised as `[[first, last], …]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Seen {
    /// First of each range → its last. Ranges neither overlap nor touch.
    ranges: BTreeMap<u64, u64>,
}

impl Seen {
    /// Adds `seq`; `false` if it was there already.
    pub fn insert(&mut self, seq: u64) -> bool {
        let before = self.ranges.range(..=seq).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= seq) {
            return false;
        }
        let first = match before {
            Some((first, last)) if last.checked_add(1) == Some(seq) => first,
            _ => seq,
        };
        let last = seq.checked_add(1).and_then(|next| self.ranges.remove(&next)).unwrap_or(seq);
        self.ranges.insert(first, last);
        true
    }

    /// Adds all from `first` to `last`; nothing if that is before it.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        let all = self.ranges().chain([(first, last)]).collect::<Vec<_>>();
        *self = Self::from(all);
    }

    /// Whether `seq` is in the set.
    pub fn contains(&self, seq: u64) -> bool {
        self.ranges.range(..=seq).next_back().is_some_and(|(_, last)| *last >= seq)
    }

    /// The highest number in the set, 0 when it is empty (sequence numbers begin with 1).
    pub fn upto(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, last)| *last)
    }

    /// How many ranges it is made of.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    /// The gaps between 1 and [`Seen::upto`], ascending.
    pub fn missing(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut next = 1;
        self.ranges().filter_map(move |(first, last)| {
            let gap = (next, first.saturating_sub(1));
            next = last.saturating_add(1);
            (gap.0 <= gap.1).then_some(gap)
        })
    }
}

impl From<Vec<(u64, u64)>> for Seen {
    /// Ranges in any order, overlapping or not; one that ends before it begins is left out.
    fn from(mut pairs: Vec<(u64, u64)>) -> Self {
        pairs.retain(|(first, last)| first <= last);
        pairs.sort_unstable();
        let mut ranges: BTreeMap<u64, u64> = BTreeMap::new();
        for (first, last) in pairs {
            match ranges.last_entry() {
                Some(mut before) if before.get().saturating_add(1) >= first => {
                    let joined = (*before.get()).max(last);
                    before.insert(joined);
                }
                _ => {
                    ranges.insert(first, last);
                }
            }
        }
        Self { ranges }
    }
}

impl From<Seen> for Vec<(u64, u64)> {
    fn from(seen: Seen) -> Self {
        seen.ranges.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_of_the_numbers_hold() {
        let mut seen = Seen::default();
        assert!(seen.insert(u64::MAX) && seen.insert(0) && seen.insert(1));
        assert!(!seen.insert(u64::MAX));
        assert_eq!(seen.ranges().collect::<Vec<_>>(), [(0, 1), (u64::MAX, u64::MAX)]);
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(numbers in prop::collection::vec(1u64..60, 0..120)) {
            let (mut seen, mut model) = (Seen::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(seen.insert(number), model.insert(number));
            }
            let upto = model.last().copied().unwrap_or(0);
            prop_assert_eq!(seen.upto(), upto);
            for number in 0..62 {
                prop_assert_eq!(seen.contains(number), model.contains(&number));
            }
            let missing: Vec<u64> = seen.missing().flat_map(|(first, last)| first..=last).collect();
            let expected: Vec<u64> = (1..=upto).filter(|n| !model.contains(n)).collect();
            prop_assert_eq!(missing, expected);
            let back = Seen::from(Vec::<(u64, u64)>::from(seen.clone()));
            prop_assert_eq!(back, seen);
        }
    }
}
