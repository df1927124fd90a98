//! QUIC to atServers: one connection for all sessions that lead to the same place, each in a stream of its own
//! (ALPN `atp-client/1`).
//!
//! What a server shows is checked as over TLS. A connection outlives a change of our address: the socket is
//! bound to none, so that its packets leave by whatever way there is, and the server follows them.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::Address;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, MtuDiscoveryConfig, RecvStream, SendStream,
    TransportConfig, VarInt,
};
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf, join};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::pin::pinned;
use crate::tls::{ClientTls, DialError, resolve};

/// What is spoken, by ALPN.
const PROTOCOL: &[u8] = b"atp-client/1";
/// A stream's first byte, which belongs to no line: QUIC tells the server of a stream with it, and servers
/// speak first.
const OPENING: &[u8] = b" ";
/// After this silence a connection is lost.
const SILENCE_MS: u32 = 30_000;
/// After this silence a sign of life goes out: before NATs forget us (most after 30 s, RFC 9308 §3.2), and after any
/// monitor has sent its own. What is lost of it is repeated within a second.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Bytes that may wait to be read from one session: at 80 ms it carries 3.2 MB a second.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes that may wait in a connection, in either direction: 32 sessions that nobody reads.
const WINDOW: u32 = 8 * 1024 * 1024;
/// How long one attempt may take. First packets are repeated ever more seldom: after so long a new attempt is
/// found sooner by a way that has come back.
const ATTEMPT: Duration = Duration::from_secs(4);
/// An attempt that is older is made anew once the host is known to be there.
const STALE: Duration = Duration::from_millis(500);

/// Where a connection leads, and who must be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Host and UDP port.
    pub(crate) address: Address,
    /// The node's key; without, an authority vouches for the host's name.
    pub(crate) node: Option<Ed25519Public>,
}

/// All connections of a process.
pub(crate) struct Carrier {
    tls: ClientTls,
    transport: Arc<TransportConfig>,
    /// Made when it is first needed: not every client has a way over UDP, or wants one.
    endpoint: Mutex<Option<Endpoint>>,
    lanes: Mutex<HashMap<Place, Arc<Lane>>>,
}

/// What leads to one place.
#[derive(Default)]
struct Lane {
    /// Held by who connects.
    line: tokio::sync::Mutex<Line>,
    /// The host can be reached: what was asked before is asked again.
    hurry: Notify,
}

#[derive(Default)]
struct Line {
    connection: Option<Connection>,
    /// One that seems to lead nowhere. It ends when there is another, so that what is on it moves over.
    suspected: Option<Connection>,
}

/// A connection, for what can be told of it.
#[derive(Clone)]
pub(crate) struct Carriage(Connection);

/// A session's stream.
pub(crate) struct QuicStream {
    stream: Join<RecvStream, SendStream>,
    connection: Carriage,
    /// Whether the connection was made for it.
    pub(crate) is_first: bool,
}

impl Carrier {
    pub(crate) fn new(tls: ClientTls) -> Self {
        Self { tls, transport: Arc::new(transport()), endpoint: Mutex::default(), lanes: Mutex::default() }
    }

    /// A stream to `place`, over the connection that is there or over a new one.
    ///
    /// # Errors
    /// There is no connection within `patience`, or it takes no more streams.
    pub(crate) async fn stream(&self, place: &Place, patience: Duration) -> Result<QuicStream, DialError> {
        let deadline = Instant::now() + patience;
        let late = || DialError::Timeout { address: place.address.clone(), waited: patience };
        let lane = self.lane(place);
        // Who comes while another connects waits for that.
        let (connection, is_first) = {
            let mut line = timeout_at(deadline, lane.line.lock()).await.map_err(|_| late())?;
            match line.connection.clone().filter(is_alive) {
                Some(connection) => (connection, false),
                None => {
                    let connection = self.connect(place, &lane, deadline).await?.ok_or_else(late)?;
                    line.connection = Some(connection.clone());
                    if let Some(suspected) = line.suspected.take() {
                        suspected.close(VarInt::from_u32(0), b"another took its place");
                    }
                    (connection, true)
                }
            }
        };
        let failed = |error: ConnectionError| refusal(place, error);
        let opened = timeout_at(deadline, connection.open_bi()).await.map_err(|_| late())?;
        let (mut send, recv) = opened.map_err(failed)?;
        let told = send.write_all(OPENING).await;
        told.map_err(|error| DialError::Quic { address: place.address.clone(), source: error.into() })?;
        Ok(QuicStream { stream: join(recv, send), connection: Carriage(connection), is_first })
    }

    /// A connection seems to lead nowhere: the next stream will be on another.
    pub(crate) async fn suspect(&self, place: &Place, connection: &Carriage) {
        let lane = self.lane(place);
        let mut line = lane.line.lock().await;
        // Somebody else may have seen to it.
        let is_meant = |there: &Connection| there.stable_id() == connection.0.stable_id();
        if line.connection.as_ref().is_some_and(is_meant) {
            line.suspected = line.connection.take();
        }
    }

    /// The host can be reached: what has waited for its answer for a while is asked again.
    pub(crate) fn hurry(&self, place: &Place) {
        self.lane(place).hurry.notify_waiters();
    }

    /// Waits until who waits since then is to ask again.
    pub(crate) async fn hurried(&self, place: &Place, since: Instant) {
        self.lane(place).hurried(since).await;
    }

    /// Ends all connections, and says so to their other ends.
    pub(crate) async fn close(&self, patience: Duration) {
        let endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(endpoint) = endpoint {
            endpoint.close(VarInt::from_u32(0), b"");
            drop(timeout(patience, endpoint.wait_idle()).await);
        }
    }

    /// How many connections there are; one in the making is none yet.
    pub(crate) fn open(&self) -> usize {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |lane: &&Arc<Lane>| {
            lane.line.try_lock().is_ok_and(|line| line.connection.as_ref().is_some_and(is_alive))
        };
        lanes.values().filter(is_open).count()
    }

    /// Our packets come from elsewhere from now on.
    #[cfg(test)]
    pub(crate) fn move_house(&self) {
        let endpoint = self.endpoint().unwrap();
        let here = endpoint.local_addr().unwrap().ip();
        endpoint.rebind(std::net::UdpSocket::bind((here, 0)).unwrap()).unwrap();
    }

    fn lane(&self, place: &Place) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lanes.entry(place.clone()).or_default())
    }

    /// Connects to the first address of the host that answers; `None` if none does by the deadline.
    async fn connect(
        &self,
        place: &Place,
        lane: &Lane,
        deadline: Instant,
    ) -> Result<Option<Connection>, DialError> {
        let Ok(addresses) = timeout_at(deadline, resolve(&place.address)).await else { return Ok(None) };
        let addresses = addresses?;
        let endpoint = self.endpoint().map_err(|source| no_way(place, source))?;
        let config = self.config(place)?;
        let mut last = None;
        while Instant::now() < deadline && last.is_none() {
            for (tried, address) in addresses.iter().enumerate() {
                let now = Instant::now();
                let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
                let share = (deadline.saturating_duration_since(now) / left).min(ATTEMPT);
                let connecting = endpoint.connect_with(config.clone(), *address, place.address.host());
                let connecting = match connecting {
                    Ok(connecting) => connecting,
                    Err(error) => {
                        last = Some(no_way(place, io::Error::other(error)));
                        continue;
                    }
                };
                tokio::select! {
                    connected = connecting => match connected {
                        Ok(connection) => return Ok(Some(connection)),
                        Err(error) => last = Some(refusal(place, error)),
                    },
                    () = sleep(share) => {}
                    () = lane.hurried(now) => {}
                }
            }
        }
        last.map_or(Ok(None), Err)
    }

    fn endpoint(&self) -> io::Result<Endpoint> {
        let mut endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = &*endpoint {
            return Ok(endpoint.clone());
        }
        // Both families through one socket, where this machine has both.
        let both = Endpoint::client(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
        let made = both.or_else(|_| Endpoint::client(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))?;
        Ok(endpoint.insert(made).clone())
    }

    fn config(&self, place: &Place) -> Result<ClientConfig, DialError> {
        let tls = match &place.node {
            Some(node) => Arc::new(pinned(node, None, PROTOCOL)),
            None => self.tls.speaking(PROTOCOL).rustls(),
        };
        let crypto =
            QuicClientConfig::try_from(tls).map_err(|error| no_way(place, io::Error::other(error)))?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::clone(&self.transport));
        Ok(config)
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(WINDOW.into())
        .max_idle_timeout(Some(VarInt::from_u32(SILENCE_MS).into()))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0);
    transport
}

fn is_alive(connection: &Connection) -> bool {
    connection.close_reason().is_none()
}

fn no_way(place: &Place, source: io::Error) -> DialError {
    DialError::Quic { address: place.address.clone(), source }
}

/// What a failed handshake, or a lost connection, means. Over QUIC rustls tells no more of a certificate than
/// an alert and words.
fn refusal(place: &Place, error: ConnectionError) -> DialError {
    let address = place.address.clone();
    let ConnectionError::TransportError(refused) = &error else { return no_way(place, error.into()) };
    let alert = u8::try_from(u64::from(refused.code).wrapping_sub(0x100)).map(AlertDescription::from);
    let of_certificate = matches!(
        alert,
        Ok(AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError)
    );
    if !of_certificate {
        return no_way(place, error.into());
    }
    if place.node.is_some() {
        return DialError::WrongNode { address };
    }
    if matches!(alert, Ok(AlertDescription::UnknownCA | AlertDescription::DecryptError)) {
        return DialError::UnknownIssuer { address };
    }
    DialError::Certificate { address, what: refused.reason.clone() }
}

impl Lane {
    async fn hurried(&self, since: Instant) {
        loop {
            self.hurry.notified().await;
            // What was asked a moment ago is on its way.
            if since.elapsed() > STALE {
                return;
            }
        }
    }
}

impl Carriage {
    /// How long a word and its answer take.
    pub(crate) fn round_trip(&self) -> Duration {
        self.0.rtt()
    }
}

impl QuicStream {
    /// What it is a stream of.
    pub(crate) fn connection(&self) -> Carriage {
        self.connection.clone()
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
