//! What slows down those who guess passcodes, and keeps decisions about enrollments in order.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use at_protocol::{AtSign, Timestamp};
use tokio::sync::{Mutex as Turn, MutexGuard};

/// Turns for all tenants of a node: enough that one of them hardly ever waits for another.
const TURNS: usize = 64;

/// What a node remembers of attempts to enroll, beside the records.
pub(crate) struct Enrolling {
    turns: [Turn<()>; TURNS],
    guesses: Mutex<HashMap<AtSign, Guesses>>,
}

/// Wrong passcodes that came one after the other. A tenant has an entry only while it counts.
struct Guesses {
    count: u32,
    last: Timestamp,
}

impl Default for Enrolling {
    fn default() -> Self {
        Self { turns: std::array::from_fn(|_| Turn::default()), guesses: Mutex::default() }
    }
}

impl Enrolling {
    /// The tenant's turn to read and write enrollments: what was read stays true until it is over.
    pub(crate) async fn turn(&self, tenant: &AtSign) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        tenant.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % TURNS as u64).expect("a remainder is small");
        self.turns[place].lock().await
    }

    /// Counts a wrong passcode, and gives how long its refusal is held back: 1, 2, 3, 5, 8 … seconds, at
    /// most `longest`. After as long without one, the count begins again (atProtocol wire reference §4.23).
    pub(crate) fn wrong(&self, tenant: &AtSign, longest: Duration, now: Timestamp) -> Duration {
        let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.retain(|_, past| past.last.plus_millis(longest_ms) > now);
        let past = guesses.entry(tenant.clone()).or_insert(Guesses { count: 0, last: now });
        past.count = past.count.saturating_add(1);
        past.last = now;
        fibonacci(past.count).min(longest)
    }
}

/// The delay of the nth wrong passcode in a row.
fn fibonacci(nth: u32) -> Duration {
    let (mut delay, mut next) = (1u64, 2u64);
    for _ in 1..nth {
        (delay, next) = (next, delay.saturating_add(next));
        if delay > u64::from(u32::MAX) {
            break;
        }
    }
    Duration::from_secs(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn each_wrong_passcode_waits_longer_until_none_comes_for_a_while() {
        let enrolling = Enrolling::default();
        let (alice, bob): (AtSign, AtSign) = ("@alice".parse().unwrap(), "@bob".parse().unwrap());
        let longest = Duration::from_secs(55);
        let wrong = |tenant, seconds| enrolling.wrong(tenant, longest, at(seconds)).as_secs();
        let delays: Vec<u64> = (0..11).map(|second| wrong(&alice, second)).collect();
        assert_eq!(delays, [1, 2, 3, 5, 8, 13, 21, 34, 55, 55, 55]);
        assert_eq!(wrong(&bob, 10), 1, "one tenant's attackers do not slow down another's guests");
        assert_eq!((wrong(&alice, 64), wrong(&alice, 119)), (55, 1));
        assert_eq!(fibonacci(u32::MAX).min(longest), longest);
    }

    #[test]
    fn what_does_not_count_any_more_is_forgotten() {
        let enrolling = Enrolling::default();
        for number in 0..100 {
            let tenant = format!("@t{number}").parse().unwrap();
            enrolling.wrong(&tenant, Duration::from_secs(55), at(i64::from(number)));
        }
        assert_eq!(enrolling.guesses.lock().unwrap().len(), 55);
    }
}
