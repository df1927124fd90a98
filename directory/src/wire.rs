//! One client's conversation with the directory, without sockets or clocks: bytes in, replies out.
//!
//! All numbers here are the atProtocol wire reference's, §1.1.

use std::borrow::Cow;
use std::time::Duration;

use at_protocol::directory::Address;
use at_protocol::line::{Line, LineSplitter};

/// What every client waits for before it asks, and after every answer.
pub const PROMPT: &str = "@";
/// The longest name, in bytes; a longer line ends the connection without a reply.
pub const LONGEST_LINE: usize = 255;
/// How long an answer to the second and the third miss is held back.
pub const MISS_DELAY: Duration = Duration::from_secs(3);
/// The miss that is the connection's last.
const LAST_MISS: u8 = 3;
/// Ends the conversation; clients may leave out the line end.
const EXIT: &str = "@exit";
/// The answer while the directory stops.
pub const STOPPING: &str = "Stop in progress. Can't accept new requests.";

/// What the driver does next. Each [`Reply`] is one write, so that it is one TLS record: clients take
/// answer and prompt from the same read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Answer, then go on.
    Reply(Reply),
    /// Answer, then close.
    Last(Reply),
    /// Close without a word.
    Close,
}

/// An answer, prompt included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What goes on the wire.
    pub text: Cow<'static, str>,
    /// How long to wait before it goes.
    pub delay: Duration,
}

/// One connection: what it has sent so far, and how often it asked in vain.
#[derive(Debug)]
pub struct Conversation {
    lines: LineSplitter,
    misses: u8,
}

impl Default for Conversation {
    fn default() -> Self {
        Self { lines: LineSplitter::new(LONGEST_LINE), misses: 0 }
    }
}

impl Conversation {
    /// Takes in one read. Drain [`Conversation::next`] before the next one.
    pub fn read(&mut self, bytes: &[u8]) {
        self.lines.feed(bytes);
    }

    /// The next thing to do, or `None` when more bytes are needed. `find` is the registry.
    pub fn next(&mut self, find: impl Fn(&str) -> Option<Address>) -> Option<Action> {
        let line = match self.lines.next_line() {
            Ok(Some(line)) => line,
            Ok(None) => {
                return (self.lines.pending().trim_ascii() == EXIT.as_bytes()).then_some(Action::Close);
            }
            Err(_too_long) => return Some(Action::Close),
        };
        let found = match &line {
            // The C client sends one right after the greeting and waits for an answer; it asks nothing,
            // so it counts as no miss.
            Line::Blank => return Some(Action::Reply(null(Duration::ZERO))),
            Line::Text(text) if text == EXIT => return Some(Action::Close),
            Line::Text(text) => {
                let name = text.to_lowercase();
                find(name.strip_prefix('@').unwrap_or(&name))
            }
            Line::NotText => None,
        };
        Some(match found {
            Some(address) => {
                let text = format!("{address}\r\n{PROMPT}").into();
                Action::Reply(Reply { text, delay: Duration::ZERO })
            }
            None => self.miss(),
        })
    }

    /// Guessing names gets slow, then ends.
    fn miss(&mut self) -> Action {
        self.misses += 1;
        match self.misses {
            1 => Action::Reply(null(Duration::ZERO)),
            LAST_MISS.. => Action::Last(null(MISS_DELAY)),
            _ => Action::Reply(null(MISS_DELAY)),
        }
    }
}

fn null(delay: Duration) -> Reply {
    Reply { text: "null\r\n@".into(), delay }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    fn find(name: &str) -> Option<Address> {
        (name == "alice").then(|| "host.example:6464".parse().unwrap())
    }

    fn talk(reads: &[&[u8]]) -> Vec<Action> {
        let mut conversation = Conversation::default();
        let mut actions = Vec::new();
        for read in reads {
            conversation.read(read);
            while let Some(action) = conversation.next(find) {
                let over = !matches!(action, Action::Reply(_));
                actions.push(action);
                if over {
                    return actions;
                }
            }
        }
        actions
    }

    fn found() -> Action {
        Action::Reply(Reply { text: "host.example:6464\r\n@".into(), delay: AT_ONCE })
    }

    #[test]
    fn names_are_found_however_they_are_written() {
        for read in ["alice\n", "alice\r\n", "@alice\n", " ALICE \r\n", "\nalice\n\n"] {
            assert_eq!(talk(&[read.as_bytes()]), [found()], "{read:?}");
        }
        assert_eq!(talk(&[b"al", b"ice", b"\r", b"\n"]), [found()]);
    }

    #[test]
    fn found_names_are_never_slowed() {
        let many = "alice\n".repeat(1000);
        assert_eq!(talk(&[many.as_bytes()]), vec![found(); 1000]);
    }

    #[test]
    fn misses_get_slow_and_the_third_is_the_last() {
        assert_eq!(
            talk(&[b"bob\n", b"alice\n", b"a.lice\n", b"\xff\xfe\n", b"alice\n"]),
            [
                Action::Reply(null(AT_ONCE)),
                found(),
                Action::Reply(null(MISS_DELAY)),
                Action::Last(null(MISS_DELAY)),
            ]
        );
    }

    #[test]
    fn a_blank_line_is_answered_and_is_no_miss() {
        let blank: &[u8] = b"\r\n";
        assert_eq!(
            talk(&[blank, b"bob\r\n", blank, b"bob\r\n"]),
            [
                Action::Reply(null(AT_ONCE)),
                Action::Reply(null(AT_ONCE)),
                Action::Reply(null(AT_ONCE)),
                Action::Reply(null(MISS_DELAY)),
            ]
        );
    }

    #[test]
    fn exit_needs_no_line_end() {
        assert_eq!(talk(&[b"alice\n", b"@exit"]), [found(), Action::Close]);
        assert_eq!(talk(&[b"@ex", b"it\r\n", b"alice\n"]), [Action::Close]);
        assert_eq!(talk(&[b"@exi"]), []);
    }

    #[test]
    fn a_line_may_have_255_bytes_and_no_more() {
        let name = "x".repeat(LONGEST_LINE);
        assert_eq!(talk(&[name.as_bytes(), b"\n"]), [Action::Reply(null(AT_ONCE))]);
        let long = "x".repeat(LONGEST_LINE + 1);
        assert_eq!(talk(&[long.as_bytes()]), [Action::Close]);
        let ended = format!("{long}\n");
        assert_eq!(talk(&[ended.as_bytes()]), [Action::Close]);
    }
}
