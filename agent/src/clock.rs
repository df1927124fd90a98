//! What time it is, and whether that can be believed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::payload::ClockState;

/// No gateway runs before this release was made, in seconds since 1970 (22 November 2026): a clock that
/// says so has not been set, and its time is given as this one.
pub const RELEASED_S: u64 = 1_795_305_600;

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Wall-clock time in microseconds since 1970, never before [`RELEASED_S`].
    pub wall_us: i64,
    /// Time since the agent started, in microseconds; it never jumps.
    pub mono_us: u64,
    /// Whether `wall_us` is right.
    pub state: ClockState,
}

impl Stamp {
    /// Wall-clock time in milliseconds since 1970.
    pub const fn wall_ms(self) -> i64 {
        self.wall_us / 1000
    }
}

/// A source of [`Stamp`]s. Handed in, so that tests live in their own time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Stamp;
}

/// The machine's clocks.
///
/// Its wall clock counts as right when it is past the release and, where systemd-timesyncd keeps it, when
/// that has heard from a time server since boot.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    /// A time server was heard from, or nobody here waits for one. It stays so.
    heard: AtomicBool,
}

/// The folder of systemd-timesyncd, and the file it leaves there after the first synchronisation
/// (systemd-timesyncd.service(8)).
const TIMESYNC: &str = "/run/systemd/timesync";

impl SystemClock {
    /// A clock whose monotonic time begins now.
    pub fn start() -> Self {
        Self { started: Instant::now(), heard: AtomicBool::new(false) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        if !self.heard.load(Ordering::Relaxed) {
            let folder = Path::new(TIMESYNC);
            let heard = !folder.exists() || folder.join("synchronized").exists();
            self.heard.store(heard, Ordering::Relaxed);
        }
        stamp(wall, self.started.elapsed(), self.heard.load(Ordering::Relaxed))
    }
}

fn stamp(wall: Duration, since_start: Duration, heard: bool) -> Stamp {
    let released = Duration::from_secs(RELEASED_S);
    let state = if heard && wall >= released { ClockState::Sync } else { ClockState::Free };
    let wall_us = i64::try_from(wall.max(released).as_micros()).unwrap_or(i64::MAX);
    let mono_us = u64::try_from(since_start.as_micros()).unwrap_or(u64::MAX);
    Stamp { wall_us, mono_us, state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_runs_free_from_the_release_on() {
        let unset = stamp(Duration::from_secs(90), Duration::from_secs(60), true);
        assert_eq!(unset.state, ClockState::Free);
        assert_eq!(unset.wall_us, 1_795_305_600_000_000);
        assert_eq!(unset.mono_us, 60_000_000);
        let later = Duration::from_secs(RELEASED_S + 1);
        assert_eq!(stamp(later, Duration::ZERO, true).state, ClockState::Sync);
        assert_eq!(stamp(later, Duration::ZERO, false).state, ClockState::Free, "nobody vouches for it yet");
    }
}
