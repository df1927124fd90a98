//! Reaching an atServer: over QUIC where UDP passes, over TLS where it does not, and no less sure of the other
//! end on either way.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::client::TlsStream;

use crate::pin::pinned;
use crate::quic::{Carrier, Place, QuicStream};
use crate::random;
use crate::resolve::Found;
use crate::tls::{ClientTls, DialError, dial};
use crate::wire::{Wire, WireError};

/// How long connecting and the handshake may take. Small ARM boards need seconds for a handshake.
const DIAL: Duration = Duration::from_secs(15);
/// How long QUIC is tried alone where nothing is known of the way: a round trip, mostly.
const FIRST_START: Duration = Duration::from_millis(300);
/// How long it is given at least where it worked before, and before it is said not to work: its first packet
/// may be lost, and is repeated after a second.
const LEAST_START: Duration = Duration::from_secs(1);
/// How long a greeting may take on a connection that was there, before another is made.
const GREETING: Duration = Duration::from_secs(5);
/// How long QUIC is left alone where UDP did not pass; doubled each time, up to the longest.
const FIRST_REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(60 * 60);
/// A QUIC connection that comes so soon after another is no news.
const NEWS: Duration = Duration::from_secs(5);
/// What is spoken behind TLS, by ALPN, with a node whose key is known.
const BEHIND_TLS: &[u8] = b"atProtocol/1.0";

/// A connection to an atServer, whichever way.
pub type AtWire = Wire<Way>;

/// Which way to atServers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC where it works, else TLS.
    #[default]
    Auto,
    /// QUIC and nothing else.
    Quic,
    /// TLS over TCP and nothing else.
    Tls,
}

/// Reaches atServers. Cheap to clone; clones share their QUIC connections and what they have learnt of the
/// ways.
#[derive(Clone)]
pub struct Dialer(Arc<Inner>);

struct Inner {
    tls: ClientTls,
    transport: Transport,
    carrier: Carrier,
    ways: Mutex<HashMap<Place, Known>>,
    /// When a QUIC connection was last made.
    news: watch::Sender<Option<Instant>>,
}

/// What is known of the way to a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Known {
    /// Nothing.
    #[default]
    Nothing,
    /// QUIC worked, and a round trip took so long.
    Open(Duration),
    /// It did not, so many times, and is not tried again before this.
    Shut(u32, Instant),
}

/// A stream to an atServer.
pub struct Way(Kind);

enum Kind {
    /// A TCP connection of its own.
    Tls(Box<TlsStream<TcpStream>>),
    /// A stream of a shared connection.
    Quic(QuicStream),
}

/// Why there is no greeted connection.
pub(crate) enum Unreached {
    /// None at all.
    Dial(DialError),
    /// One that was not greeted.
    Greeting(WireError),
}

impl From<ClientTls> for Dialer {
    /// Over TLS alone.
    fn from(tls: ClientTls) -> Self {
        Self::new(tls, Transport::Tls)
    }
}

impl Dialer {
    /// Trusts as `tls` does, for both ways.
    #[must_use]
    pub fn new(tls: ClientTls, transport: Transport) -> Self {
        let carrier = Carrier::new(tls.clone());
        let (ways, news) = (Mutex::default(), watch::Sender::new(None));
        Self(Arc::new(Inner { tls, transport, carrier, ways, news }))
    }

    /// How many QUIC connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.carrier.open()
    }

    /// Ends all QUIC connections and says so to the servers, for as long as `patience` lasts.
    pub async fn close(&self, patience: Duration) {
        self.0.carrier.close(patience).await;
    }

    /// Waits until then, or until a QUIC connection is made, which shows that the way is free again. Cancel-safe.
    pub(crate) async fn pause(&self, until: Instant) {
        let mut news = self.0.news.subscribe();
        tokio::select! {
            () = sleep_until(until) => {}
            // The sender lives as long as we do.
            _ = news.changed() => {}
        }
    }

    /// A greeted connection to where an atSign is served.
    pub(crate) async fn reach(&self, found: &Found) -> Result<AtWire, Unreached> {
        let place = match &found.record {
            Some(record) => Place { address: record.quic(), node: Some(record.node().clone()) },
            None => Place { address: found.address.clone(), node: None },
        };
        match self.0.transport {
            Transport::Tls => greeted(self.dial(found).await.map_err(Unreached::Dial)?).await,
            Transport::Quic => self.over_quic(&place).await,
            Transport::Auto => self.over_either(found, &place).await,
        }
    }

    /// QUIC, and TLS as well once that takes too long. Both lead to the same host and are checked alike: who
    /// holds one of them up gains nothing but the other.
    async fn over_either(&self, found: &Found, place: &Place) -> Result<AtWire, Unreached> {
        let known = self.known(place);
        let start = match known {
            Known::Shut(_, until) if Instant::now() < until => {
                return greeted(self.dial(found).await.map_err(Unreached::Dial)?).await;
            }
            Known::Nothing | Known::Shut(..) => FIRST_START,
            Known::Open(round_trip) => patience(round_trip),
        };
        // On the heap, as few connect at a time.
        let mut quic = Box::pin(self.over_quic(place));
        let mut has_ended = match timeout(start, &mut quic).await {
            Ok(Ok(wire)) => return Ok(wire),
            Ok(Err(_)) => true,
            Err(_) => false,
        };
        let mut tls = Box::pin(self.dial(found));
        let dialled = loop {
            tokio::select! {
                reached = &mut quic, if !has_ended => match reached {
                    Ok(wire) => return Ok(wire),
                    Err(_) => has_ended = true,
                },
                dialled = &mut tls => break dialled,
            }
        };
        if !has_ended {
            // What was asked of a host that could not be reached is asked again, now that it answers.
            self.0.carrier.hurry(place);
            let round_trip = if let Known::Open(round_trip) = known { round_trip } else { Duration::ZERO };
            if let Ok(Ok(wire)) = timeout(patience(round_trip), &mut quic).await {
                return Ok(wire);
            }
        }
        let stream = dialled.map_err(Unreached::Dial)?;
        self.shut(place);
        greeted(stream).await
    }

    async fn over_quic(&self, place: &Place) -> Result<AtWire, Unreached> {
        let carrier = &self.0.carrier;
        loop {
            let stream = carrier.stream(place, DIAL).await.map_err(Unreached::Dial)?;
            let (connection, is_first) = (stream.connection(), stream.is_first);
            if is_first {
                self.tell();
            }
            let greeting = Box::pin(Wire::open(Way(Kind::Quic(stream))));
            let waited = if is_first { DIAL } else { GREETING };
            let opened = tokio::select! {
                opened = timeout(waited, greeting) => opened.unwrap_or(Err(WireError::Silent(waited))),
                () = carrier.hurried(place, Instant::now()), if !is_first => Err(WireError::Closed),
            };
            match opened {
                Ok(wire) => {
                    self.ways().insert(place.clone(), Known::Open(connection.round_trip()));
                    return Ok(wire);
                }
                Err(error @ WireError::Dismissed(_)) => return Err(Unreached::Greeting(error)),
                Err(error) if is_first => return Err(Unreached::Greeting(error)),
                Err(error) => {
                    tracing::debug!(address = %place.address, %error, "connecting anew");
                    carrier.suspect(place, &connection).await;
                }
            }
        }
    }

    /// Over TCP, with TLS.
    async fn dial(&self, found: &Found) -> Result<TlsStream<TcpStream>, DialError> {
        match found.node() {
            None => dial(&found.address, &self.0.tls, DIAL).await,
            Some(node) => dial(&found.address, &pinned(node, None, BEHIND_TLS).into(), DIAL).await,
        }
    }

    /// Those who wait may try.
    fn tell(&self) {
        let now = Instant::now();
        self.0.news.send_if_modified(|last| {
            let is_news = last.is_none_or(|last| now.saturating_duration_since(last) > NEWS);
            if is_news {
                *last = Some(now);
            }
            is_news
        });
    }

    fn known(&self, place: &Place) -> Known {
        self.ways().get(place).copied().unwrap_or_default()
    }

    /// UDP does not pass.
    fn shut(&self, place: &Place) {
        let mut ways = self.ways();
        let known = ways.entry(place.clone()).or_default();
        let now = Instant::now();
        let before = match *known {
            // Another session has found out at the same time.
            Known::Shut(_, until) if now < until => return,
            Known::Shut(times, _) => times,
            Known::Nothing | Known::Open(_) => 0,
        };
        let rest = FIRST_REST.saturating_mul(2u32.saturating_pow(before)).min(LONGEST_REST);
        let spread = random::up_to(u64::try_from(rest.as_millis()).unwrap_or(u64::MAX) / 4);
        *known = Known::Shut(before.saturating_add(1), now + rest + Duration::from_millis(spread));
        tracing::info!(address = %place.address, ?rest, "UDP does not pass; TLS it is for a while");
    }

    fn ways(&self) -> MutexGuard<'_, HashMap<Place, Known>> {
        self.0.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn patience(round_trip: Duration) -> Duration {
    (3 * round_trip).max(LEAST_START)
}

async fn greeted(stream: TlsStream<TcpStream>) -> Result<AtWire, Unreached> {
    Wire::open(Way(Kind::Tls(Box::new(stream)))).await.map_err(Unreached::Greeting)
}

impl Way {
    /// Whether it is a stream of a QUIC connection.
    #[must_use]
    pub fn is_quic(&self) -> bool {
        matches!(self.0, Kind::Quic(_))
    }
}

impl AsyncRead for Way {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Kind::Quic(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Way {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Quic(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Quic(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Quic(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
