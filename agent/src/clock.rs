//! What time it is, and whether that can be believed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use at_client::TrustedTime;

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

    /// The moment so much later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        let wall_us = self.wall_us.saturating_add_unsigned(by);
        Self { wall_us, mono_us: self.mono_us.saturating_add(by), ..self }
    }
}

/// A source of [`Stamp`]s. Handed in, so that tests live in their own time.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Stamp;
}

/// The machine's clocks.
///
/// Its wall clock counts as right when it is past the release, and past what it was when it was last right, and
/// where systemd-timesyncd keeps it, when that has heard from a time server since boot.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    /// It is later than this for sure, in seconds since 1970.
    least_s: AtomicU64,
    /// It was right once: what came after are steps of a clock that somebody keeps.
    right: AtomicBool,
}

/// The folder of systemd-timesyncd, and the file it leaves there after the first synchronisation
/// (systemd-timesyncd.service(8)).
const TIMESYNC: &str = "/run/systemd/timesync";

impl SystemClock {
    /// A clock whose monotonic time begins now.
    pub fn start() -> Self {
        Self { started: Instant::now(), least_s: AtomicU64::new(RELEASED_S), right: AtomicBool::new(false) }
    }

    /// A time that is past for sure, in seconds since 1970.
    pub fn not_before(&self, seconds: u64) {
        self.least_s.fetch_max(seconds, Ordering::Relaxed);
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let least = Duration::from_secs(self.least_s.load(Ordering::Relaxed));
        if !self.right.load(Ordering::Relaxed) && is_right(wall, least, Path::new(TIMESYNC)) {
            self.right.store(true, Ordering::Relaxed);
        }
        stamp(wall, least, self.started.elapsed(), self.right.load(Ordering::Relaxed))
    }
}

impl TrustedTime for SystemClock {
    fn least(&self) -> Option<Duration> {
        let now = self.now();
        let wall = Duration::from_micros(u64::try_from(now.wall_us).unwrap_or(0));
        (now.state == ClockState::Free).then_some(wall)
    }
}

fn is_right(wall: Duration, least: Duration, timesync: &Path) -> bool {
    wall >= least && (!timesync.exists() || timesync.join("synchronized").exists())
}

fn stamp(wall: Duration, least: Duration, since_start: Duration, right: bool) -> Stamp {
    let released = Duration::from_secs(RELEASED_S);
    // It may be set back, but not so far.
    let state = if right && wall >= released { ClockState::Sync } else { ClockState::Free };
    let least = if right { released } else { least };
    let wall_us = i64::try_from(wall.max(least).as_micros()).unwrap_or(i64::MAX);
    let mono_us = u64::try_from(since_start.as_micros()).unwrap_or(u64::MAX);
    Stamp { wall_us, mono_us, state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_never_set_runs_free_from_the_last_known_time_on() {
        let nobody = Path::new("/nonexistent");
        let released = Duration::from_secs(RELEASED_S);
        assert!(!is_right(Duration::from_secs(90), released, nobody));
        let unset = stamp(Duration::from_secs(90), released, Duration::from_secs(60), false);
        assert_eq!(
            unset,
            Stamp { wall_us: 1_795_305_600_000_000, mono_us: 60_000_000, state: ClockState::Free }
        );
        let seen = released + Duration::from_secs(86_400);
        assert!(!is_right(released + Duration::from_secs(1), seen, nobody), "it was later than that before");
        assert!(is_right(seen, seen, nobody));
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_right(seen, seen, folder.path()), "nobody vouches for it yet");
        std::fs::write(folder.path().join("synchronized"), "").unwrap();
        assert!(is_right(seen, seen, folder.path()));
    }

    #[test]
    fn a_clock_that_was_right_may_be_set_back() {
        let seen = Duration::from_secs(RELEASED_S + 86_400);
        let back = stamp(seen - Duration::from_secs(3600), seen, Duration::ZERO, true);
        assert_eq!((back.state, back.wall_us), (ClockState::Sync, 1_795_305_600_000_000 + 82_800_000_000));
        let unset = stamp(Duration::from_secs(90), seen, Duration::ZERO, true);
        assert_eq!((unset.state, unset.wall_us), (ClockState::Free, 1_795_305_600_000_000));
    }
}
