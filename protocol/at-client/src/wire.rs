//! One connection to an atServer: requests go out, answers and notifications come back.
//!
//! [`Wire`] moves the bytes for [`ClientSession`], over TLS, a QUIC stream or a pipe in a test. Whatever
//! is begun and dropped leaves it usable: lines wait in its own buffer until they are written, and
//! answers that nobody waits for any more are counted and skipped.

use std::collections::VecDeque;
use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::line::LineTooLong;
use at_protocol::notification::Frame;
use at_protocol::response::RemoteError;
use at_protocol::session::client::{ClientSession, Event};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

/// How long nothing may happen on the wire while an answer is due. Servers take up to 10 s themselves
/// when they have to ask another (wire reference §2.5).
pub const SILENCE: Duration = Duration::from_secs(20);
/// How long one answer may take in all, however many bytes trickle in: the largest value at 17 kB/s.
const LONGEST: Duration = Duration::from_secs(10 * 60);
/// Notifications kept while somebody waits for an answer, and the most that are.
const MAX_NOTIFICATIONS: usize = 1024;
/// Bytes taken from the stream at once; one TLS record.
const READ: usize = 16 * 1024;

/// A connection over any stream.
pub struct Wire<S> {
    stream: S,
    session: ClientSession,
    outgoing: Outgoing,
    /// Requests said whose answers have not come.
    owed: usize,
    notifications: VecDeque<Frame>,
    silence: Duration,
    broken: bool,
}

/// What is still to be written.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    unflushed: bool,
}

/// What a server has said of its own accord or when asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The answer to the oldest request that has none.
    Answer(Result<String, RemoteError>),
    /// A notification.
    Notification(Box<Frame>),
}

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The server understood and refuses; the connection may go on.
    #[error("the server refuses: {0}")]
    Refused(RemoteError),
    /// The connection is over.
    #[error(transparent)]
    Broken(#[from] WireError),
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other end closed it, or it failed before and was not replaced.
    #[error("the server closed the connection")]
    Closed,
    /// The network failed.
    #[error("the connection failed: {0}")]
    Io(io::Error),
    /// Nothing came while an answer was due.
    #[error("the server did not answer within {0:?}")]
    Silent(Duration),
    /// An answer beyond all limits.
    #[error("the server's answer is too long: {0}")]
    TooLong(#[from] LineTooLong),
    /// The server speaks another protocol, or answers what was not asked.
    #[error("this is not the talk of an atServer")]
    NotAnAtServer,
    /// The server closes with this error.
    #[error("the server ends the connection: {0}")]
    Dismissed(RemoteError),
    /// More notifications than can be kept came before an answer.
    #[error("the server sent {MAX_NOTIFICATIONS} notifications and no answer")]
    Flooded,
}

impl RequestError {
    /// Whether the same request may succeed on another connection, or later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Broken(_) => true,
            Self::Refused(error) => crate::refusal::is_transient(error),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Waits for the greeting.
    ///
    /// # Errors
    /// None came, or the server has no room for another connection.
    pub async fn open(stream: S) -> Result<Self, WireError> {
        let mut wire = Self::with(stream, ClientSession::default());
        let deadline = Instant::now() + wire.silence;
        loop {
            match wire.session.next_event()? {
                Some(Event::Greeted) => return Ok(wire),
                Some(Event::Error(error)) => return Err(WireError::Dismissed(error)),
                Some(Event::Data(_) | Event::PolAccepted | Event::Notification(_) | Event::Unknown(_)) => {
                    return Err(WireError::NotAnAtServer);
                }
                None => timeout_at(deadline, wire.step()).await.map_err(|_| WireError::Silent(SILENCE))??,
            }
        }
    }

    /// A stream between nodes, where nobody greets and the first line is an
    /// [`Opening`](at_protocol::peer::Opening).
    pub fn begin(stream: S) -> Self {
        Self::with(stream, ClientSession::begun())
    }

    fn with(stream: S, session: ClientSession) -> Self {
        Self {
            stream,
            session,
            outgoing: Outgoing::default(),
            owed: 0,
            notifications: VecDeque::new(),
            silence: SILENCE,
            broken: false,
        }
    }

    /// Changes how long nothing may happen while an answer is due, from [`SILENCE`].
    pub fn set_silence(&mut self, silence: Duration) {
        self.silence = silence;
    }

    /// Whether the connection has failed: every further use fails, too.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The stream, for what its kind can tell, such as the certificate of the other end.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Adds a line, without its end, to what is to be written: [`Wire::next`] and [`Wire::request`] write
    /// it. One answer is then owed. Several lines may be said at once to servers that cut lines apart.
    pub fn say(&mut self, line: &impl Display) {
        self.tell(line);
        self.owed += 1;
    }

    /// As [`Wire::say`], for a verb that has no answer when it succeeds: `monitor`.
    pub fn tell(&mut self, line: &impl Display) {
        use io::Write as _;
        writeln!(self.outgoing.bytes, "{line}").expect("a vector takes all that is written");
    }

    /// Says one line and waits for its answer. Notifications that come before it are kept for
    /// [`Wire::next`]. Dropping the future loses the answer, but not the connection.
    ///
    /// # Errors
    /// The server refuses, is silent for too long, or the connection ends.
    pub async fn request(&mut self, line: &impl Display) -> Result<String, RequestError> {
        let latest = Instant::now() + LONGEST;
        let mut said = false;
        loop {
            // Older servers take two lines that arrive together for one (wire reference §2.2).
            if self.owed == 0 && !std::mem::replace(&mut said, true) {
                self.say(line);
            }
            match self.said()? {
                Some(Said::Answer(answer)) if said => return answer.map_err(RequestError::Refused),
                // Of a request that was dropped.
                Some(Said::Answer(_)) => {}
                Some(Said::Notification(frame)) => self.keep(*frame)?,
                None => self.patient_step(latest).await?,
            }
        }
    }

    /// Proves by `pol` that we are the atServer of `me`, after its `from` was answered and the cookie
    /// stored. Not to be dropped: the answer to `pol` is no line.
    ///
    /// # Errors
    /// The other server refuses, or the connection ends.
    pub async fn pol(&mut self, me: &AtSign) -> Result<(), RequestError> {
        let latest = Instant::now() + LONGEST;
        self.session.expect_pol(me);
        self.tell(&"pol");
        loop {
            match self.event()? {
                Some(Event::PolAccepted) => return Ok(()),
                Some(Event::Error(error)) => return Err(RequestError::Refused(error)),
                Some(Event::Notification(frame)) => self.keep(*frame)?,
                Some(Event::Data(_) | Event::Greeted | Event::Unknown(_)) => {
                    return Err(self.give_up(WireError::NotAnAtServer).into());
                }
                None => self.patient_step(latest).await?,
            }
        }
    }

    /// Writes what was said and waits for what the server says next, for as long as it takes. Cancel-safe.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn next(&mut self) -> Result<Said, WireError> {
        if let Some(frame) = self.notifications.pop_front() {
            return Ok(Said::Notification(Box::new(frame)));
        }
        loop {
            if let Some(said) = self.said()? {
                return Ok(said);
            }
            self.step().await?;
        }
    }

    fn keep(&mut self, frame: Frame) -> Result<(), WireError> {
        if self.notifications.len() == MAX_NOTIFICATIONS {
            return Err(self.give_up(WireError::Flooded));
        }
        self.notifications.push_back(frame);
        Ok(())
    }

    /// What has already arrived.
    fn said(&mut self) -> Result<Option<Said>, WireError> {
        let answer = match self.event()? {
            None => return Ok(None),
            Some(Event::Notification(frame)) => return Ok(Some(Said::Notification(frame))),
            Some(Event::Data(text)) => Ok(text),
            Some(Event::Error(error)) => Err(error),
            // The other way to answer `noop` (wire reference §4.19).
            Some(Event::Unknown(text)) if text == "ok" => Ok(text),
            Some(Event::Unknown(_) | Event::Greeted | Event::PolAccepted) => {
                return Err(self.give_up(WireError::NotAnAtServer));
            }
        };
        match (self.owed.checked_sub(1), answer) {
            (Some(owed), answer) => {
                self.owed = owed;
                Ok(Some(Said::Answer(answer)))
            }
            (None, Err(error)) => Err(self.give_up(WireError::Dismissed(error))),
            (None, Ok(_)) => Err(self.give_up(WireError::NotAnAtServer)),
        }
    }

    fn event(&mut self) -> Result<Option<Event>, WireError> {
        if self.broken {
            return Err(WireError::Closed);
        }
        loop {
            match self.session.next_event() {
                // A notification that nobody can read is no reason to lose those that follow.
                Ok(Some(Event::Unknown(text))) if text.starts_with(at_protocol::notification::PREFIX) => {
                    tracing::debug!("skipped a notification that is not JSON as it should be");
                }
                Ok(event) => return Ok(event),
                Err(error) => return Err(self.give_up(error.into())),
            }
        }
    }

    async fn patient_step(&mut self, latest: Instant) -> Result<(), WireError> {
        let deadline = latest.min(Instant::now() + self.silence);
        match timeout_at(deadline, self.step()).await {
            Ok(done) => done,
            Err(_) => Err(self.give_up(WireError::Silent(self.silence))),
        }
    }

    /// Moves some bytes: what is to be written if the stream takes it, else what there is to read.
    /// Cancel-safe, since whatever was moved is on record before it returns.
    async fn step(&mut self) -> Result<(), WireError> {
        if self.broken {
            return Err(WireError::Closed);
        }
        let moved = poll_fn(|cx| {
            if !self.outgoing.is_empty()
                && let Poll::Ready(written) = self.outgoing.poll_write(Pin::new(&mut self.stream), cx)
            {
                return Poll::Ready(written);
            }
            // On the stack: many connections wait, and none needs room for what it reads as long.
            let mut room = [MaybeUninit::uninit(); READ];
            let mut buffer = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            self.session.feed(buffer.filled());
            Poll::Ready(if buffer.filled().is_empty() { Err(WireError::Closed) } else { Ok(()) })
        });
        moved.await.map_err(|error| self.give_up(error))
    }

    fn give_up(&mut self, error: WireError) -> WireError {
        self.broken = true;
        error
    }
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    /// Writes a part, or flushes once all is written.
    fn poll_write<S: AsyncWrite>(
        &mut self,
        stream: Pin<&mut S>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WireError>> {
        if self.bytes.is_empty() {
            ready!(stream.poll_flush(cx))?;
            self.unflushed = false;
            return Poll::Ready(Ok(()));
        }
        let size = ready!(stream.poll_write(cx, &self.bytes[self.written..]))?;
        if size == 0 {
            return Poll::Ready(Err(WireError::Closed));
        }
        self.written += size;
        self.unflushed = true;
        if self.written == self.bytes.len() {
            self.written = 0;
            self.bytes.clear();
            // A large value must not be paid for as long as the connection lives.
            self.bytes.shrink_to(READ);
        }
        Poll::Ready(Ok(()))
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        // TLS without its farewell: how most servers go.
        let closed = matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe);
        if closed { Self::Closed } else { Self::Io(error) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::stub::with_server;

    fn frame(id: &str) -> String {
        format!(
            r#"notification: {{"id":"{id}","from":"@bob","to":"@alice","key":"@alice:k.ns@bob","epochMillis":1}}"#
        )
    }

    fn id(said: Said) -> String {
        match said {
            Said::Notification(frame) => frame.id,
            Said::Answer(answer) => panic!("{answer:?}"),
        }
    }

    #[tokio::test]
    async fn answers_come_to_their_requests_and_notifications_wait() {
        let pushed = format!("{}\ndata:2\n@alice@{}\n", frame("a"), frame("b"));
        let script =
            [("first", "data:1\n@alice@"), ("second", pushed.as_str()), ("third", "error:AT0015-x\n@")];
        with_server(&script, async |wire| {
            assert_eq!(wire.request(&"first").await.unwrap(), "1");
            assert_eq!(wire.request(&"second").await.unwrap(), "2");
            assert!(
                matches!(wire.request(&"third").await, Err(RequestError::Refused(error)) if error.code == "AT0015")
            );
            assert_eq!(id(wire.next().await.unwrap()), "a");
            assert_eq!(id(wire.next().await.unwrap()), "b");
            assert!(!wire.is_broken());
        })
        .await;
    }

    #[tokio::test]
    async fn the_answer_to_a_dropped_request_is_not_taken_for_anothers() {
        let script = [("dropped", "data:stale\n@"), ("kept", "data:fresh\n@")];
        with_server(&script, async |wire| {
            let mut dropped = Box::pin(wire.request(&"dropped"));
            // The line is on its way, its answer is not.
            let begun = poll_fn(|cx| Poll::Ready(dropped.as_mut().poll(cx)));
            assert!(begun.await.is_pending());
            drop(dropped);
            assert_eq!(wire.request(&"kept").await.unwrap(), "fresh");
        })
        .await;
    }

    #[tokio::test]
    async fn more_than_the_pipe_holds_goes_both_ways() {
        let value = "x".repeat(100_000);
        let line = format!("update:k@alice {value}");
        let answer = format!("data:{value}\n@alice@");
        let answer =
            with_server(&[(line.as_str(), answer.as_str())], async |wire| wire.request(&line).await).await;
        assert_eq!(answer.unwrap(), value);
    }

    #[tokio::test]
    async fn lines_said_together_are_answered_in_order() {
        let script = [("1", "data:a\n@"), ("2", "data:b\n@"), ("3", "error:AT0003-c\n@")];
        with_server(&script, async |wire| {
            for line in ["1", "2", "3"] {
                wire.say(&line);
            }
            assert_eq!(wire.next().await.unwrap(), Said::Answer(Ok("a".into())));
            assert_eq!(wire.next().await.unwrap(), Said::Answer(Ok("b".into())));
            assert!(matches!(wire.next().await, Ok(Said::Answer(Err(error))) if error.code == "AT0003"));
        })
        .await;
    }

    #[tokio::test]
    async fn pol_is_accepted_by_a_prompt() {
        let me = "@bob".parse().unwrap();
        with_server(
            &[("from:@bob", "data:proof:_s@bob:p\n@"), ("pol", "@bob@"), ("x", "data:1\n@bob@")],
            async |wire| {
                assert_eq!(wire.request(&"from:@bob").await.unwrap(), "proof:_s@bob:p");
                wire.pol(&me).await.unwrap();
                assert_eq!(wire.request(&"x").await.unwrap(), "1");
            },
        )
        .await;
        let refused = with_server(&[("pol", "error:AT0401-no\n@")], async |wire| wire.pol(&me).await).await;
        assert!(matches!(refused, Err(RequestError::Refused(error)) if error.code == "AT0401"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_accepts_and_never_answers_is_left() {
        let (ours, _theirs) = tokio::io::duplex(64);
        assert!(matches!(Wire::open(ours).await, Err(WireError::Silent(SILENCE))));
        with_server(&[], async |wire| {
            let answer = wire.request(&"noop:0").await;
            assert!(matches!(answer, Err(RequestError::Broken(WireError::Silent(SILENCE)))));
            assert!(wire.is_broken());
            assert!(matches!(wire.request(&"noop:0").await, Err(RequestError::Broken(WireError::Closed))));
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_not_asked_ends_the_connection() {
        for (line, expected) in [
            ("data:1\ndata:2\n@", "this is not the talk of an atServer"),
            ("data:1\nerror:AT0028-expired\n@", "the server ends the connection: AT0028: expired"),
            ("data:1\n200 OK\n", "this is not the talk of an atServer"),
        ] {
            with_server(&[("x", line)], async |wire| {
                assert_eq!(wire.request(&"x").await.unwrap(), "1");
                assert_eq!(wire.next().await.unwrap_err().to_string(), expected);
            })
            .await;
        }
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"error:AT0012-Inbound connection limit exceeded\n").await.unwrap();
        assert!(matches!(Wire::open(ours).await, Err(WireError::Dismissed(error)) if error.code == "AT0012"));
    }

    #[tokio::test]
    async fn an_unreadable_notification_is_skipped() {
        let pushed = format!("data:ok\n@alice@notification: {{\"id\":1}}\n{}\n", frame("b"));
        with_server(&[("noop:0", &pushed)], async |wire| {
            assert_eq!(wire.request(&"noop:0").await.unwrap(), "ok");
            assert_eq!(id(wire.next().await.unwrap()), "b");
        })
        .await;
    }

    #[tokio::test]
    async fn notifications_without_end_instead_of_an_answer_end_the_connection() {
        let flood = format!("{}\n", frame("a")).repeat(MAX_NOTIFICATIONS + 1);
        with_server(&[("noop:0", &flood)], async |wire| {
            let answer = wire.request(&"noop:0").await;
            assert!(matches!(answer, Err(RequestError::Broken(WireError::Flooded))));
        })
        .await;
    }
}
