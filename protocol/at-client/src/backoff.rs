//! How long to wait before trying again.

use std::time::Duration;

use crate::random;

/// The pause after the first failure is at most this.
const FIRST: Duration = Duration::from_millis(500);
/// No pause is longer than this.
const LONGEST: Duration = Duration::from_secs(60);

/// Pauses between attempts: each drawn between nothing and a bound that doubles, so that a thousand
/// gateways cut off together do not return together.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// It has failed (again): how long to wait.
    pub(crate) fn failed(&mut self) -> Duration {
        let bound = FIRST.saturating_mul(2u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures += 1;
        Duration::from_millis(random::up_to(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX)))
    }

    /// It has worked: the next failure is a first one.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        for bound_ms in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            let pause = backoff.failed();
            assert!(pause <= Duration::from_millis(bound_ms), "{pause:?} > {bound_ms} ms");
        }
        for _ in 0..100 {
            assert!(backoff.failed() <= LONGEST);
        }
        backoff.succeeded();
        assert!(backoff.failed() <= FIRST);
    }
}
