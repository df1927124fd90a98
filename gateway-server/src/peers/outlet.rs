//! The sending end of one stream of notifications: pure, without the stream, the store, or a clock.
//!
//! It says what to do next ([`Outlet::step`]) and is told what came of it, and of the stream. Lines go out,
//! answers come in, and what was answered is noted in the store, all at the same time. When the stream fails,
//! what was answered is noted still; the rest waits in the store for another stream.

use std::time::{Duration, Instant};

use at_protocol::verb::Notify;
use at_protocol::{AtSign, Timestamp};

use super::AskError;
use super::lane::outcome;
use super::window::Window;
use crate::store::{Notification, Outcome, Reached, Settled};

/// How long a stream stays open with nothing to send.
const IDLE: Duration = Duration::from_secs(10);
/// How long no answer may come while some are due.
const SILENCE: Duration = Duration::from_secs(30);

/// One stream of a pair of atSigns, as its sender sees it.
#[derive(Debug)]
pub struct Outlet {
    from: AtSign,
    to: AtSign,
    window: Window,
    /// Whether the other end has let us in.
    is_admitted: bool,
    /// Whether the queue may hold more than was read.
    is_more: bool,
    /// When something was last heard, or the stream had something to do after a rest.
    heard: Instant,
    moved: bool,
    /// Whether the sender is about to go to another node: what was sent is settled here, and no more is.
    is_leaving: bool,
    end: Option<Option<AskError>>,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Read on in the queue, while what was said goes out and answers are heard; [`Outlet::on_page`].
    Read {
        /// Behind what was read.
        reached: Reached,
        /// At most so many.
        limit: usize,
    },
    /// Note how these fared, while answers are heard; [`Outlet::on_settled`].
    Settle(Vec<Settled>),
    /// Wait for whatever comes first, at most until this; [`Outlet::on_deadline`].
    Wait(Instant),
    /// The stream is over.
    End(Ended),
}

/// How a stream ended.
#[derive(Debug)]
pub struct Ended {
    /// Whether the other end has let us in.
    pub was_admitted: bool,
    /// Whether anything was settled on it.
    pub moved: bool,
    /// What was wrong, unless there was nothing more to send.
    pub why: Option<AskError>,
}

impl Outlet {
    /// The stream is open, and its opening said.
    #[must_use]
    pub fn new(from: AtSign, to: AtSign, now: Instant) -> Self {
        let window = Window::default();
        Self {
            from,
            to,
            window,
            is_admitted: false,
            is_more: true,
            heard: now,
            moved: false,
            is_leaving: false,
            end: None,
        }
    }

    /// What to do next. A page that is read, and outcomes that are noted, are told before this is asked again;
    /// answers may be told before them.
    pub fn step(&mut self) -> Step {
        if self.end.is_none() && self.is_more && !self.is_leaving {
            let limit = self.window.room();
            if limit > 0 {
                return Step::Read { reached: self.window.reached(), limit };
            }
        }
        if let Some(settled) = self.window.settle() {
            self.moved = true;
            return Step::Settle(settled);
        }
        if self.is_leaving && !self.window.is_waiting() {
            self.end.get_or_insert(None);
        }
        match self.end.take() {
            Some(why) => Step::End(Ended { was_admitted: self.is_admitted, moved: self.moved, why }),
            None => Step::Wait(self.heard + if self.is_due() { SILENCE } else { IDLE }),
        }
    }

    /// What was read. Those that go out are said, in their order; none does on a stream that has failed meanwhile.
    pub fn on_page(&mut self, page: &[Notification], now: Timestamp, mut say: impl FnMut(&Notify)) {
        if self.end.is_some() {
            return;
        }
        self.is_more = !page.is_empty();
        for one in page {
            match one.line() {
                _ if one.expires <= now => self.window.skip(one, Outcome::Expired),
                Some(line) => {
                    say(&line);
                    self.window.send(one);
                }
                None => self.window.skip(one, Outcome::Errored),
            }
        }
    }

    /// Whether anything that is heard still counts.
    #[must_use]
    pub fn is_hearing(&self) -> bool {
        self.end.is_none()
    }

    /// An answer came: the first to the opening, each other to the oldest line without one.
    pub fn on_answer(&mut self, answer: Result<(), AskError>, now: Instant) {
        self.heard = now;
        match answer {
            Ok(()) if self.is_admitted => self.window.answer(Outcome::Delivered),
            Ok(()) => self.is_admitted = true,
            // The other end closes now, and has taken nothing behind it.
            Err(error) if self.is_admitted => {
                let why = error.to_string();
                let id = self.window.oldest().unwrap_or_default();
                match outcome(&self.from, &self.to, id, Err(error)) {
                    Outcome::Retrying => self.window.fail(),
                    decided @ (Outcome::Delivered | Outcome::Errored | Outcome::Expired) => {
                        self.window.answer(decided);
                    }
                }
                self.end = Some(Some(AskError::Unreachable(why)));
            }
            Err(error) => self.on_failed(error),
        }
    }

    /// The stream failed.
    pub fn on_failed(&mut self, why: AskError) {
        self.window.fail();
        self.end = Some(Some(why));
    }

    /// The outcomes were noted.
    pub fn on_settled(&mut self) {
        self.window.settled();
    }

    /// The queue has grown.
    pub fn on_more(&mut self, now: Instant) {
        self.is_more = true;
        if !self.is_due() {
            self.heard = now;
        }
    }

    /// The sender is about to go to another node.
    pub fn on_leave(&mut self) {
        self.is_leaving = true;
    }

    /// Whether it is.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.is_leaving
    }

    /// It was waited for in vain.
    pub fn on_deadline(&mut self) {
        if self.is_due() {
            self.on_failed(AskError::Timeout);
        } else {
            self.end = Some(None);
        }
    }

    /// Whether something is to be heard.
    fn is_due(&self) -> bool {
        self.window.is_waiting() || !self.is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::notification;

    fn outlet(now: Instant) -> Outlet {
        Outlet::new("@alice".parse().unwrap(), "@bob".parse().unwrap(), now)
    }

    fn page(numbers: std::ops::Range<i64>) -> Vec<Notification> {
        let one = |number: i64| Notification {
            created: Timestamp::from_millis(number),
            expires: Timestamp::from_millis(number + 1000),
            ..notification(&number.to_string(), "@alice", "@bob")
        };
        numbers.map(one).collect()
    }

    fn settled(step: Step) -> Vec<(String, Outcome)> {
        let Step::Settle(settled) = step else { panic!("{step:?}") };
        settled.into_iter().map(|one| (one.id, one.outcome)).collect()
    }

    fn ended(step: Step) -> Ended {
        let Step::End(ended) = step else { panic!("{step:?}") };
        ended
    }

    #[test]
    fn what_was_answered_is_noted_also_when_the_stream_has_failed() {
        let now = Instant::now();
        let mut outlet = outlet(now);
        assert!(matches!(outlet.step(), Step::Read { limit, .. } if limit > 0));
        let mut said = 0;
        // The first is over already.
        outlet.on_page(&page(0..4), Timestamp::from_millis(1000), |_| said += 1);
        assert_eq!(said, 3);
        outlet.on_answer(Ok(()), now);
        outlet.on_answer(Ok(()), now);
        outlet.on_failed(AskError::Timeout);
        assert!(!outlet.is_hearing());
        let both = [("0".to_owned(), Outcome::Expired), ("1".to_owned(), Outcome::Delivered)];
        assert_eq!(settled(outlet.step()), both);
        outlet.on_settled();
        let ended = ended(outlet.step());
        assert!(ended.was_admitted && ended.moved && matches!(ended.why, Some(AskError::Timeout)));
    }

    #[test]
    fn an_error_is_for_the_oldest_line_and_the_end_of_the_stream() {
        let now = Instant::now();
        for (code, expected) in [("AT0005", Some(Outcome::Errored)), ("AT0013", None)] {
            let mut outlet = outlet(now);
            outlet.on_page(&page(0..2), Timestamp::from_millis(0), |_| {});
            outlet.on_answer(Ok(()), now);
            let error = at_protocol::response::RemoteError::parse(&format!("{code}-x"));
            outlet.on_answer(Err(error.into()), now);
            outlet.is_more = false;
            if let Some(outcome) = expected {
                assert_eq!(settled(outlet.step()), [("0".to_owned(), outcome)], "{code}");
                outlet.on_settled();
            }
            assert!(ended(outlet.step()).why.is_some(), "{code}");
        }
    }

    #[test]
    fn it_is_left_after_a_silence_and_closed_after_a_rest() {
        let now = Instant::now();
        let mut silent = outlet(now);
        silent.on_page(&[], Timestamp::from_millis(0), |_| {});
        assert!(matches!(silent.step(), Step::Wait(until) if until == now + SILENCE), "the opening is due");
        silent.on_deadline();
        let end = ended(silent.step());
        assert!(!end.was_admitted && matches!(end.why, Some(AskError::Timeout)));
        let mut idle = outlet(now);
        idle.on_page(&[], Timestamp::from_millis(0), |_| {});
        idle.on_answer(Ok(()), now);
        assert!(matches!(idle.step(), Step::Wait(until) if until == now + IDLE));
        idle.on_more(now + IDLE / 2);
        assert!(matches!(idle.step(), Step::Read { .. }));
        idle.on_page(&[], Timestamp::from_millis(0), |_| {});
        assert!(matches!(idle.step(), Step::Wait(until) if until == now + IDLE / 2 + IDLE));
        idle.on_deadline();
        let end = ended(idle.step());
        assert!(end.was_admitted && !end.moved && end.why.is_none());
    }

    #[test]
    fn who_leaves_settles_what_was_sent_and_sends_no_more() {
        let now = Instant::now();
        let mut outlet = outlet(now);
        outlet.on_page(&page(0..2), Timestamp::from_millis(0), |_| {});
        outlet.on_answer(Ok(()), now);
        outlet.on_answer(Ok(()), now);
        outlet.on_leave();
        assert_eq!(settled(outlet.step()), [("0".to_owned(), Outcome::Delivered)]);
        outlet.on_settled();
        outlet.on_more(now);
        assert!(matches!(outlet.step(), Step::Wait(_)), "one is under way");
        outlet.on_answer(Ok(()), now);
        assert_eq!(settled(outlet.step()), [("1".to_owned(), Outcome::Delivered)]);
        outlet.on_settled();
        assert!(ended(outlet.step()).why.is_none());
    }
}
