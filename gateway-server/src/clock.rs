//! The node's time: the wall clock as it was at the start, and what has passed since.
//!
//! Whatever happens to the wall clock later, a minute that a record has to live stays a minute. The price
//! is that times of day stay as they were set at the start; see the decision "The server keeps its own
//! time".

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use at_protocol::Timestamp;
use tokio::time::Instant;

/// A difference from the wall clock that is worth a word. Less is what a clock that is kept in step by
/// small corrections comes to.
const STEP_MS: i64 = 5_000;

/// What tells the time of day.
pub(crate) type Wall = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// How far the store's time may be ahead though nothing is wrong, in milliseconds: it keeps whole seconds,
/// and a start within such a second adds one.
const ROUNDED: i64 = 5_000;

/// A clock that never jumps.
pub(crate) struct Clock {
    wall: Wall,
    began: Instant,
    start: Timestamp,
    /// How far the wall clock was ahead, in milliseconds, when somebody was last told.
    told: AtomicI64,
}

/// The system's clock.
pub(crate) fn system_wall() -> Wall {
    Box::new(|| Timestamp::from(SystemTime::now()))
}

impl Clock {
    /// Starts at the wall clock's time, or at `floor` if that is later: what is in the store has happened.
    pub(crate) fn start(wall: Wall, floor: Timestamp) -> Self {
        let time = wall();
        if floor.as_millis().saturating_sub(time.as_millis()) > ROUNDED {
            tracing::warn!(wall = %time, store = %floor,
                "the wall clock is behind what is in the store, and this server begins there; \
                 set the clock and restart");
        }
        let start = time.max(floor);
        let told = AtomicI64::new(time.as_millis() - start.as_millis());
        Self { wall, began: Instant::now(), start, told }
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        self.start.plus_millis(u64::try_from(self.uptime().as_millis()).unwrap_or(u64::MAX))
    }

    /// How long this clock has been running.
    pub(crate) fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Compares with the wall clock and says so, once, when that was set; gives whether it did.
    pub(crate) fn compare(&self) -> bool {
        let ahead = (self.wall)().as_millis() - self.now().as_millis();
        if (ahead - self.told.load(Ordering::Relaxed)).abs() < STEP_MS {
            return false;
        }
        self.told.store(ahead, Ordering::Relaxed);
        tracing::warn!(
            seconds = ahead / 1000,
            "the wall clock was set, and is now ahead of this server's by this much: lifetimes go on \
             rightly; restart the server when times of day matter"
        );
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;

    /// A wall clock in the hands of a test.
    #[derive(Clone)]
    pub(crate) struct Hands(Arc<AtomicI64>);

    impl Hands {
        pub(crate) fn at(millis: i64) -> Self {
            Self(Arc::new(AtomicI64::new(millis)))
        }

        pub(crate) fn turn(&self, millis: i64) {
            self.0.fetch_add(millis, Ordering::Relaxed);
        }

        pub(crate) fn wall(&self) -> Wall {
            let hands = Arc::clone(&self.0);
            Box::new(move || Timestamp::from_millis(hands.load(Ordering::Relaxed)))
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_whatever_happens_to_the_wall_clock() {
        let hands = Hands::at(1_000_000);
        let clock = Clock::start(hands.wall(), at(0));
        assert_eq!(clock.now(), at(1_000_000));
        for turned in [3_600_000, -7_200_000] {
            let before = clock.now();
            hands.turn(turned);
            tokio::time::advance(Duration::from_secs(60)).await;
            assert_eq!(clock.now(), before.plus_millis(60_000));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_step_of_the_wall_clock_is_told_once() {
        let hands = Hands::at(1_000_000);
        let clock = Clock::start(hands.wall(), at(0));
        let minute = async || {
            hands.turn(60_000);
            tokio::time::advance(Duration::from_secs(60)).await;
        };
        minute().await;
        assert!(!clock.compare(), "both went on");
        hands.turn(4_000);
        assert!(!clock.compare(), "a small correction");
        hands.turn(3_600_000);
        assert!(clock.compare());
        minute().await;
        assert!(!clock.compare(), "told already");
        hands.turn(-3_604_000);
        assert!(clock.compare(), "set back again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_behind_the_store_is_not_believed() {
        let hands = Hands::at(5);
        let clock = Clock::start(hands.wall(), at(1_000_000));
        assert_eq!(clock.now(), at(1_000_000));
        assert!(!clock.compare(), "told at the start");
        hands.turn(999_995);
        assert!(clock.compare(), "somebody has set it");
    }
}
