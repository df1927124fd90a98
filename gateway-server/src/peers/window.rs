//! What is on its way between two atSigns over one stream: pure, without the stream, the store, or a clock.
//!
//! Lines go out in the order of the queue, up to [`WINDOW`] without an answer, and answers come in that order.
//! What was answered is noted in the store, many at once, while others are on their way. A stream that ends
//! takes the window with it: what was not noted still waits in the store, and the next stream begins there.

use std::collections::VecDeque;

use at_protocol::Timestamp;
use at_protocol::peer::WINDOW;

use crate::store::{Notification, Outcome, Reached, Settled};

/// The window of one stream.
#[derive(Debug, Default)]
pub(crate) struct Window {
    reached: Reached,
    /// Without an answer, oldest first.
    sent: VecDeque<Mark>,
    /// Answered, and not noted yet.
    answered: Vec<Settled>,
    /// Whether the store is noting some at this moment.
    settling: bool,
}

/// By which a notification is known: another may take its id.
#[derive(Debug)]
struct Mark {
    id: String,
    created: Timestamp,
}

impl Window {
    /// How far the queue was read.
    pub(crate) fn reached(&self) -> Reached {
        self.reached
    }

    /// How many more may go out now. It pays to send some at once, so a little room is none.
    pub(crate) fn room(&self) -> usize {
        let room = WINDOW.saturating_sub(self.sent.len());
        if room < WINDOW / 4 { 0 } else { room }
    }

    /// This one goes out, behind the others.
    pub(crate) fn send(&mut self, notification: &Notification) {
        self.reached.note(notification);
        self.sent.push_back(Mark { id: notification.id.clone(), created: notification.created });
    }

    /// This one will not go out.
    pub(crate) fn skip(&mut self, notification: &Notification, outcome: Outcome) {
        self.reached.note(notification);
        self.answered.push(notification.settled(outcome));
    }

    /// The id of the one whose answer comes next.
    pub(crate) fn oldest(&self) -> Option<&str> {
        self.sent.front().map(|mark| mark.id.as_str())
    }

    /// The answer to the oldest one has come.
    pub(crate) fn answer(&mut self, outcome: Outcome) {
        if let Some(Mark { id, created }) = self.sent.pop_front() {
            self.answered.push(Settled { id, created, outcome });
        }
    }

    /// The stream has failed under what is on its way.
    pub(crate) fn fail(&mut self) {
        self.sent.clear();
    }

    /// Whether an answer is due.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.sent.is_empty()
    }

    /// What is to be noted now: nothing while the store is at it already.
    pub(crate) fn settle(&mut self) -> Option<Vec<Settled>> {
        if self.settling || self.answered.is_empty() {
            return None;
        }
        self.settling = true;
        Some(std::mem::take(&mut self.answered))
    }

    /// It was noted.
    pub(crate) fn settled(&mut self) {
        self.settling = false;
    }
}

#[cfg(test)]
mod tests {
    use at_protocol::verb::Priority;

    use super::*;
    use crate::store::tests::notification;

    fn numbered(number: i64, priority: Priority) -> Notification {
        let created = Timestamp::from_millis(number);
        Notification { created, priority, ..notification(&number.to_string(), "@alice", "@bob") }
    }

    fn ids(settled: Option<Vec<Settled>>) -> Vec<(String, Outcome)> {
        settled.unwrap_or_default().into_iter().map(|one| (one.id, one.outcome)).collect()
    }

    #[test]
    fn answers_belong_to_the_oldest_and_are_noted_together() {
        let mut window = Window::default();
        for number in 1..=3 {
            window.send(&numbered(number, Priority::Low));
        }
        assert_eq!(window.oldest(), Some("1"));
        window.answer(Outcome::Delivered);
        assert_eq!(ids(window.settle()), [("1".to_owned(), Outcome::Delivered)]);
        window.answer(Outcome::Delivered);
        window.skip(&numbered(4, Priority::Low), Outcome::Expired);
        assert_eq!(ids(window.settle()), [], "the store is at it");
        window.settled();
        let both = [("2".to_owned(), Outcome::Delivered), ("4".to_owned(), Outcome::Expired)];
        assert_eq!(ids(window.settle()), both);
        window.settled();
        window.fail();
        window.answer(Outcome::Delivered);
        assert!(window.answered.is_empty(), "nothing was due");
    }

    #[test]
    fn room_is_given_by_the_quarter_and_each_priority_is_read_on() {
        let mut window = Window::default();
        assert_eq!(window.room(), WINDOW);
        for number in 0..200 {
            window.send(&numbered(number, if number == 100 { Priority::High } else { Priority::Low }));
        }
        assert_eq!((window.room(), window.reached().moments()), (0, [199, 0, 100]));
        for _ in 0..10 {
            window.answer(Outcome::Delivered);
        }
        assert_eq!(window.room(), 66);
    }
}
