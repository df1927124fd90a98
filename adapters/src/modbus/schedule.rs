//! Whose turn it is. Pure: the time is handed in.

use std::time::{Duration, Instant};

use crate::grid::turn_after;

/// How a unit is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rhythm {
    /// How often.
    pub(super) every: Duration,
    /// After so many failures in a row it is *degraded*, and asked less often.
    pub(super) after: u32,
    /// How often then.
    pub(super) retry_every: Duration,
    /// How long it is left alone after a failure at least, so that an answer that is late comes while
    /// nothing is asked of it.
    pub(super) rest: Duration,
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    /// Nothing.
    Same,
    /// The unit is degraded now.
    Degraded,
    /// The unit answers again.
    Recovered,
}

#[derive(Debug)]
struct Unit {
    rhythm: Rhythm,
    due: Instant,
    failures: u32,
}

/// The units of a bus and their turns, by their place in the configuration.
///
/// Turns keep to a grid, so that the time an answer takes does not add up; turns that were missed are
/// left out. A degraded unit costs the bus one timeout every `retry_every`, whatever its interval.
#[derive(Debug)]
pub(super) struct Schedule {
    units: Vec<Unit>,
}

impl Schedule {
    /// All are due at `now`.
    pub(super) fn new(rhythms: impl IntoIterator<Item = Rhythm>, now: Instant) -> Self {
        Self { units: rhythms.into_iter().map(|rhythm| Unit { rhythm, due: now, failures: 0 }).collect() }
    }

    /// The unit that is due first, and when. The one that has waited longest comes first, so a bus that
    /// is too slow for all it is asked is shared alike.
    pub(super) fn next(&self) -> Option<(usize, Instant)> {
        self.units.iter().enumerate().map(|(at, unit)| (at, unit.due)).min_by_key(|(_, due)| *due)
    }

    /// The unit has answered.
    pub(super) fn answered(&mut self, unit: usize, now: Instant) -> Turned {
        let unit = &mut self.units[unit];
        let degraded = unit.is_degraded();
        unit.failures = 0;
        if degraded {
            unit.due = now + unit.rhythm.every;
            return Turned::Recovered;
        }
        unit.due = unit.turn_after(now);
        Turned::Same
    }

    /// The unit has not answered.
    pub(super) fn failed(&mut self, unit: usize, now: Instant) -> Turned {
        let unit = &mut self.units[unit];
        unit.failures = unit.failures.saturating_add(1);
        if unit.is_degraded() {
            unit.due = now + unit.rhythm.retry_every.max(unit.rhythm.every).max(unit.rhythm.rest);
            return if unit.failures == unit.rhythm.after { Turned::Degraded } else { Turned::Same };
        }
        unit.due = unit.turn_after(now + unit.rhythm.rest);
        Turned::Same
    }
}

impl Unit {
    fn is_degraded(&self) -> bool {
        self.failures >= self.rhythm.after
    }

    /// The first turn of the unit's grid behind `now`.
    fn turn_after(&self, now: Instant) -> Instant {
        turn_after(self.due, self.rhythm.every, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const RHYTHM: Rhythm =
        Rhythm { every: ms(1000), after: 3, retry_every: Duration::from_secs(60), rest: ms(800) };

    #[test]
    fn turns_keep_to_their_grid() {
        let start = Instant::now();
        let mut schedule = Schedule::new([RHYTHM], start);
        assert_eq!(schedule.next(), Some((0, start)));
        schedule.answered(0, start + ms(30));
        assert_eq!(schedule.next(), Some((0, start + ms(1000))));
        // Asked late, and over the next turn: that one is left out.
        schedule.answered(0, start + ms(2100));
        assert_eq!(schedule.next(), Some((0, start + ms(3000))));
    }

    #[test]
    fn a_unit_that_fails_is_degraded_and_comes_back() {
        let start = Instant::now();
        let mut schedule = Schedule::new([RHYTHM], start);
        // Its turn at 1 s would come before it has rested.
        assert_eq!(schedule.failed(0, start + ms(800)), Turned::Same);
        assert_eq!(schedule.next(), Some((0, start + ms(2000))));
        assert_eq!(schedule.failed(0, start + ms(2800)), Turned::Same);
        assert_eq!(schedule.failed(0, start + ms(4800)), Turned::Degraded);
        assert_eq!(schedule.next(), Some((0, start + ms(64_800))));
        assert_eq!(schedule.failed(0, start + ms(65_600)), Turned::Same);
        assert_eq!(schedule.next(), Some((0, start + ms(125_600))));
        assert_eq!(schedule.answered(0, start + ms(125_700)), Turned::Recovered);
        assert_eq!(schedule.next(), Some((0, start + ms(126_700))));
        // It may fail as often as before.
        assert_eq!(schedule.failed(0, start + ms(126_800)), Turned::Same);
    }

    #[test]
    fn failures_count_only_in_a_row() {
        let start = Instant::now();
        let mut schedule = Schedule::new([RHYTHM], start);
        let mut now = start;
        for _ in 0..10 {
            for _ in 0..2 {
                now += ms(3000);
                assert_eq!(schedule.failed(0, now), Turned::Same);
            }
            now += ms(3000);
            assert_eq!(schedule.answered(0, now), Turned::Same);
        }
    }

    /// A bus on virtual time: ten units, two of them dead; each answer takes 20 ms.
    #[test]
    fn the_dead_do_not_take_the_time_of_the_living() {
        let start = Instant::now();
        let mut schedule = Schedule::new([RHYTHM; 10], start);
        let (mut now, mut turns) = (start, vec![Vec::new(); 10]);
        while now < start + Duration::from_secs(600) {
            let (unit, due) = schedule.next().unwrap();
            now = now.max(due);
            turns[unit].push(now);
            if unit < 2 {
                now += ms(800);
                schedule.failed(unit, now);
            } else {
                now += ms(20);
                schedule.answered(unit, now);
            }
        }
        let tripped = start + Duration::from_secs(20);
        for (unit, turns) in turns.iter().enumerate() {
            let later: Vec<_> = turns.iter().filter(|turn| **turn > tripped).collect();
            if unit < 2 {
                assert!(later.len() <= 10, "the dead unit {unit} was asked {} times", later.len());
                continue;
            }
            let mean = (*later[later.len() - 1] - *later[0]).as_secs_f64() / (later.len() - 1) as f64;
            assert!((mean - 1.0).abs() < 0.1, "unit {unit} every {mean} s");
        }
    }

    #[test]
    fn a_bus_that_is_too_slow_is_shared_alike() {
        let start = Instant::now();
        let mut schedule = Schedule::new([Rhythm { every: ms(100), ..RHYTHM }; 5], start);
        let (mut now, mut turns) = (start, [0; 5]);
        for _ in 0..1000 {
            let (unit, due) = schedule.next().unwrap();
            now = now.max(due) + ms(70);
            turns[unit] += 1;
            schedule.answered(unit, now);
        }
        assert!(turns.iter().all(|count| (190..=210).contains(count)), "{turns:?}");
    }
}
