//! The receiving end of one stream of notifications: pure, without the stream, the store, or a clock.
//!
//! Bytes come in, and lines that came together are taken together, up to the first that may not be. When they
//! are committed, all of them are answered, and the refusal, if there is one, ends the stream.

use at_protocol::line::{Line, LineSplitter, MAX_AUTHENTICATED};
use at_protocol::peer::WINDOW;
use at_protocol::response::{ErrorStyle, Failure, Prompt, Response};
use at_protocol::verb::Verb;
use at_protocol::{AtSign, ErrorCode, Timestamp};

use crate::access::{Principal, may};
use crate::store::Notification;
use crate::verbs::{copy_fits, said};

/// Bytes of values that are committed together.
const BATCH: usize = 1024 * 1024;
/// How errors are written to nodes.
const PLAIN: ErrorStyle = ErrorStyle { json: false, owner: false };

/// One stream of a pair of atSigns, as its recipient sees it.
#[derive(Debug)]
pub struct Inlet {
    from: AtSign,
    to: AtSign,
    who: Principal,
    lines: LineSplitter,
    /// How long a notification lives that does not say it.
    ttln_ms: u64,
    success: String,
}

/// Lines that came together, up to the first that cannot be taken.
#[derive(Debug, Default)]
pub struct Batch {
    /// What they bring, to be committed together.
    pub taken: Vec<Notification>,
    /// Why the next line is not taken.
    pub refused: Option<Failure>,
    bytes: usize,
}

impl Batch {
    /// Whether there was no line.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.refused.is_none()
    }

    fn is_full(&self) -> bool {
        self.refused.is_some() || self.taken.len() == WINDOW || self.bytes >= BATCH
    }
}

impl Inlet {
    /// A stream that was let in, and what has come behind its opening.
    #[must_use]
    pub fn new(from: AtSign, to: AtSign, mut lines: LineSplitter, ttln_ms: u64) -> Self {
        lines.set_limit(MAX_AUTHENTICATED);
        let prompt = Prompt::Authenticated(from.clone());
        let success = Response::Data("success".to_owned()).render(PLAIN, &prompt);
        Self { who: Principal::Peer(from.clone()), from, to, lines, ttln_ms, success }
    }

    /// Who sends, and who receives.
    #[must_use]
    pub fn pair(&self) -> (&AtSign, &AtSign) {
        (&self.from, &self.to)
    }

    /// As whom the sender acts.
    #[must_use]
    pub fn who(&self) -> &Principal {
        &self.who
    }

    /// Takes in one read. Drain [`Inlet::gather`] before the next one.
    pub fn read(&mut self, bytes: &[u8]) {
        self.lines.feed(bytes);
    }

    /// Bytes of a line that is not whole.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.lines.pending().len()
    }

    /// The lines that are here, as far as they are committed together.
    pub fn gather(&mut self, now: Timestamp) -> Batch {
        let mut batch = Batch::default();
        while !batch.is_full() {
            let line = match self.lines.next_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(too_long) => {
                    batch.refused = Some(Failure::closing(ErrorCode::BufferLimit, too_long.to_string()));
                    break;
                }
            };
            match self.taken(line, now) {
                Ok(notification) => {
                    batch.bytes += notification.value.as_ref().map_or(0, String::len);
                    batch.taken.push(notification);
                }
                Err(failure) => batch.refused = Some(failure),
            }
        }
        batch
    }

    /// The answer to the opening, or to as many lines as were committed; after a refusal the stream is over.
    #[must_use]
    pub fn answers(&self, committed: usize, refused: Option<Failure>) -> String {
        let mut answers = self.success.repeat(committed);
        if let Some(failure) = refused {
            answers += &refusal(failure);
        }
        answers
    }

    /// What a line brings, if it may.
    fn taken(&self, line: Line, now: Timestamp) -> Result<Notification, Failure> {
        let invalid = |message: String| Failure::new(ErrorCode::InvalidSyntax, message);
        let Line::Text(text) = line else { return Err(invalid("invalid command".to_owned())) };
        let verb: Verb = text.parse().map_err(|error| invalid(format!("{error}")))?;
        may(&self.who, &self.to, &verb)?;
        let Verb::Notify(notify) = verb else {
            return Err(invalid("a stream for notifications takes nothing else".to_owned()));
        };
        let received = said(&self.from, *notify, self.ttln_ms, now)?;
        copy_fits(&received)?;
        Ok(received)
    }
}

/// How a refusal is told to another node.
pub(super) fn refusal(failure: Failure) -> String {
    Response::Error(failure).render(PLAIN, &Prompt::Anonymous)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inlet() -> Inlet {
        let lines = LineSplitter::new(MAX_AUTHENTICATED);
        Inlet::new("@alice".parse().unwrap(), "@bob".parse().unwrap(), lines, 60_000)
    }

    fn line(number: usize) -> String {
        format!("notify:id:ae1-x-{number}-1:update:@bob:n{number}.test@alice:v{number}\n")
    }

    fn ids(batch: &Batch) -> Vec<&str> {
        batch.taken.iter().map(|one| one.id.as_str()).collect()
    }

    #[test]
    fn lines_are_taken_together_up_to_the_first_that_may_not_be() {
        let (mut inlet, now) = (inlet(), Timestamp::from_millis(7));
        let (first, second) = (line(1), line(2));
        let (whole, part) = second.split_at(20);
        inlet.read(format!("{first}{whole}").as_bytes());
        let batch = inlet.gather(now);
        assert_eq!(ids(&batch), ["ae1-x-1-1"]);
        assert_eq!(batch.refused, None);
        assert_eq!((inlet.gather(now).is_empty(), inlet.pending()), (true, 20));
        let foreign = "notify:update:@bob:n.test@carol:v\n";
        inlet.read(format!("{part}{foreign}{first}").as_bytes());
        let batch = inlet.gather(now);
        assert_eq!(ids(&batch), ["ae1-x-2-1"]);
        let answers = inlet.answers(batch.taken.len(), batch.refused);
        assert!(answers.starts_with("data:success\n@alice@error:AT"), "{answers}");
        for other in ["scan\n", "\n", "notify\n"] {
            let mut inlet = self::inlet();
            inlet.read(other.as_bytes());
            assert!(inlet.gather(now).refused.is_some(), "{other}");
        }
    }

    #[test]
    fn no_more_is_taken_together_than_a_window_or_a_megabyte() {
        let (mut inlet, now) = (inlet(), Timestamp::from_millis(7));
        inlet.read((0..WINDOW + 1).map(line).collect::<String>().as_bytes());
        assert_eq!(inlet.gather(now).taken.len(), WINDOW);
        assert_eq!(inlet.gather(now).taken.len(), 1);
        let large = line(1).replace(":v1", &format!(":{}", "x".repeat(BATCH / 2)));
        inlet.read(large.repeat(3).as_bytes());
        assert_eq!(inlet.gather(now).taken.len(), 2);
        assert_eq!(inlet.gather(now).taken.len(), 1);
    }
}
