//! What one device may say, and how fast. Pure: the time is handed in.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

/// A device may be ahead of its rate by so much.
const BURST: Duration = Duration::from_secs(1);

/// The limits of one device; nothing where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rates {
    /// Publications a second.
    pub(crate) messages: Option<u32>,
    /// Bytes of topics and payloads a second.
    pub(crate) bytes: Option<u64>,
    /// Different topics of one connection.
    pub(crate) topics: Option<usize>,
}

/// How much of its limits a device has used.
#[derive(Debug)]
pub(super) struct Quota {
    rates: Rates,
    /// When all that was said would have been said at the rate.
    paid: Instant,
    /// Topics as numbers, so that long ones take no room.
    topics: HashSet<u64>,
    numbers: RandomState,
}

impl Quota {
    pub(super) fn new(rates: Rates, now: Instant) -> Self {
        Self { rates, paid: now, topics: HashSet::new(), numbers: RandomState::new() }
    }

    /// Counts a publication; says whether its topic is one too many.
    pub(super) fn take(&mut self, topic: &str, payload: usize, now: Instant) -> bool {
        let of_messages = self.rates.messages.map(|rate| Duration::from_secs(1) / rate.max(1));
        let bytes = topic.len() + payload;
        let of_bytes =
            self.rates.bytes.map(|rate| Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
        let cost = of_messages.max(of_bytes).unwrap_or_default();
        self.paid = self.paid.max(now) + cost;
        let Some(most) = self.rates.topics else { return true };
        let topic = self.numbers.hash_one(topic);
        if self.topics.contains(&topic) {
            return true;
        }
        let has_room = self.topics.len() < most;
        if has_room {
            self.topics.insert(topic);
        }
        has_room
    }

    /// Until when the device is to be held back.
    pub(super) fn held_until(&self, now: Instant) -> Option<Instant> {
        let until = self.paid.checked_sub(BURST)?;
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_held_to_its_rate_after_a_burst() {
        let start = Instant::now();
        let rates = Rates { messages: Some(10), ..Rates::default() };
        let mut quota = Quota::new(rates, start);
        let (mut now, mut said) = (start, 0);
        while now < start + Duration::from_secs(10) {
            match quota.held_until(now) {
                Some(until) => now = until,
                None => {
                    assert!(quota.take("t", 1, now));
                    said += 1;
                }
            }
        }
        // Ten seconds, and what it may be ahead.
        assert!((105..=115).contains(&said), "{said}");
        // Who was silent has no more than a burst.
        now += Duration::from_secs(3600);
        let burst =
            (0..100).take_while(|_| quota.held_until(now).is_none() && quota.take("t", 1, now)).count();
        assert!((10..=12).contains(&burst), "{burst}");
    }

    #[test]
    fn bytes_count_with_their_topic() {
        let start = Instant::now();
        let mut quota = Quota::new(Rates { bytes: Some(1000), ..Rates::default() }, start);
        quota.take("topic", 2995, start);
        assert_eq!(quota.held_until(start), Some(start + Duration::from_secs(2)));
        assert_eq!(quota.held_until(start + Duration::from_secs(2)), None);
    }

    #[test]
    fn topics_are_counted_once_and_bounded() {
        let now = Instant::now();
        let mut quota = Quota::new(Rates { topics: Some(2), ..Rates::default() }, now);
        for (topic, fits) in [("a", true), ("b", true), ("a", true), ("c", false), ("b", true), ("d", false)]
        {
            assert_eq!(quota.take(topic, 0, now), fits, "{topic}");
        }
        assert_eq!(quota.topics.len(), 2);
        let mut free = Quota::new(Rates::default(), now);
        assert!((0..1000).all(|n| free.take(&n.to_string(), 100, now)));
        assert!(free.topics.is_empty() && free.held_until(now).is_none());
    }
}
