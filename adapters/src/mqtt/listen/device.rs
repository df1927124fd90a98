//! One device that is connected to us.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as StdInstant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::quota::Quota;
use super::sessions::{Entry, Link, Sessions};
use super::wire::{Heard, Hello, Message, Reason, Wire};
use super::{Limits, Outgoing};
use crate::mqtt::capture::{Capture, CaptureEnd, Publication};
use crate::mqtt::in_order::Arrived;
use crate::mqtt::route::Routes;
use crate::mqtt::settling::SettledByWindow;
use crate::mqtt::topic::is_topic_name;
use crate::{Captured, CommandError, Intake, Refusal};

/// A device has to say who it is within this long.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// A device that does not take what we send within this long is cut off.
const WRITE: Duration = Duration::from_secs(10);
/// Commands that wait for a device, and as many again that it has not yet answered.
const ORDERS: usize = 16;
/// Reading pauses while so many captures wait for the intake.
const WAITING: u16 = 16;
/// The longest client identifier, in bytes.
const CLIENT_ID: usize = 256;
/// What a packet may have beside its payload: a topic of 65,535 bytes, and properties.
const BESIDE_PAYLOAD: usize = 66 * 1024;

/// What all devices of a listener share.
pub(super) struct Shared {
    pub(super) adapter: String,
    pub(super) limits: Limits,
    pub(super) routes: Arc<Routes>,
    pub(super) sessions: Mutex<Sessions>,
}

impl Shared {
    /// The sessions. They stay right even if another task panicked in between two of their methods.
    pub(super) fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a device's connection is over.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Protocol(String),
    #[error("the device closed the connection")]
    Closed,
    #[error("it did not say who it is in time")]
    Unknown,
    #[error("no TLS with it: {0}")]
    Tls(io::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Capture(#[from] CaptureEnd),
}

/// Serves one device until it goes, or `stop` is cancelled.
pub(super) async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    intake: Intake,
    stop: CancellationToken,
) {
    let peer = stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    let max_packet = u32::try_from(shared.limits.max + BESIDE_PAYLOAD).unwrap_or(u32::MAX);
    let introduction = async {
        let stream: Stream = match tls {
            Some(tls) => Box::new(tls.accept(stream).await.map_err(End::Tls)?),
            None => Box::new(stream),
        };
        let mut socket = Socket { stream, wire: Wire::new(max_packet), inbox: Vec::new(), heard: 0 };
        let hello = socket.hello().await?;
        Ok((socket, hello))
    };
    let introduced = select! {
        introduced = timeout(INTRODUCTION, introduction) => introduced.unwrap_or(Err(End::Unknown)),
        () = stop.cancelled() => return,
    };
    let outcome = match introduced {
        Ok((socket, hello)) => attend(socket, hello, &shared, &intake, &stop).await,
        Err(end) => Err(end),
    };
    if let Err(end) = outcome {
        debug!(adapter = shared.adapter, peer, cause = %end, "a device's connection ended");
    }
}

async fn attend(
    mut socket: Socket,
    hello: Hello,
    shared: &Arc<Shared>,
    intake: &Intake,
    stop: &CancellationToken,
) -> Result<(), End> {
    let Hello { client_id, clean, keep } = hello;
    // A session that goes on needs an identifier to be known by (MQTT 3.1.1 §3.1.3.1).
    if client_id.len() > CLIENT_ID || (client_id.is_empty() && !clean) {
        socket.wire.refuse_client_id();
        return socket.flush().await;
    }
    let assigned = client_id.is_empty().then(new_client_id);
    let client_id = assigned.clone().unwrap_or(client_id);
    let session: Arc<str> = format!("{}/{client_id}", shared.adapter).into();

    let (mut presence, orders, session_present) = select! {
        entered = enter(shared, &client_id, clean) => entered,
        () = stop.cancelled() => return Ok(()),
    };
    if !session_present {
        let lost = Captured::SessionLost { session: Arc::clone(&session) };
        select! {
            sent = intake.send(lost) => sent.map_err(|_| CaptureEnd::IntakeClosed)?,
            () = stop.cancelled() => return Ok(()),
        }
    }
    presence.keep = keep;
    debug!(adapter = shared.adapter, client_id, session_present, "a device connected");
    socket.wire.welcome(session_present, assigned.as_deref(), shared.limits.receive_maximum);

    let capture = Capture::new(session, shared.routes.clone(), intake.clone(), WAITING);
    let quota = Quota::new(shared.limits.rates, StdInstant::now());
    let mut device = Device { socket, presence, capture, orders, unanswered: HashMap::new(), quota };
    let outcome = device.run(stop).await;
    device.finish().await;
    outcome
}

fn new_client_id() -> String {
    format!("auto-{:016x}", getrandom::u64().unwrap_or_default())
}

/// Takes the session, from another connection of the same device if need be.
async fn enter(
    shared: &Arc<Shared>,
    client_id: &str,
    clean: bool,
) -> (Presence, mpsc::Receiver<Outgoing>, bool) {
    let (orders, ordered) = mpsc::channel(ORDERS);
    let link = Link { orders, leave: CancellationToken::new(), left: CancellationToken::new() };
    loop {
        let entry = shared.sessions().enter(client_id, clean, &link, StdInstant::now());
        match entry {
            Entry::Occupied(other) => {
                other.leave.cancel();
                other.left.cancelled().await;
            }
            Entry::Entered { session_present, settling } => {
                let presence = Presence {
                    shared: shared.clone(),
                    client_id: client_id.to_owned(),
                    link,
                    settling,
                    keep: Duration::ZERO,
                };
                return (presence, ordered, session_present);
            }
        }
    }
}

/// That a device is connected. Gives the session back when it ends, however it ends.
struct Presence {
    shared: Arc<Shared>,
    client_id: String,
    link: Link,
    settling: SettledByWindow,
    keep: Duration,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let settling = std::mem::take(&mut self.settling);
        self.shared.sessions().leave(&self.client_id, settling, self.keep, StdInstant::now());
        self.link.left.cancel();
    }
}

/// A connection, in TLS or not.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

type Stream = Box<dyn Duplex>;

/// The bytes of a connection.
struct Socket {
    stream: Stream,
    wire: Wire,
    /// What was read at once; reading goes on when all of it is understood.
    inbox: Vec<u8>,
    /// How much of the inbox is understood.
    heard: usize,
}

impl Socket {
    /// Waits for the CONNECT.
    async fn hello(&mut self) -> Result<Hello, End> {
        loop {
            self.read().await?;
            let heard = self.hear();
            self.flush().await?;
            match heard {
                Some(Heard::Connect(hello)) => return Ok(hello),
                Some(_) => return Err(End::Protocol("the first packet was not CONNECT".to_owned())),
                None => {}
            }
        }
    }

    /// Reads once. Cancel-safe.
    async fn read(&mut self) -> Result<(), End> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk).await? {
            0 => Err(End::Closed),
            count => {
                self.inbox.clear();
                self.inbox.extend_from_slice(&chunk[..count]);
                self.heard = 0;
                Ok(())
            }
        }
    }

    /// The next packet of what was read.
    fn hear(&mut self) -> Option<Heard> {
        let (used, heard) = self.wire.take(&self.inbox[self.heard..]);
        self.heard += used;
        heard
    }

    /// Whether there is something to hear.
    fn has_more(&self) -> bool {
        self.heard < self.inbox.len() && self.wire.end().is_none()
    }

    /// Sends what is to be sent, and fails if the connection has to end after that.
    async fn flush(&mut self) -> Result<(), End> {
        let out = self.wire.take_output();
        if !out.is_empty() {
            let writing = async {
                self.stream.write_all(&out).await?;
                self.stream.flush().await
            };
            timeout(WRITE, writing).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        }
        match self.wire.end() {
            Some(end) => Err(End::Protocol(end.to_owned())),
            None => Ok(()),
        }
    }
}

struct Device {
    socket: Socket,
    presence: Presence,
    capture: Capture,
    orders: mpsc::Receiver<Outgoing>,
    /// Our messages that the device has not yet acknowledged.
    unanswered: HashMap<u16, oneshot::Sender<Result<(), CommandError>>>,
    quota: Quota,
}

impl Device {
    async fn run(&mut self, stop: &CancellationToken) -> Result<(), End> {
        let mut heard_at = Instant::now();
        let mut held_back = false;
        let leave = self.presence.link.leave.clone();
        loop {
            self.acknowledge();
            while self.may_hear() && self.socket.has_more() {
                if let Some(heard) = self.socket.hear() {
                    heard_at = Instant::now();
                    if let Heard::Disconnect { keep } = heard {
                        self.presence.keep = keep.unwrap_or(self.presence.keep);
                        return Ok(());
                    }
                    self.on(heard);
                    self.acknowledge();
                }
            }
            self.socket.flush().await?;
            let may_hear = self.may_hear();
            // A device that we did not listen to was not silent.
            if held_back || !may_hear {
                heard_at = Instant::now();
            }
            held_back = !may_hear;
            let may_order = self.unanswered.len() < ORDERS && self.socket.wire.may_publish();
            let held_until = self.quota.held_until(StdInstant::now()).map(Instant::from_std);
            let silent_at = self.socket.wire.keep_alive().map(|longest| heard_at + longest);
            select! {
                read = self.socket.read(), if may_hear => read?,
                step = self.capture.step() => match step {
                    Ok(()) => {}
                    Err(CaptureEnd::Abandoned) => self.socket.wire.turn_away(Reason::Unkept),
                    Err(end @ CaptureEnd::IntakeClosed) => return Err(end.into()),
                },
                Some(order) = self.orders.recv(), if may_order => self.carry_out(order),
                () = moment(held_until), if held_until.is_some() => {}
                () = moment(silent_at), if may_hear => self.socket.wire.silent(),
                () = leave.cancelled() => self.socket.wire.turn_away(Reason::TakenOver),
                () = stop.cancelled() => self.socket.wire.turn_away(Reason::ShuttingDown),
            }
        }
    }

    /// Whether there is room for more. While there is none, TCP holds the device back.
    fn may_hear(&self) -> bool {
        let unacknowledged = self.capture.unacknowledged();
        let is_in_time = self.quota.held_until(StdInstant::now()).is_none();
        is_in_time
            && self.capture.has_room()
            && unacknowledged < self.presence.shared.limits.receive_maximum.into()
    }

    fn acknowledge(&mut self) {
        while let Some(Arrived { packet, number }) = self.capture.next_acknowledgement() {
            self.socket.wire.acknowledge(packet);
            self.presence.settling.acknowledged(number);
        }
        let window = self.presence.shared.limits.receive_maximum;
        self.presence.settling.settled(window).into_iter().for_each(|upto| self.capture.settled(upto));
    }

    fn on(&mut self, heard: Heard) {
        let Self { socket, presence, capture, unanswered, quota, .. } = self;
        let client_id = &presence.client_id;
        match heard {
            Heard::Publish(Message { topic, .. }) if !is_topic_name(&topic) => {
                socket.wire.turn_away(Reason::TopicInvalid);
            }
            Heard::Publish(Message { topic, payload, repeatable }) => {
                let publication = Publication { topic: &topic, payload: &payload, repeatable };
                let number = if quota.take(&topic, payload.len(), StdInstant::now()) {
                    capture.published(&publication)
                } else {
                    let max = presence.shared.limits.rates.topics.unwrap_or_default();
                    let topic = topic.chars().take(128).collect();
                    capture.refused(&publication, Refusal::TooManyTopics { topic, max })
                };
                if let (Some(number), Some((_, dup))) = (number, repeatable) {
                    presence.settling.arrived(number, dup);
                }
            }
            Heard::Subscribe { packet, filters } => {
                let mut sessions = presence.shared.sessions();
                let granted: Vec<_> =
                    filters.iter().map(|(filter, qos)| sessions.subscribe(client_id, filter, *qos)).collect();
                socket.wire.granted(packet, &granted);
            }
            Heard::Unsubscribe { packet, filters } => {
                let mut sessions = presence.shared.sessions();
                let existed: Vec<_> =
                    filters.iter().map(|filter| sessions.unsubscribe(client_id, filter)).collect();
                socket.wire.released(packet, &existed);
            }
            Heard::Answered { packet, refused } => {
                if let Some(done) = unanswered.remove(&packet) {
                    let refused =
                        refused.map(|reason| CommandError::Refused { peer: client_id.clone(), reason });
                    done.send(refused.map_or(Ok(()), Err)).ok();
                }
            }
            // The codec ends the connection at a second CONNECT; `run` sees to DISCONNECT.
            Heard::Connect(_) | Heard::Disconnect { .. } | Heard::Alive => {}
        }
    }

    fn carry_out(&mut self, order: Outgoing) {
        let Outgoing { topic, payload, qos, done } = order;
        match self.socket.wire.publish(&topic, &payload, qos) {
            Ok(Some(packet)) => _ = self.unanswered.insert(packet, done),
            Ok(None) => _ = done.send(Ok(())),
            Err(reason) => {
                let peer = self.presence.client_id.clone();
                done.send(Err(CommandError::Refused { peer, reason })).ok();
            }
        }
    }

    /// The connection is over: says so to all who wait, and hands on what was heard.
    async fn finish(mut self) {
        let peer = self.presence.client_id.clone();
        self.orders.close();
        while let Ok(order) = self.orders.try_recv() {
            order.done.send(Err(CommandError::NotConnected { peer: peer.clone() })).ok();
        }
        for (_, done) in self.unanswered.drain() {
            done.send(Err(CommandError::Interrupted { peer: peer.clone() })).ok();
        }
        self.capture.drain().await;
    }
}

/// Ends at this moment, or never.
async fn moment(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
