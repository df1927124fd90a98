//! How long to wait before trying again.

use std::time::Duration;

/// Growing pauses with full jitter: the n-th lies between nothing and `first * 2^n`, at most `longest`, so
/// that many gateways cut off at once do not come back at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    /// The longest that the first pause can be.
    pub(super) first: Duration,
    /// The longest that any can be.
    pub(super) longest: Duration,
}

impl Backoff {
    /// The most that the pause after `failures` failures in a row can be.
    pub(super) fn most(self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(doubled).min(self.longest)
    }

    /// The pause after `failures` failures in a row.
    pub(super) fn pause(self, failures: u32, dice: &mut Dice) -> Duration {
        self.most(failures).mul_f64(dice.part())
    }
}

/// A stream of numbers from a seed (SplitMix64, Steele et al. 2014): good for jitter, not for secrets.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, 1.
    pub(super) fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_are_spread() {
        let backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };
        assert_eq!(backoff.most(1), Duration::from_millis(500));
        assert_eq!(backoff.most(3), Duration::from_secs(2));
        assert_eq!(backoff.most(u32::MAX), Duration::from_secs(30));
        let mut dice = Dice::new(1);
        let pauses: Vec<_> = (0..1000).map(|_| backoff.pause(40, &mut dice).as_secs()).collect();
        for second in 0..30 {
            let share = pauses.iter().filter(|pause| **pause == second).count();
            assert!((10..60).contains(&share), "{share} of 1000 pauses in second {second}");
        }
    }
}
