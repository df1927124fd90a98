//! Pauses between attempts: doubling, jittered, bounded.

use std::time::Duration;

/// The first pause is at most this long.
const FIRST: Duration = Duration::from_millis(500);
/// No pause is longer than this.
const LONGEST: Duration = Duration::from_secs(30);

/// Counts failures in a row and says how long to wait before the next attempt.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure: between half and the whole of the doubled step, so that
    /// many gateways that lost the same broker do not come back in the same instant.
    pub(crate) fn next(&mut self) -> Duration {
        let step = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + 0.5 * fraction())
    }

    /// Things work again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number in 0..1. Without a source of randomness every pause is the longest, which is safe.
fn fraction() -> f64 {
    getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again() {
        let mut backoff = Backoff::default();
        let first = backoff.next();
        assert!((FIRST / 2..=FIRST).contains(&first));
        let long = (0..100).map(|_| backoff.next()).last().unwrap();
        assert!((LONGEST / 2..=LONGEST).contains(&long));
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
