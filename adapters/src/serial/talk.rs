//! When a polled device is asked, and how long its answer is waited for. Pure: the time is handed in.

use std::time::{Duration, Instant};

use super::Poll;
use crate::grid::turn_after;

/// A line on which one speaks at a time: a question or an order, then the device, then the next.
///
/// Questions keep to a grid, so that the time an answer takes does not add up; those that were missed,
/// because the line was in use or gone, are left out.
#[derive(Debug)]
pub(super) struct Talk {
    every: Duration,
    patience: Duration,
    /// The next question.
    due: Instant,
    under_way: Option<UnderWay>,
}

/// What was sent and has no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnderWay {
    Question {
        until: Instant,
    },
    /// Not every order is answered: that nothing comes means nothing.
    Order {
        until: Instant,
    },
}

impl UnderWay {
    fn until(self) -> Instant {
        match self {
            Self::Question { until } | Self::Order { until } => until,
        }
    }
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    Wait,
    /// To ask, unless there is an order: orders go first, or they would never have their turn with a device
    /// that answers more slowly than it is asked. [`asked`](Talk::asked) or [`ordered`](Talk::ordered) is to
    /// be told.
    Speak,
    /// To count that a question has had no answer.
    Missing,
}

impl Talk {
    /// The first question is due at `now`.
    pub(super) fn new(poll: &Poll, now: Instant) -> Self {
        Self { every: poll.every.get(), patience: poll.patience(), due: now, under_way: None }
    }

    /// How long an answer is waited for.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether an order may be sent.
    pub(super) fn is_free(&self) -> bool {
        self.under_way.is_none()
    }

    /// When [`step`](Self::step) is to be asked next.
    pub(super) fn deadline(&self) -> Instant {
        self.under_way.map_or(self.due, UnderWay::until)
    }

    /// What is to be done at `now`.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        match self.under_way {
            Some(under_way) if now < under_way.until() => return Step::Wait,
            Some(UnderWay::Question { .. }) => {
                self.under_way = None;
                return Step::Missing;
            }
            Some(UnderWay::Order { .. }) | None => self.under_way = None,
        }
        if now < self.due {
            return Step::Wait;
        }
        Step::Speak
    }

    /// The question was sent.
    pub(super) fn asked(&mut self, now: Instant) {
        self.due = turn_after(self.due, self.every, now);
        self.under_way = Some(UnderWay::Question { until: now + self.patience });
    }

    /// An order was sent.
    pub(super) fn ordered(&mut self, now: Instant) {
        self.under_way = Some(UnderWay::Order { until: now + self.patience });
    }

    /// The device has said something whole.
    pub(super) fn answered(&mut self) {
        self.under_way = None;
    }

    /// The line has gone, and with it what was under way.
    pub(super) fn lost(&mut self) {
        self.under_way = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    impl Talk {
        /// Asks if it is time to.
        fn speak(&mut self, now: Instant) -> bool {
            let speaks = self.step(now) == Step::Speak;
            if speaks {
                self.asked(now);
            }
            speaks
        }
    }

    fn talk(start: Instant) -> Talk {
        Talk { every: ms(1000), patience: ms(300), due: start, under_way: None }
    }

    #[test]
    fn questions_keep_to_their_grid_however_long_answers_take() {
        let start = Instant::now();
        let mut talk = talk(start);
        for n in 0..1000 {
            let turn = start + ms(1000 * n);
            assert_eq!(talk.deadline(), turn);
            // We come late, and so does the answer.
            assert!(talk.speak(turn + ms(n % 90)));
            assert_eq!(talk.step(turn + ms(n % 90 + 200)), Step::Wait);
            talk.answered();
            assert_eq!(talk.step(turn + ms(999)), Step::Wait);
        }
    }

    #[test]
    fn an_answer_that_does_not_come_is_told_once() {
        let start = Instant::now();
        let mut talk = talk(start);
        assert!(talk.speak(start));
        assert!(!talk.is_free());
        assert_eq!(talk.deadline(), start + ms(300));
        assert_eq!(talk.step(start + ms(299)), Step::Wait);
        assert_eq!(talk.step(start + ms(300)), Step::Missing);
        assert!(talk.is_free());
        assert_eq!(talk.step(start + ms(301)), Step::Wait);
        assert!(talk.speak(start + ms(1000)));
    }

    #[test]
    fn an_order_and_its_answer_keep_the_next_question_waiting() {
        let start = Instant::now();
        let mut talk = talk(start);
        assert!(talk.speak(start));
        talk.answered();
        talk.ordered(start + ms(900));
        assert_eq!(talk.step(start + ms(1000)), Step::Wait);
        // Nothing was answered, and nobody is told; the question is late, and the next one on time.
        assert!(talk.speak(start + ms(1200)));
        talk.answered();
        assert_eq!(talk.deadline(), start + ms(2000));
    }

    #[test]
    fn turns_that_were_missed_are_left_out() {
        let start = Instant::now();
        let mut talk = talk(start);
        assert!(talk.speak(start));
        talk.lost();
        assert!(talk.speak(start + ms(5400)));
        talk.answered();
        assert_eq!(talk.deadline(), start + ms(6000));
    }

    #[test]
    fn whoever_answers_slower_than_he_is_asked_is_asked_less_often() {
        let start = Instant::now();
        let mut talk = Talk { patience: ms(2500), ..talk(start) };
        assert!(talk.speak(start));
        assert_eq!(talk.step(start + ms(1000)), Step::Wait);
        assert_eq!(talk.step(start + ms(2500)), Step::Missing);
        assert!(talk.speak(start + ms(2500)));
        assert_eq!(talk.due, start + ms(3000));
    }
}
