//! Which devices have a session, what each has subscribed to, and which are connected.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Outgoing;
use crate::mqtt::settling::SettledByWindow;
use crate::mqtt::topic::TopicFilter;

/// The most filters of one session.
const FILTERS: usize = 64;

/// The connection of a device, as others see it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// Bounded; when it is full, the device has too many unfinished commands.
    pub(super) orders: mpsc::Sender<Outgoing>,
    /// Asks the connection to end, since the device has made another.
    pub(super) leave: CancellationToken,
    /// Says that it has ended and given back the session.
    pub(super) left: CancellationToken,
}

#[derive(Debug)]
enum State {
    Connected(Link),
    /// Until when to keep the session, and since when it is unused.
    Away {
        until: Option<Instant>,
        since: Instant,
    },
}

#[derive(Debug)]
struct Session {
    state: State,
    /// Filters and the QoS granted.
    subscriptions: Vec<(String, TopicFilter, u8)>,
    settling: SettledByWindow,
}

/// The answer to a device that connects.
pub(super) enum Entry {
    /// Another connection has the session; it has to leave first.
    Occupied(Link),
    /// It is in.
    Entered { session_present: bool, settling: SettledByWindow },
}

/// All sessions of a listener. They live as long as the process.
#[derive(Debug)]
pub(super) struct Sessions {
    sessions: HashMap<String, Session>,
    limit: usize,
}

impl Sessions {
    /// Keeps at most `limit` sessions beside those of connected devices.
    pub(super) fn new(limit: usize) -> Self {
        Self { sessions: HashMap::new(), limit }
    }

    /// A device connects.
    pub(super) fn enter(&mut self, client_id: &str, clean: bool, link: &Link, now: Instant) -> Entry {
        let found = self.sessions.remove(client_id);
        let kept = match found {
            Some(Session { state: State::Connected(other), subscriptions, settling }) => {
                let session = Session { state: State::Connected(other.clone()), subscriptions, settling };
                self.sessions.insert(client_id.to_owned(), session);
                return Entry::Occupied(other);
            }
            Some(Session { state: State::Away { until, .. }, .. })
                if until.is_some_and(|until| until <= now) =>
            {
                None
            }
            other => other.filter(|_| !clean),
        };
        let session_present = kept.is_some();
        let (subscriptions, settling) =
            kept.map(|kept| (kept.subscriptions, kept.settling)).unwrap_or_default();
        let session = Session {
            state: State::Connected(link.clone()),
            subscriptions,
            settling: SettledByWindow::default(),
        };
        self.sessions.insert(client_id.to_owned(), session);
        Entry::Entered { session_present, settling }
    }

    /// A device's connection has ended; the session is kept for so long.
    pub(super) fn leave(&mut self, client_id: &str, settling: SettledByWindow, keep: Duration, now: Instant) {
        if keep.is_zero() {
            self.sessions.remove(client_id);
        } else if let Some(session) = self.sessions.get_mut(client_id) {
            session.state = State::Away { until: now.checked_add(keep), since: now };
            session.settling = settling;
        }
        self.forget(now);
    }

    /// Forgets what has expired, and the longest unused of too many.
    fn forget(&mut self, now: Instant) {
        self.sessions.retain(|_, session| match session.state {
            State::Away { until: Some(until), .. } => now < until,
            State::Away { until: None, .. } | State::Connected(_) => true,
        });
        let mut away: Vec<(Instant, String)> = self
            .sessions
            .iter()
            .filter_map(|(client_id, session)| match session.state {
                State::Away { since, .. } => Some((since, client_id.clone())),
                State::Connected(_) => None,
            })
            .collect();
        away.sort();
        let too_many = away.len().saturating_sub(self.limit);
        for (_, client_id) in away.drain(..too_many) {
            self.sessions.remove(&client_id);
        }
    }

    /// Subscribes; gives the QoS granted, or nothing if the filter will not do.
    pub(super) fn subscribe(&mut self, client_id: &str, text: &str, qos: u8) -> Option<u8> {
        if text.starts_with("$share/") {
            return None;
        }
        let filter: TopicFilter = text.parse().ok()?;
        let session = self.sessions.get_mut(client_id)?;
        session.subscriptions.retain(|(other, ..)| other != text);
        if session.subscriptions.len() >= FILTERS {
            return None;
        }
        session.subscriptions.push((text.to_owned(), filter, qos));
        Some(qos)
    }

    /// Unsubscribes; says whether there was such a subscription.
    pub(super) fn unsubscribe(&mut self, client_id: &str, text: &str) -> bool {
        let Some(session) = self.sessions.get_mut(client_id) else { return false };
        let before = session.subscriptions.len();
        session.subscriptions.retain(|(other, ..)| other != text);
        session.subscriptions.len() < before
    }

    /// The connected devices that have subscribed to the topic, and with which QoS.
    pub(super) fn subscribers(&self, topic: &str) -> Vec<(String, Link, u8)> {
        let subscriber = |(client_id, session): (&String, &Session)| {
            let State::Connected(link) = &session.state else { return None };
            let qos = session
                .subscriptions
                .iter()
                .filter(|(_, filter, _)| filter.matches(topic))
                .map(|(.., qos)| *qos)
                .max()?;
            Some((client_id.clone(), link.clone(), qos))
        };
        self.sessions.iter().filter_map(subscriber).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn link() -> Link {
        let (orders, _) = mpsc::channel(1);
        Link { orders, leave: CancellationToken::new(), left: CancellationToken::new() }
    }

    fn present(sessions: &mut Sessions, clean: bool, now: Instant) -> bool {
        match sessions.enter("a", clean, &link(), now) {
            Entry::Entered { session_present, .. } => session_present,
            Entry::Occupied(_) => panic!("occupied"),
        }
    }

    fn names(sessions: &Sessions, topic: &str) -> Vec<(String, u8)> {
        sessions.subscribers(topic).into_iter().map(|(client_id, _, qos)| (client_id, qos)).collect()
    }

    #[test]
    fn a_session_is_kept_as_long_as_the_device_wants() {
        let mut sessions = Sessions::new(10);
        let now = Instant::now();
        assert!(!present(&mut sessions, false, now));
        assert_eq!(sessions.subscribe("a", "cmd/#", 1), Some(1));
        sessions.leave("a", SettledByWindow::default(), KEEP, now);
        assert_eq!(names(&sessions, "cmd/x"), [], "it is not connected");
        assert!(present(&mut sessions, false, now));
        assert_eq!(names(&sessions, "cmd/x"), [("a".to_owned(), 1)]);
        sessions.leave("a", SettledByWindow::default(), KEEP, now);
        assert!(!present(&mut sessions, false, now + KEEP), "it has expired");
        sessions.leave("a", SettledByWindow::default(), KEEP, now);
        assert!(!present(&mut sessions, true, now), "the device wants a new one");
        sessions.leave("a", SettledByWindow::default(), Duration::ZERO, now);
        assert!(!present(&mut sessions, false, now), "it was not to be kept");
    }

    #[test]
    fn a_second_connection_has_to_wait_for_the_first() {
        let mut sessions = Sessions::new(10);
        let now = Instant::now();
        assert!(!present(&mut sessions, false, now));
        assert!(matches!(sessions.enter("a", false, &link(), now), Entry::Occupied(_)));
        sessions.leave("a", SettledByWindow::default(), KEEP, now);
        assert!(present(&mut sessions, false, now));
    }

    #[test]
    fn of_too_many_sessions_the_longest_unused_is_forgotten() {
        let mut sessions = Sessions::new(2);
        let now = Instant::now();
        for (age, client_id) in ["old", "new", "newer"].into_iter().enumerate() {
            sessions.enter(client_id, false, &link(), now);
            let left = now + Duration::from_secs(age as u64);
            sessions.leave(client_id, SettledByWindow::default(), Duration::MAX, left);
        }
        assert!(!sessions.sessions.contains_key("old"));
        assert_eq!(sessions.sessions.len(), 2);
    }

    #[test]
    fn subscriptions_are_found_replaced_and_bounded() {
        let mut sessions = Sessions::new(10);
        assert!(!present(&mut sessions, true, Instant::now()));
        assert_eq!(sessions.subscribe("a", "cmd/+", 0), Some(0));
        assert_eq!(sessions.subscribe("a", "cmd/+", 1), Some(1));
        assert_eq!(names(&sessions, "cmd/x"), [("a".to_owned(), 1)]);
        assert_eq!(sessions.subscribe("a", "cmd/#/x", 1), None);
        assert_eq!(sessions.subscribe("a", "$share/g/cmd", 1), None);
        assert!(sessions.unsubscribe("a", "cmd/+"));
        assert!(!sessions.unsubscribe("a", "cmd/+"));
        assert_eq!(names(&sessions, "cmd/x"), []);
        for n in 0..FILTERS {
            assert_eq!(sessions.subscribe("a", &format!("t/{n}"), 1), Some(1));
        }
        assert_eq!(sessions.subscribe("a", "one/more", 1), None);
    }
}
