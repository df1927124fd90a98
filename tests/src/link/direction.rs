//! The packets under way in one direction, on whatever clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use serde_json::{Value, json};

use super::Impairment;
use crate::random::Random;

/// The most bytes under way; what comes on top is dropped and counted.
const MOST_BYTES: usize = 64 << 20;

/// What became of the packets of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets that came.
    pub offered: u64,
    /// Packets that were passed on, duplicates too.
    pub passed: u64,
    /// Bytes that were passed on.
    pub bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Lost because nothing passed.
    pub cut: u64,
    /// Dropped because they were too long.
    pub too_long: u64,
    /// Dropped because the queue was full.
    pub overflowed: u64,
    /// Held back so that others overtook them.
    pub reordered: u64,
    /// Doubled.
    pub duplicated: u64,
}

impl Counters {
    /// As an object with a member for each.
    #[must_use]
    pub fn to_json(self) -> Value {
        json!({
            "offered": self.offered,
            "passed": self.passed,
            "bytes": self.bytes,
            "lost": self.lost,
            "cut": self.cut,
            "too_long": self.too_long,
            "overflowed": self.overflowed,
            "reordered": self.reordered,
            "duplicated": self.duplicated,
        })
    }
}

/// A packet under way, ordered by when it is due; those due at once, as they came.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    due: Duration,
    number: u64,
    packet: Vec<u8>,
}

/// One direction: packets go in with the time of now, which never falls, and come out when they are due.
#[derive(Debug)]
pub struct Direction {
    impairment: Impairment,
    random: Random,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    bytes_under_way: usize,
    number: u64,
    /// When the last byte of all that waits for the rate has been sent.
    idle_at: Duration,
    /// When the last packet in order is due.
    last_due: Duration,
    in_burst: bool,
    counters: Counters,
}

impl Direction {
    /// A direction without impairments, whose chance is this.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self {
            impairment: Impairment::default(),
            random,
            under_way: BinaryHeap::new(),
            bytes_under_way: 0,
            number: 0,
            idle_at: Duration::ZERO,
            last_due: Duration::ZERO,
            in_burst: false,
            counters: Counters::default(),
        }
    }

    /// What is wrong with it, to be changed. Packets under way stay as they are.
    pub fn impairment(&mut self) -> &mut Impairment {
        &mut self.impairment
    }

    /// What became of the packets so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes a packet in.
    pub fn push(&mut self, packet: Vec<u8>, now: Duration) {
        self.counters.offered += 1;
        if self.impairment.cut {
            self.counters.cut += 1;
        } else if self.impairment.mtu.is_some_and(|mtu| packet.len() > usize::from(mtu)) {
            self.counters.too_long += 1;
        } else if self.is_lost() {
            self.counters.lost += 1;
        } else if let Some(sent) = self.send(packet.len(), now) {
            let due = self.due(sent);
            if self.impairment.duplicate.happens(&mut self.random) {
                self.counters.duplicated += 1;
                self.keep(packet.clone(), due);
            }
            self.keep(packet, due);
        } else {
            self.counters.overflowed += 1;
        }
    }

    /// When the next packet is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.under_way.peek().map(|Reverse(next)| next.due)
    }

    /// The next packet that is due.
    pub fn pop(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(UnderWay { packet, .. }) = self.under_way.pop()?;
        self.bytes_under_way -= packet.len();
        self.counters.passed += 1;
        self.counters.bytes += count(packet.len());
        Some(packet)
    }

    /// Alone, or in bursts: a chain of two states, good and bad, that is bad for so many packets on average
    /// and for the asked share of them in all.
    fn is_lost(&mut self) -> bool {
        let loss = self.impairment.loss;
        let Some(burst) = self.impairment.burst else { return loss.happens(&mut self.random) };
        let (lost, kept) = (u64::from(loss.millionths()), u64::from(1_000_000 - loss.millionths()));
        self.in_burst = if self.in_burst {
            lost > 0 && self.random.below(u64::from(burst)) > 0
        } else {
            // Begins with probability lost / (kept * burst).
            lost > 0 && self.random.below((kept * u64::from(burst)).max(1)) < lost
        };
        self.in_burst
    }

    /// When a packet of this length has left, if there is room for it.
    fn send(&mut self, length: usize, now: Duration) -> Option<Duration> {
        if self.bytes_under_way + 2 * length > MOST_BYTES {
            return None;
        }
        let Some(rate) = self.impairment.rate else { return Some(now) };
        let begins = self.idle_at.max(now);
        let waiting = (begins - now).as_nanos() * u128::from(rate) / 1_000_000_000;
        if waiting + u128::from(count(length)) > u128::from(self.impairment.queue) {
            return None;
        }
        self.idle_at = begins + Duration::from_nanos(count(length) * 1_000_000_000 / rate);
        Some(self.idle_at)
    }

    /// When what has left at `sent` arrives.
    fn due(&mut self, sent: Duration) -> Duration {
        let Impairment { delay, jitter, reorder, reorder_by, .. } = self.impairment;
        let due = (sent + delay + self.up_to(jitter)).max(self.last_due);
        if reorder.happens(&mut self.random) {
            self.counters.reordered += 1;
            // Those behind it do not wait.
            due + self.up_to(reorder_by)
        } else {
            self.last_due = due;
            due
        }
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        if most == 0 { Duration::ZERO } else { Duration::from_nanos(1 + self.random.below(most)) }
    }

    fn keep(&mut self, packet: Vec<u8>, due: Duration) {
        self.bytes_under_way += packet.len();
        self.number += 1;
        self.under_way.push(Reverse(UnderWay { due, number: self.number, packet }));
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn direction(seed: u64, words: &str) -> Direction {
        let mut direction = Direction::new(Random::new(seed));
        direction.impairment().change(words).unwrap();
        direction
    }

    /// Sends packets, numbered and of this length, so far apart; gives number and time of all that arrive.
    fn through(
        direction: &mut Direction,
        packets: u32,
        length: usize,
        apart: Duration,
    ) -> Vec<(u32, Duration)> {
        let mut arrived = Vec::new();
        let mut take = |direction: &mut Direction, until: Duration| {
            while let Some(due) = direction.next_due().filter(|due| *due <= until) {
                let packet = direction.pop(due).unwrap();
                arrived.push((u32::from_be_bytes(packet[..4].try_into().unwrap()), due));
            }
        };
        for number in 0..packets {
            let now = apart * number;
            take(direction, now);
            let mut packet = number.to_be_bytes().to_vec();
            packet.resize(length, 0);
            direction.push(packet, now);
        }
        take(direction, Duration::MAX);
        arrived
    }

    /// Whether `found` of `tries` may be chance of this probability, in millionths: within five standard
    /// deviations.
    fn is_near(found: u64, tries: u64, millionths: u64) -> bool {
        let expected = tries * millionths / 1_000_000;
        let variance = expected * (1_000_000 - millionths) / 1_000_000;
        found.abs_diff(expected).pow(2) <= 25 * variance + 25
    }

    #[test]
    fn without_impairments_everything_passes_at_once() {
        let mut direction = direction(1, "");
        let arrived = through(&mut direction, 100, 1500, MS);
        assert_eq!(arrived, (0..100).map(|number| (number, MS * number)).collect::<Vec<_>>());
        let counters = direction.counters();
        assert_eq!((counters.offered, counters.passed, counters.bytes), (100, 100, 150_000));
    }

    #[test]
    fn a_delay_is_exact_and_nothing_comes_before() {
        let mut direction = direction(1, "delay=40ms");
        direction.push(vec![1], MS);
        assert_eq!(direction.next_due(), Some(41 * MS));
        assert_eq!(direction.pop(41 * MS - Duration::from_nanos(1)), None);
        assert_eq!(direction.pop(41 * MS), Some(vec![1]));
    }

    #[test]
    fn jitter_spreads_and_keeps_the_order() {
        let arrived = through(&mut direction(3, "delay=40ms jitter=20ms"), 10_000, 100, MS);
        let took: Vec<Duration> = arrived.iter().map(|(number, due)| *due - MS * *number).collect();
        assert!(took.iter().all(|took| (40 * MS..=60 * MS).contains(took)));
        assert!(took.iter().any(|took| *took < 45 * MS) && took.iter().any(|took| *took > 58 * MS));
        assert!(arrived.is_sorted());
        assert_eq!(arrived.len(), 10_000);
    }

    #[test]
    fn so_many_are_lost() {
        for (words, millionths) in [("loss=3%", 30_000), ("loss=30%", 300_000), ("loss=100%", 1_000_000)] {
            let mut direction = direction(5, words);
            let arrived = through(&mut direction, 100_000, 40, MS);
            let lost = direction.counters().lost;
            assert!(is_near(lost, 100_000, millionths), "{words}: {lost}");
            assert_eq!(u64::try_from(arrived.len()).unwrap() + lost, 100_000);
            assert!(arrived.is_sorted());
        }
    }

    #[test]
    fn bursts_lose_the_same_share_in_longer_runs() {
        let arrived = through(&mut direction(6, "loss=10% burst=5"), 200_000, 40, MS);
        let lost = 200_000 - arrived.len();
        let runs = arrived.windows(2).filter(|pair| pair[1].0 != pair[0].0 + 1).count();
        // Runs vary, so their sum varies more than single losses do.
        assert!((18_000..22_000).contains(&lost), "{lost}");
        let mean_of_ten = 10 * lost / runs;
        assert!((45..55).contains(&mean_of_ten), "{mean_of_ten}");
    }

    #[test]
    fn reordered_packets_are_overtaken_and_the_others_are_not() {
        let mut direction = direction(7, "delay=5ms reorder=2%");
        let arrived = through(&mut direction, 50_000, 40, MS);
        assert_eq!(arrived.len(), 50_000);
        let late = arrived.windows(2).filter(|pair| pair[1].0 < pair[0].0).count();
        let reordered = direction.counters().reordered;
        assert!(is_near(reordered, 50_000, 20_000), "{reordered}");
        // Some are held back by less than the distance to the next.
        assert!(late > 500 && u64::try_from(late).unwrap() <= reordered, "{late} of {reordered}");
        let in_time = arrived.iter().filter(|(number, due)| *due == MS * *number + 5 * MS).count();
        assert_eq!(u64::try_from(in_time).unwrap(), 50_000 - reordered);
    }

    #[test]
    fn duplicates_come_twice_and_together() {
        let mut direction = direction(8, "duplicate=5%");
        let arrived = through(&mut direction, 20_000, 40, MS);
        let duplicated = direction.counters().duplicated;
        assert!(is_near(duplicated, 20_000, 50_000), "{duplicated}");
        assert_eq!(u64::try_from(arrived.len()).unwrap(), 20_000 + duplicated);
        assert!(arrived.is_sorted());
    }

    #[test]
    fn a_rate_holds_and_its_queue_is_bounded() {
        let mut direction = direction(9, "rate=100000 queue=10000");
        // Ten times too fast: one packet in ten passes, and each waits for a full queue.
        let arrived = through(&mut direction, 10_000, 1000, MS);
        let (_, last) = arrived.last().unwrap();
        assert!((9_990 * MS..=10_100 * MS).contains(last), "{last:?}");
        assert!((1_000..=1_011).contains(&arrived.len()), "{}", arrived.len());
        assert!(arrived.windows(2).all(|pair| pair[1].1 - pair[0].1 == 10 * MS));
        assert!(arrived.iter().all(|(number, due)| *due - MS * *number <= 100 * MS));
        assert_eq!(direction.counters().overflowed, 10_000 - u64::try_from(arrived.len()).unwrap());
    }

    #[test]
    fn packets_that_are_too_long_vanish() {
        let mut direction = direction(1, "mtu=1280");
        direction.push(vec![0; 1280], MS);
        direction.push(vec![0; 1281], MS);
        assert_eq!(direction.pop(MS).map(|packet| packet.len()), Some(1280));
        assert_eq!(direction.pop(MS), None);
        assert_eq!(direction.counters().too_long, 1);
    }

    #[test]
    fn a_cut_lets_nothing_in_and_heals() {
        let mut direction = direction(1, "delay=10ms");
        direction.push(vec![1], MS);
        direction.impairment().change("cut").unwrap();
        direction.push(vec![2], 2 * MS);
        direction.impairment().change("heal").unwrap();
        direction.push(vec![3], 3 * MS);
        let arrived: Vec<_> = std::iter::from_fn(|| direction.pop(20 * MS)).collect();
        assert_eq!(arrived, [vec![1], vec![3]]);
        assert_eq!(direction.counters().cut, 1);
    }

    #[test]
    fn a_shorter_delay_overtakes_nothing() {
        let mut direction = direction(1, "delay=100ms");
        direction.push(vec![1], MS);
        direction.impairment().change("clear").unwrap();
        direction.push(vec![2], 2 * MS);
        assert_eq!(direction.next_due(), Some(101 * MS));
        assert_eq!(direction.pop(101 * MS), Some(vec![1]));
        assert_eq!(direction.pop(101 * MS), Some(vec![2]));
    }

    #[test]
    fn what_is_under_way_has_a_bound() {
        let mut direction = direction(1, "delay=1h duplicate=100%");
        for _ in 0..2_000 {
            direction.push(vec![0; 65_535], MS);
        }
        assert!(direction.bytes_under_way <= MOST_BYTES);
        assert!(direction.counters().overflowed > 1_000);
    }

    #[test]
    fn the_same_seed_has_the_same_outcome() {
        let words = "delay=10ms jitter=7ms loss=5% burst=3 reorder=3% duplicate=2% rate=200000 queue=20000";
        let run = |seed| through(&mut direction(seed, words), 5_000, 500, MS);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
