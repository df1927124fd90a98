//! Receiving notifications, for as long as one likes, over as many connections as it takes.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use at_protocol::crypto::{AesKey, OpenError};
use at_protocol::notification::Frame;
use at_protocol::response::RemoteError;
use at_protocol::verb::{self, MessageType, Operation, Verb};
use at_protocol::{AtSign, KeyName, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::account::ConnectError;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::dial::AtWire;
use crate::peers::{Label, Opened};
use crate::requests::AskError;
use crate::wire::{Said, WireError};

/// Time between heartbeats, as the Dart client keeps it (client conventions §5.2). Servers tell their commit every 15 s
/// (wire reference §8.5): whoever is woken by that has no need of a timer of its own.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// What a late answer is given when it was we who were away.
const GRACE: Duration = Duration::from_secs(1);
/// Ids remembered of one millisecond; a server that puts more into one may repeat some.
const MAX_SEEN: usize = 10_000;

/// What to listen for.
#[derive(Debug, Clone)]
pub struct MonitorConfig {
    /// Only notifications in whose key or sender this matches, anywhere; the server checks.
    pub regex: Option<String>,
    /// Begin with what came after this moment; with what is to come where absent.
    pub since: Option<Timestamp>,
    /// Whether notifications of the atSign to itself are wanted.
    pub self_notifications: bool,
    /// After so long the next notification is answered with a heartbeat; where none comes, one is sent after 1.6
    /// times as long. A server that needs longer than a third of it to answer is left.
    pub heartbeat: Duration,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self { regex: None, since: None, self_notifications: false, heartbeat: HEARTBEAT }
    }
}

/// A notification, opened.
pub struct Incoming {
    /// The sender's id. Only together with the sender does it name one notification.
    pub id: String,
    /// Who sent it, as the servers vouch.
    pub from: AtSign,
    /// The full key, such as `@bob:temp.edgegw@alice`.
    pub key: String,
    /// The key without its atSigns: `temp.edgegw`.
    pub name: KeyName,
    /// Whether the record was written or removed.
    pub operation: Operation,
    /// What is said.
    pub payload: Payload,
    /// When our server took it, in milliseconds since the epoch. Listen again from this minus one to miss
    /// nothing.
    pub epoch_millis: i64,
    /// The key of the pair that opened it, for what is inside.
    pub(crate) pair: Option<Arc<AesKey>>,
}

/// What a notification says.
pub enum Payload {
    /// It was sealed for us. That proves neither sender nor integrity, as the seal has no tag: see
    /// [`Envelopes`](crate::Envelopes).
    Opened(Zeroizing<Vec<u8>>),
    /// It was sent in the clear, so that both servers have read it.
    Clear(String),
    /// It is sealed, but not with a key that we have or find.
    Undecryptable,
    /// Nothing, as when a record is removed.
    Nothing,
}

/// How a monitor fares. Follow it with [`Monitor::state`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MonitorState {
    /// Not yet, or not yet again.
    Connecting,
    /// Signed in and listening.
    Connected,
    /// Not connected, and why; the next attempt follows by itself.
    Disconnected {
        /// What happened, in words.
        cause: String,
    },
}

/// Why listening cannot go on without somebody's help. Asking for the next notification tries again all the
/// same.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// There is no connection, and waiting will not bring one.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server refuses to be listened to: a regex that it does not understand, for example.
    #[error("the atServer of {atsign} refuses the monitor: {source}")]
    Refused {
        /// Whose atServer.
        atsign: AtSign,
        /// What it says.
        source: RemoteError,
    },
}

/// A stream of notifications. It connects again when it has to and continues where it was.
///
/// It lives in [`Monitor::next`] alone: heartbeats are sent and the connection is kept only while that is
/// awaited.
pub struct Monitor {
    client: Client,
    config: MonitorConfig,
    link: Link,
    backoff: Backoff,
    cursor: Cursor,
    opening: Option<Opening>,
    state: watch::Sender<MonitorState>,
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The future outlives a call of `next` that is dropped, so that opening needs not begin anew.
type Opening = Boxed<Result<Incoming, Unopened>>;

/// A notification for whose key the own atServer could not be asked.
struct Unopened {
    name: KeyName,
    frame: Frame,
    error: AskError,
}

enum Link {
    Down { until: Instant },
    Connecting(Boxed<Result<AtWire, ConnectError>>),
    Up(Box<Up>),
}

struct Up {
    wire: AtWire,
    heartbeat: Duration,
    /// When it was last certain that the server hears us.
    answered: Instant,
    due: Option<Due>,
}

/// The answer to a heartbeat.
#[derive(Clone, Copy)]
struct Due {
    by: Instant,
    extended: bool,
}

/// Where to continue.
struct Cursor {
    last: Option<i64>,
    /// Whether `since` is what the caller asked for, who may have asked for more than there was yet.
    asked: bool,
    since: Option<Timestamp>,
    /// Who has sent what in the last millisecond, which is asked for once more.
    seen: HashSet<(AtSign, String)>,
}

impl Client {
    /// Listens for notifications. Nothing happens until the first is asked for.
    #[must_use]
    pub fn monitor(&self, config: MonitorConfig) -> Monitor {
        Monitor {
            client: self.clone(),
            link: Link::Down { until: Instant::now() },
            backoff: Backoff::default(),
            cursor: Cursor {
                last: None,
                asked: config.since.is_some(),
                since: config.since,
                seen: HashSet::new(),
            },
            opening: None,
            state: watch::Sender::new(MonitorState::Connecting),
            config,
        }
    }
}

impl Monitor {
    /// Follows the connection's fate.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<MonitorState> {
        self.state.subscribe()
    }

    /// The next notification. Cancel-safe: what was received, and the connection in the making, stay.
    ///
    /// # Errors
    /// See [`MonitorError`]; a lost connection is none.
    pub async fn next(&mut self) -> Result<Incoming, MonitorError> {
        loop {
            if let Some(incoming) = self.opened().await? {
                self.cursor.advance(&incoming);
                return Ok(incoming);
            }
            match &mut self.link {
                Link::Down { until } => {
                    self.client.config().dialer.pause(*until).await;
                    let config = self.client.config().clone();
                    self.link = Link::Connecting(Box::pin(async move { config.connect().await }));
                    self.state.send_replace(MonitorState::Connecting);
                }
                Link::Connecting(attempt) => match attempt.await {
                    Ok(wire) => self.listen(wire),
                    Err(error) => {
                        self.down(&error);
                        if !error.is_transient() {
                            return Err(error.into());
                        }
                    }
                },
                Link::Up(up) => match up.next(&mut self.backoff).await {
                    Ok(frame) => self.take(frame),
                    Err(WireError::Dismissed(source)) if !crate::refusal::is_transient(&source) => {
                        let refused = MonitorError::Refused { atsign: self.client.atsign().clone(), source };
                        self.down(&refused);
                        return Err(refused);
                    }
                    Err(error) => self.down(&error),
                },
            }
        }
    }

    /// Waits for the notification that is being opened, if one is.
    async fn opened(&mut self) -> Result<Option<Incoming>, MonitorError> {
        let Some(opening) = &mut self.opening else { return Ok(None) };
        match opening.await {
            Ok(incoming) => {
                self.opening = None;
                Ok(Some(incoming))
            }
            Err(Unopened { name, frame, error }) => {
                // Requests pause by themselves after a failure.
                self.opening = Some(open(self.client.clone(), name, frame));
                match error {
                    AskError::Connect(error) if !error.is_transient() => Err(error.into()),
                    AskError::Connect(_) | AskError::Broken { .. } | AskError::Refused { .. } => Ok(None),
                }
            }
        }
    }

    fn listen(&mut self, mut wire: AtWire) {
        let monitor = verb::Monitor {
            self_notifications: self.config.self_notifications,
            since: self.cursor.since,
            regex: self.config.regex.clone(),
            ..verb::Monitor::default()
        };
        // No answer: what comes next is a notification, or an error that nobody asked for.
        wire.tell(&Verb::Monitor(monitor));
        // Whoever has heard nothing yet still must not miss what comes while the connection is down.
        self.cursor.since.get_or_insert_with(|| Timestamp::from(SystemTime::now()));
        let heartbeat = self.config.heartbeat;
        self.link = Link::Up(Box::new(Up { wire, heartbeat, answered: Instant::now(), due: None }));
        self.state.send_replace(MonitorState::Connected);
    }

    fn down(&mut self, cause: &dyn std::error::Error) {
        let cause = cause.to_string();
        tracing::debug!(atsign = %self.client.atsign(), cause, "the monitor is down");
        self.link = Link::Down { until: Instant::now() + self.backoff.failed() };
        self.state.send_replace(MonitorState::Disconnected { cause });
    }

    /// Takes in a notification, if it is one to hand on.
    fn take(&mut self, frame: Frame) {
        if frame.is_stats() {
            self.cursor.tick(frame.epoch_millis);
            return;
        }
        if frame.message_type == MessageType::Text || self.cursor.has_seen(&frame) {
            return;
        }
        match frame.name().parse::<KeyName>() {
            // Not a message but the key to messages, and wrapped, not sealed.
            Ok(name) if name.as_str() == "shared_key" => {
                self.client.peers().announced(&frame.from, frame.value.as_deref());
            }
            Ok(name) => self.opening = Some(open(self.client.clone(), name, frame)),
            Err(error) => tracing::debug!(from = %frame.from, %error, "skipped a notification"),
        }
    }
}

impl Up {
    /// The next notification, with heartbeats in between. Cancel-safe.
    async fn next(&mut self, backoff: &mut Backoff) -> Result<Frame, WireError> {
        // While nobody awaited us the answer may have come, but the runtime has not looked.
        if let Some(due) = self.due.as_mut().filter(|due| !due.extended && due.by < Instant::now()) {
            *due = Due { by: Instant::now() + GRACE, extended: true };
        }
        loop {
            let beat_at = self.answered + self.heartbeat * 8 / 5;
            let said = timeout_at(self.due.map_or(beat_at, |due| due.by), self.wire.next()).await;
            match (said, self.due) {
                (Ok(said), _) => match said? {
                    Said::Notification(frame) => {
                        backoff.succeeded();
                        if self.due.is_none() && self.answered.elapsed() >= self.heartbeat {
                            self.beat();
                        }
                        return Ok(*frame);
                    }
                    Said::Answer(Err(error)) => return Err(WireError::Dismissed(error)),
                    Said::Answer(Ok(_)) => {
                        backoff.succeeded();
                        self.due = None;
                        self.answered = Instant::now();
                    }
                },
                (Err(_), None) => self.beat(),
                (Err(_), Some(_)) => return Err(WireError::Silent(self.heartbeat / 3)),
            }
        }
    }

    /// Asks for a sign of life. It leaves with the next wait.
    fn beat(&mut self) {
        self.wire.say(&Verb::Noop(verb::Noop { delay_ms: 0 }));
        self.due = Some(Due { by: Instant::now() + self.heartbeat / 3, extended: false });
    }
}

impl Cursor {
    fn has_seen(&self, frame: &Frame) -> bool {
        self.seen.contains(&(frame.from.clone(), frame.id.clone()))
    }

    /// The server's own clock, which is the one that counts: nothing older is on its way any more.
    fn tick(&mut self, epoch_millis: i64) {
        if self.last.is_none() && !self.asked {
            self.since = Some(Timestamp::from_millis(epoch_millis - 1));
        }
    }

    fn advance(&mut self, incoming: &Incoming) {
        if self.last.is_none_or(|last| incoming.epoch_millis > last) || self.seen.len() >= MAX_SEEN {
            self.seen.clear();
        }
        self.seen.insert((incoming.from.clone(), incoming.id.clone()));
        let last = self.last.map_or(incoming.epoch_millis, |last| last.max(incoming.epoch_millis));
        self.last = Some(last);
        // Two may share a millisecond, and servers compare with "later than".
        self.since = Some(Timestamp::from_millis(last - 1));
    }
}

fn open(client: Client, name: KeyName, frame: Frame) -> Opening {
    Box::pin(async move {
        match payload(&client, &frame).await {
            Ok((payload, pair)) => Ok(Incoming {
                name,
                payload,
                pair,
                key: frame.key,
                id: frame.id,
                from: frame.from,
                operation: frame.operation,
                epoch_millis: frame.epoch_millis,
            }),
            Err(error) => Err(Unopened { name, frame, error }),
        }
    })
}

/// # Errors
/// The own atServer cannot be asked for a key. That it has none is no error: the payload stays closed.
async fn payload(client: &Client, frame: &Frame) -> Result<(Payload, Option<Arc<AesKey>>), AskError> {
    let Some(text) = &frame.value else { return Ok((Payload::Nothing, None)) };
    let metadata = frame.metadata.clone().unwrap_or_default();
    let iv_nonce = metadata.iv_nonce.as_deref().filter(|nonce| *nonce != "null");
    if !frame.is_encrypted && iv_nonce.is_none() {
        return Ok((Payload::Clear(text.clone()), None));
    }
    let label = Label { shared_key_enc: metadata.shared_key_enc.as_deref(), iv_nonce };
    match client.peers().open(client.own(), &frame.from, label, text).await {
        Ok(Ok(Opened { plain, pair })) => Ok((Payload::Opened(plain), pair)),
        Ok(Err(OpenError)) | Err(AskError::Refused { .. }) => Ok((Payload::Undecryptable, None)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
