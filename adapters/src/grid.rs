//! Turns that come at even times, however long each takes. Pure.

use std::time::{Duration, Instant};

/// The first turn behind `now`, where one turn is at `due` and the next ones follow `every` so often.
pub(crate) fn turn_after(due: Instant, every: Duration, now: Instant) -> Instant {
    let turns = now.duration_since(due).as_nanos() / every.as_nanos().max(1) + 1;
    let ahead = every.as_nanos().saturating_mul(turns);
    due + Duration::from_nanos(u64::try_from(ahead).unwrap_or(u64::MAX))
}
