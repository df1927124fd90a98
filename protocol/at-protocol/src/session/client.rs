//! The client's end of a connection: from bytes to answers and notifications.
//!
//! Requests are written by whoever owns the connection, one at a time; this machine says what has come
//! back. Prompts are taken off wherever servers put them, also in front of a pushed notification.

use crate::line::{Line, LineSplitter, LineTooLong};
use crate::notification::{Frame, PREFIX};
use crate::response::RemoteError;

/// Longest answer that a client takes, in bytes: the longest value that a server takes (§2.2), shown by
/// `lookup:all` as JSON with every byte of it escaped once, and its metadata.
pub const MAX_ANSWER: usize = 2 * crate::line::MAX_AUTHENTICATED + 64 * 1024;

/// What the server has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first prompt: the server is ready.
    Greeted,
    /// `data:<text>`, the answer to the request.
    Data(String),
    /// `error:…`, the answer to the request.
    Error(RemoteError),
    /// The bare prompt `@me@` that answers a `pol`.
    PolAccepted,
    /// A notification was pushed.
    Notification(Box<Frame>),
    /// A line that is none of these; its beginning, for the log.
    Unknown(String),
}

/// What the session waits for besides lines: prompts that end without one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Waiting {
    Greeting,
    Lines,
    /// For exactly this prompt.
    Pol(String),
}

/// The state of one connection.
#[derive(Debug)]
pub struct ClientSession {
    lines: LineSplitter,
    waiting: Waiting,
}

impl Default for ClientSession {
    fn default() -> Self {
        Self { lines: LineSplitter::new(MAX_ANSWER), waiting: Waiting::Greeting }
    }
}

impl ClientSession {
    /// A session in a stream between nodes, where nobody greets.
    #[must_use]
    pub fn begun() -> Self {
        Self { waiting: Waiting::Lines, ..Self::default() }
    }

    /// The request at hand is a `pol` by `me`, whose success is a prompt and no line.
    pub fn expect_pol(&mut self, me: &crate::AtSign) {
        // The prompt of the answer before may still lie there.
        self.lines.clear_pending();
        self.waiting = Waiting::Pol(format!("{me}@"));
    }

    /// Takes in one read. Drain [`ClientSession::next_event`] before the next.
    pub fn feed(&mut self, read: &[u8]) {
        self.lines.feed(read);
    }

    /// What has been said, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// The server sent a line beyond [`MAX_ANSWER`].
    pub fn next_event(&mut self) -> Result<Option<Event>, LineTooLong> {
        loop {
            if let Some(event) = self.prompt() {
                return Ok(Some(event));
            }
            match self.lines.next_line()? {
                None => return Ok(self.prompt()),
                Some(Line::Blank) => {}
                Some(Line::NotText) => return Ok(Some(Event::Unknown("a line that is not UTF-8".into()))),
                Some(Line::Text(line)) => {
                    self.waiting = Waiting::Lines;
                    return Ok(Some(event(&line)));
                }
            }
        }
    }

    fn prompt(&mut self) -> Option<Event> {
        let pending = self.lines.pending();
        let event = match &self.waiting {
            Waiting::Lines => return None,
            Waiting::Greeting if pending == b"@" => Event::Greeted,
            Waiting::Pol(prompt) if pending.ends_with(prompt.as_bytes()) && !pending.contains(&b':') => {
                Event::PolAccepted
            }
            Waiting::Greeting | Waiting::Pol(_) => return None,
        };
        self.lines.clear_pending();
        self.waiting = Waiting::Lines;
        Some(event)
    }
}

fn event(line: &str) -> Event {
    // Everything up to the last `@` before the first `:` is prompt.
    let colon = line.find(':').unwrap_or(line.len());
    let start = line[..colon].rfind('@').map_or(0, |at| at + 1);
    let line = &line[start..];
    if let Some(text) = line.strip_prefix("data:") {
        return Event::Data(
            text.strip_prefix(' ')
                .filter(|_| text.starts_with(" {") || text.starts_with(" ["))
                .unwrap_or(text)
                .to_owned(),
        );
    }
    if let Some(text) = line.strip_prefix("error:") {
        return Event::Error(RemoteError::parse(text));
    }
    if let Some(json) = line.strip_prefix(PREFIX)
        && let Ok(frame) = serde_json::from_str(json)
    {
        return Event::Notification(Box::new(frame));
    }
    Event::Unknown(line.chars().take(80).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(session: &mut ClientSession, read: &str) -> Vec<Event> {
        session.feed(read.as_bytes());
        let mut events = Vec::new();
        while let Some(event) = session.next_event().unwrap() {
            events.push(event);
        }
        events
    }

    #[test]
    fn answers_come_without_their_prompts() {
        let mut session = ClientSession::default();
        assert_eq!(events(&mut session, "@"), [Event::Greeted]);
        assert_eq!(events(&mut session, "data:_s@alice:p\n@"), [Event::Data("_s@alice:p".into())]);
        assert_eq!(events(&mut session, "data:succ"), []);
        assert_eq!(events(&mut session, "ess\n@alice@"), [Event::Data("success".into())]);
        assert_eq!(
            events(&mut session, "data: [{\"id\":\"3\"}]\n@alice@"),
            [Event::Data("[{\"id\":\"3\"}]".into())]
        );
        assert!(
            matches!(&events(&mut session, "error:AT0015-key not found : x\n@alice@")[..], [Event::Error(e)] if e.code == "AT0015")
        );
    }

    #[test]
    fn a_glued_greeting_is_taken_off() {
        let mut session = ClientSession::default();
        assert_eq!(events(&mut session, "@data:x\n@"), [Event::Data("x".into())]);
    }

    #[test]
    fn pol_is_answered_by_a_prompt_or_an_error() {
        let bob = "@bob".parse().unwrap();
        let mut session = ClientSession::default();
        events(&mut session, "@");
        events(&mut session, "data:proof:_s@bob:p\n");
        session.expect_pol(&bob);
        assert_eq!(events(&mut session, "@@bo"), []);
        assert_eq!(events(&mut session, "b@"), [Event::PolAccepted]);
        session.expect_pol(&bob);
        assert!(matches!(&events(&mut session, "error:AT0401-x\n@")[..], [Event::Error(_)]));
    }

    #[test]
    fn notifications_are_read_behind_prompts() {
        let mut session = ClientSession::default();
        events(&mut session, "@");
        let frame = Frame::stats(
            &"@alice".parse().unwrap(),
            5,
            crate::verb::Operation::Update,
            crate::Timestamp::from_millis(1),
        );
        assert_eq!(
            events(&mut session, &format!("data:ok\n@alice@{}", frame.line())),
            [Event::Data("ok".into()), Event::Notification(Box::new(frame))]
        );
        assert!(matches!(&events(&mut session, "notification: {\"id\":1}\n")[..], [Event::Unknown(_)]));
    }
}
