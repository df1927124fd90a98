//! How fast what has piled up goes, so that it leaves room for what is new. Pure.

use std::time::Duration;

use super::flow::Time;
use super::pace::Dice;

/// How what has piled up is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrainRules {
    /// At most so many bytes a second, before they are sealed; as fast as it goes without.
    pub rate: Option<u64>,
    /// The share of what may be under way at once that is kept for what is new, from 0 to 1.
    pub live: f64,
    /// After a start, and when our server is reached again, it begins after a part of this that chance
    /// decides: many gateways that were cut off together do not drain together.
    pub jitter: Duration,
}

impl Default for DrainRules {
    /// As fast as it goes, half of the places kept for what is new, at once.
    fn default() -> Self {
        Self { rate: None, live: 0.5, jitter: Duration::ZERO }
    }
}

/// What has piled up, as it drains.
#[derive(Debug)]
pub(super) struct Drain {
    rules: DrainRules,
    /// All the places there are.
    places: usize,
    under_way: usize,
    not_before: Time,
}

impl Drain {
    /// A drain that may use its share of `places`.
    pub(super) fn new(rules: DrainRules, places: usize, dice: &mut Dice) -> Self {
        Self { rules, places, under_way: 0, not_before: rules.jitter.mul_f64(dice.part()) }
    }

    /// It drains by these rules from now on.
    pub(super) const fn follow(&mut self, rules: DrainRules) {
        self.rules = rules;
    }

    /// Most sends under way.
    fn most(&self) -> usize {
        let kept = (self.places as f64 * self.rules.live).ceil() as usize;
        self.places.saturating_sub(kept).max(1)
    }

    /// When the next may go; `None` while as many as may be are under way.
    pub(super) fn next(&self) -> Option<Time> {
        (self.under_way < self.most()).then_some(self.not_before)
    }

    /// One goes.
    pub(super) fn begin(&mut self) {
        self.under_way += 1;
    }

    /// One has ended.
    pub(super) fn end(&mut self) {
        self.under_way -= 1;
    }

    /// One took `bytes` with it: the next waits until they are paid for.
    pub(super) fn spend(&mut self, bytes: usize, now: Time) {
        if let Some(rate) = self.rules.rate.filter(|rate| *rate > 0) {
            let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
            self.not_before = self.not_before.max(now) + cost;
        }
    }

    /// Our server is reached again.
    pub(super) fn reconnect(&mut self, now: Time, dice: &mut Dice) {
        self.not_before = self.not_before.max(now + self.rules.jitter.mul_f64(dice.part()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_in_time_and_places_are_left() {
        let rules = DrainRules { rate: Some(1000), live: 0.5, jitter: Duration::ZERO };
        let mut drain = Drain::new(rules, 8, &mut Dice::new(1));
        for _ in 0..4 {
            assert_eq!(drain.next(), Some(Time::ZERO));
            drain.begin();
        }
        assert_eq!(drain.next(), None, "four places are left to what is new");
        let now = Duration::from_secs(10);
        drain.spend(500, now);
        drain.spend(2000, now);
        drain.end();
        assert_eq!(drain.next(), Some(now + Duration::from_millis(2500)));
        let all = DrainRules { live: 1.0, ..rules };
        assert_eq!(Drain::new(all, 8, &mut Dice::new(1)).next(), Some(Time::ZERO), "it never stops for good");
    }
}
