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

/// Time between heartbeats, as the Dart client keeps it (client conventions §5.2).
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
    /// Time between heartbeats. A server that needs longer than a third of it to answer is left.
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
    beat_at: Instant,
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
        let beat_at = Instant::now() + heartbeat;
        self.link = Link::Up(Box::new(Up { wire, heartbeat, beat_at, due: None }));
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
            let said = timeout_at(self.due.map_or(self.beat_at, |due| due.by), self.wire.next()).await;
            match (said, self.due) {
                (Ok(said), _) => match said? {
                    Said::Notification(frame) => {
                        backoff.succeeded();
                        return Ok(*frame);
                    }
                    Said::Answer(Err(error)) => return Err(WireError::Dismissed(error)),
                    Said::Answer(Ok(_)) => {
                        backoff.succeeded();
                        self.due = None;
                        self.beat_at = Instant::now() + self.heartbeat;
                    }
                },
                (Err(_), None) => {
                    self.wire.say(&Verb::Noop(verb::Noop { delay_ms: 0 }));
                    self.due = Some(Due { by: Instant::now() + self.heartbeat / 3, extended: false });
                }
                (Err(_), Some(_)) => return Err(WireError::Silent(self.heartbeat / 3)),
            }
        }
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
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;
    use crate::login::LoginError;
    use crate::notify::NotifyRequest;
    use crate::stub::{Town, When, keys};

    async fn town() -> Town {
        Town::with(&["@alice", "@bobby3"]).await
    }

    /// From the beginning, so that nothing depends on who is first.
    fn from_the_start() -> MonitorConfig {
        MonitorConfig { since: Some(Timestamp::from_millis(0)), ..MonitorConfig::default() }
    }

    async fn tell(client: &Client, to: &str, name: &str, text: &str) {
        let (to, name) = (to.parse().unwrap(), name.parse().unwrap());
        client.notify(NotifyRequest::new(&to, &name, text.as_bytes())).await.unwrap();
    }

    async fn heard(monitor: &mut Monitor) -> String {
        shown(&monitor.next().await.unwrap())
    }

    fn shown(incoming: &Incoming) -> String {
        let text = match &incoming.payload {
            Payload::Opened(plain) => std::str::from_utf8(plain).unwrap(),
            Payload::Clear(text) => &format!("clear {text}"),
            Payload::Undecryptable => "undecryptable",
            Payload::Nothing => "nothing",
        };
        format!("{} {}: {text}", incoming.from, incoming.name)
    }

    #[tokio::test]
    async fn notifications_arrive_opened_and_in_order() {
        let town = town().await;
        let (alice, bob) = (town.client("@alice"), town.client("@bobby3"));
        let mut monitor = alice.monitor(MonitorConfig { self_notifications: true, ..from_the_start() });
        tell(&bob, "@alice", "a.ns", "one").await;
        tell(&bob, "@alice", "b.ns", "two").await;
        tell(&alice, "@alice", "c.ns", "to myself").await;
        assert_eq!(heard(&mut monitor).await, "@bobby3 a.ns: one");
        assert_eq!(heard(&mut monitor).await, "@bobby3 b.ns: two");
        assert_eq!(heard(&mut monitor).await, "@alice c.ns: to myself");
        assert_eq!(*monitor.state().borrow(), MonitorState::Connected);
        assert_eq!(town.world().count("monitor:selfNotifications:0"), 1);
    }

    #[tokio::test]
    async fn servers_with_other_habits_are_understood() {
        let town = town().await;
        town.world().prompts_on_monitors = true;
        town.world().replays_without_keys = true;
        let (alice, bob) = (town.client("@alice"), town.client("@bobby3"));
        tell(&bob, "@alice", "a.ns", "replayed").await;
        let heartbeat = Duration::from_millis(300);
        let mut monitor = alice.monitor(MonitorConfig { heartbeat, ..from_the_start() });
        assert_eq!(heard(&mut monitor).await, "@bobby3 a.ns: replayed");
        assert_eq!(town.world().count("lookup:shared_key@bobby3"), 1);

        // The prompt behind the heartbeat's answer is in front of the next notification.
        let next = async { heard(&mut monitor).await };
        let after_the_heartbeat = async {
            town.hears("noop:0", 1).await;
            tell(&bob, "@alice", "b.ns", "behind a prompt").await;
        };
        assert_eq!(tokio::join!(next, after_the_heartbeat).0, "@bobby3 b.ns: behind a prompt");

        let mut frame = town.world().received("@alice")[0].clone();
        for (name, change) in [("c.ns", Some("null")), ("d.ns", None)] {
            let (own, _) = town.world().record("@bobby3", "shared_key.alice@bobby3").unwrap();
            let pair = keys("@bobby3").encryption.unwrap_key(&own).unwrap();
            frame.id = name.to_owned();
            frame.key = format!("@alice:{name}@bobby3");
            frame.value = Some(pair.encrypt(&at_protocol::crypto::Iv::ZERO, b"zero vector"));
            frame.metadata.as_mut().unwrap().iv_nonce = change.map(str::to_owned);
            town.world().deliver(frame.clone());
            assert_eq!(heard(&mut monitor).await, format!("@bobby3 {name}: zero vector"));
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_passed_over() {
        let town = town().await;
        let (alice, bob) = (town.client("@alice"), town.client("@bobby3"));
        tell(&bob, "@alice", "a.ns", "first").await;
        let mut monitor = alice.monitor(from_the_start());
        assert_eq!(heard(&mut monitor).await, "@bobby3 a.ns: first");
        let sent = town.world().received("@alice")[0].clone();
        let altered = |id: &str, key: &str, value: Option<&str>| Frame {
            id: id.to_owned(),
            key: key.to_owned(),
            value: value.map(str::to_owned),
            ..sent.clone()
        };
        let ticker = Frame::stats(alice.atsign(), 7, Operation::Update, Timestamp::from_millis(1));
        town.world().push("@alice", &ticker.line());
        town.world().push("@alice", "notification: {\"id\":1}\n");
        town.world().deliver(altered("k", "@alice:shared_key@bobby3", Some("x")));
        town.world().deliver(Frame { message_type: MessageType::Text, ..altered("t", "@alice:hello", None) });
        town.world().deliver(altered("m", "@alice:m.ns@bobby3", Some("AAAA")));
        town.world().deliver(altered("n", "@alice:n.ns@bobby3", None));
        let in_the_clear =
            Frame { is_encrypted: false, metadata: None, ..altered("o", "@alice:o.ns@bobby3", Some("x")) };
        town.world().deliver(in_the_clear);
        assert_eq!(heard(&mut monitor).await, "@bobby3 m.ns: undecryptable");
        assert_eq!(heard(&mut monitor).await, "@bobby3 n.ns: nothing");
        assert_eq!(heard(&mut monitor).await, "@bobby3 o.ns: clear x");
    }

    #[tokio::test]
    async fn it_continues_where_it_was_cut_off() {
        let town = town().await;
        let (alice, bob) = (town.client("@alice"), town.client("@bobby3"));
        let mut monitor = alice.monitor(from_the_start());
        tell(&bob, "@alice", "a.ns", "before").await;
        assert_eq!(heard(&mut monitor).await, "@bobby3 a.ns: before");
        town.world().hang_up_monitors("@alice");
        // One in the same millisecond as the last, one after it.
        let mut twin = town.world().received("@alice")[0].clone();
        twin.id = "twin".to_owned();
        town.world().received("@alice").push(twin);
        tell(&bob, "@alice", "b.ns", "after").await;
        assert_eq!(heard(&mut monitor).await, "@bobby3 a.ns: before");
        assert_eq!(heard(&mut monitor).await, "@bobby3 b.ns: after");
        assert_eq!(town.world().count("monitor:"), 2);
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_heartbeats_is_left() {
        let town = town().await;
        town.world().fault("noop:0", When::Hang);
        let heartbeat = Duration::from_millis(300);
        let mut monitor = town.client("@alice").monitor(MonitorConfig { heartbeat, ..from_the_start() });
        let mut state = monitor.state();
        let causes = async {
            loop {
                state.changed().await.unwrap();
                if let MonitorState::Disconnected { cause } = &*state.borrow() {
                    return cause.clone();
                }
            }
        };
        let bob = town.client("@bobby3");
        let talk = async {
            let cause = causes.await;
            tell(&bob, "@alice", "a.ns", "still here").await;
            cause
        };
        let (heard, cause) = tokio::join!(heard(&mut monitor), talk);
        assert_eq!(heard, "@bobby3 a.ns: still here");
        assert_eq!(cause, "the server did not answer within 100ms");
    }

    #[tokio::test]
    async fn dropping_the_wait_loses_nothing() {
        let town = town().await;
        let bob = town.client("@bobby3");
        for name in ["a.ns", "b.ns", "c.ns"] {
            tell(&bob, "@alice", name, "x").await;
        }
        town.world().replays_without_keys = true;
        let mut monitor = town.client("@alice").monitor(from_the_start());
        let mut names = Vec::new();
        while names.len() < 3 {
            // Each wait is dropped after a single poll, while connecting, looking up and reading.
            let mut next = Box::pin(monitor.next());
            let polled = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
            drop(next);
            match polled {
                Poll::Ready(incoming) => names.push(incoming.unwrap().name.to_string()),
                Poll::Pending => tokio::task::yield_now().await,
            }
        }
        assert_eq!(names, ["a.ns", "b.ns", "c.ns"]);
        assert_eq!(town.world().count("monitor:"), 1);
    }

    #[tokio::test]
    async fn what_needs_somebodys_help_is_an_error() {
        let town = town().await;
        let mut monitor = Client::new(town.config("@alice", keys("@bobby3"))).monitor(from_the_start());
        let refused = monitor.next().await.err().unwrap();
        assert!(matches!(
            refused,
            MonitorError::Connect(ConnectError::Login(LoginError::KeysRefused { .. }))
        ));
        let regex = Some("(".to_owned());
        let mut monitor = town.client("@alice").monitor(MonitorConfig { regex, ..from_the_start() });
        let refused = monitor.next().await.err().unwrap();
        assert!(matches!(&refused, MonitorError::Refused { source, .. } if source.code == "AT0003"));
        let mut monitor = town.client("@alice").monitor(from_the_start());
        let expire = async {
            town.hears("monitor:0", 2).await;
            town.world()
                .push("@alice", "error:{\"errorCode\":\"AT0028\",\"errorDescription\":\"expired\"}\n@");
        };
        let (refused, ()) = tokio::join!(monitor.next(), expire);
        assert!(matches!(refused, Err(MonitorError::Refused { source, .. }) if source.code == "AT0028"));
    }
}
