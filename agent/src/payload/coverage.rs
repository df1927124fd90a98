//! What a reader has of one lane, and what it knows that it will never get.

use serde::{Deserialize, Serialize};

use super::{Boot, Gap, Receipt, Seen};

/// The numbers of one (gateway, device, stream, boot) that a reader need not wait for: the records that came,
/// and the gaps it was told of. A record that comes after all is one, whatever a gap said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    records: Seen,
    gaps: Seen,
}

impl Coverage {
    /// Record `seq` came; `false` if it had come before.
    pub fn take_record(&mut self, seq: u64) -> bool {
        self.records.insert(seq)
    }

    /// Takes a gap; returns how many numbers it is that neither came nor were known to be lost.
    pub fn take_gap(&mut self, gap: Gap) -> u64 {
        let before = self.lost();
        self.gaps.insert_range(gap.first, gap.last);
        self.lost() - before
    }

    /// How many numbers are lost.
    pub fn lost(&self) -> u64 {
        let overlap = |first: u64, last: u64| -> u64 {
            let inside = self.records.ranges().filter(|range| range.0 <= last && first <= range.1);
            inside.map(|range| range.1.min(last) - range.0.max(first) + 1).sum()
        };
        self.gaps.ranges().map(|(first, last)| last - first + 1 - overlap(first, last)).sum()
    }

    /// How many ranges it is made of.
    pub fn count(&self) -> usize {
        self.records.count() + self.gaps.count()
    }

    /// Whether `seq` came or is lost, or the one before it is: taking it makes no further range.
    pub fn touches(&self, seq: u64) -> bool {
        let has = |seq| self.records.contains(seq) || self.gaps.contains(seq);
        seq <= 1 || has(seq) || has(seq - 1)
    }

    /// The receipt for it.
    pub fn receipt(&self, boot: Boot) -> Receipt {
        let all: Vec<(u64, u64)> = self.records.ranges().chain(self.gaps.ranges()).collect();
        Receipt::of(boot, &Seen::from(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Cause;

    #[test]
    fn a_gap_is_confirmed_and_data_wins_over_it() {
        let mut had = Coverage::default();
        assert!(had.take_record(1) && had.take_record(7));
        let gap = Gap { first: 2, last: 8, cause: Cause::Full };
        assert_eq!(had.take_gap(gap), 6, "7 had come");
        assert_eq!(had.take_gap(gap), 0, "told twice");
        let receipt = had.receipt(Boot::new(1, 1));
        assert_eq!((receipt.upto(), receipt.missing()), (8, [].as_slice()));
        assert!(had.take_record(3), "it was only late");
        assert_eq!(had.lost(), 5);
    }
}
