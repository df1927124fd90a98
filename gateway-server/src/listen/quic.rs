//! QUIC: many sessions on one connection, each in a bidirectional stream of its own.
//!
//! The protocol is chosen by ALPN; who names none of ours gets no connection. With `atp-client/1` each stream
//! is a session as behind TLS: greeted, authenticated by itself, and counted as a connection of its own,
//! because it costs the node as much. QUIC tells of a stream with its first byte, while servers speak first: so
//! a client opens one with a blank, which belongs to no line.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::peer::ALPN;
use aws_lc_rs::hmac::{HMAC_SHA256, Key};
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{
    Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming, MtuDiscoveryConfig,
    RecvStream, SendStream, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tokio::io::{AsyncWriteExt, Join, join};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{Door, FULL};
use crate::admission::{Place, Source};
use crate::node::Node;
use crate::peers::{congestion, serve_node};
use crate::random;
use crate::session::{Caller, serve};

/// The names that are offered by ALPN.
pub(super) const OFFERED: [&[u8]; 2] = [Spoken::CLIENT, ALPN];

/// Bytes of a UDP socket's buffers, as far as the system allows: what comes in 30 ms at a gigabit per second,
/// while the process waits for its turn.
const SOCKET: usize = 4 * 1024 * 1024;
/// Attempts that wait to be looked at, and the bytes that each, and all of them, may have sent besides the
/// first packet: a hello with post-quantum keys is two packets.
const INCOMING: usize = 1024;
const INCOMING_BYTES: u64 = 16 * 1024;
const INCOMING_BYTES_ALL: u64 = 8 * 1024 * 1024;
/// After this silence a connection is lost. Clients send a sign of life every third of it.
const SILENCE_MS: u32 = 30_000;
/// Bytes that may wait in a connection for each of its sessions, in either direction: what a TCP connection's
/// socket has from the start on Linux. At 80 ms it carries 1.6 MB a second.
const WINDOW: u32 = 128 * 1024;
/// Bytes that may wait to be read from one session, while others of its connection leave it theirs.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Sessions that a connection is given more room for, one after the other: 8 MiB, which at 80 ms carries
/// 100 MB a second.
const WINDOWS: usize = 64;
/// Streams that a new connection may open; each costs some forty bytes before it is opened.
const FIRST_STREAMS: usize = 16;
/// Streams that a connection may have open in the end; what each may take of the node is counted as for TCP.
const MOST_STREAMS: usize = 2048;
/// Bytes of a connection's number, of which packets carry one.
const NUMBER: usize = 8;
/// How long a session's last words may take to arrive, and how long those of a stopped server do.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a stop waits for sessions that are busy.
const BUSY: Duration = Duration::from_secs(10);

/// Why we end a connection.
#[derive(Debug, Clone, Copy)]
enum Reason {
    /// The server stops.
    Stop = 0,
    /// Nobody has a session on it.
    Unused = 1,
}

impl Reason {
    fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    fn words(self) -> &'static [u8] {
        match self {
            Self::Stop => b"the server stops",
            Self::Unused => b"no session",
        }
    }

    fn close(self, connection: &Connection) {
        connection.close(self.code(), self.words());
    }
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    /// Sessions of clients.
    Client,
    /// What another node has to say.
    Peer,
}

impl Spoken {
    const CLIENT: &[u8] = b"atp-client/1";

    fn of(chosen: Option<&[u8]>) -> Option<Self> {
        match chosen? {
            Self::CLIENT => Some(Self::Client),
            ALPN => Some(Self::Peer),
            _ => None,
        }
    }
}

/// Takes a UDP port.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    set_socket_recv_buffer_size(&socket, SOCKET)?;
    set_socket_send_buffer_size(&socket, SOCKET)?;
    Ok(socket)
}

impl Door {
    /// Takes connections over QUIC until the stop, and ends them then.
    pub(super) async fn hear(self, socket: UdpSocket) {
        let endpoint = match self.endpoint(socket) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                tracing::error!(%error, "QUIC is not served");
                return;
            }
        };
        let (connections, handshakes) = (TaskTracker::new(), TaskTracker::new());
        // Beyond, who connects must show first that it is where it says: one source's share.
        let mark = self.node.config.limits.node.handshakes / 4;
        loop {
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                () = self.stop.cancelled() => break,
            };
            let Some(incoming) = incoming else {
                tracing::error!("QUIC is not served any more: its socket failed");
                break;
            };
            if handshakes.len() >= mark && incoming.may_retry() && !incoming.remote_address_validated() {
                // It can only fail for one that has shown it.
                drop(incoming.retry());
                continue;
            }
            let place = self.node.admission.place(Source::from(incoming.remote_address().ip()));
            match place.filter(|place| !place.is_full) {
                None => incoming.refuse(),
                Some(place) => {
                    let met = self.clone().meet(incoming, place, handshakes.token());
                    connections.spawn(met);
                }
            }
        }
        endpoint.set_server_config(None);
        connections.close();
        drop(timeout(BUSY, connections.wait()).await);
        endpoint.close(Reason::Stop.code(), Reason::Stop.words());
        drop(timeout(FAREWELL, endpoint.wait_idle()).await);
    }

    fn endpoint(&self, socket: UdpSocket) -> io::Result<Endpoint> {
        let crypto = QuicServerConfig::try_from(Arc::clone(&self.shown.quic)).map_err(io::Error::other)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server
            .transport_config(Arc::new(transport()))
            .migration(true)
            .max_incoming(INCOMING)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES_ALL);
        let mut config = EndpointConfig::new(Arc::new(Key::new(HMAC_SHA256, self.resets.bytes())));
        config.cid_generator(|| Box::new(Numbers));
        Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))
    }

    /// Makes the handshake and serves the connection, which holds its place as long.
    async fn meet(self, incoming: Incoming, _place: Place, underway: TaskTrackerToken) {
        let source = Source::from(incoming.remote_address().ip());
        let (node, stop) = (&self.node, &self.stop);
        let shake = async {
            let _turn = node.admission.turn(source).await;
            incoming.accept()?.await
        };
        // On the heap, so that the connection does not carry its handshake along.
        let handshake = Box::pin(timeout(node.config.limits.node.handshake, shake));
        let connection = tokio::select! {
            shaken = handshake => match shaken {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "no handshake");
                    return;
                }
                Err(_) => return,
            },
            () = stop.cancelled() => return,
        };
        drop(underway);
        let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let Some(data) = data else { return };
        let by_name = || data.server_name.as_deref().and_then(|host| node.tenant_of_host(host));
        match Spoken::of(data.protocol.as_deref()) {
            Some(Spoken::Client) => {
                let tenant = self.tenant.clone().or_else(by_name);
                Clients { node: self.node, tenant, source, stop: self.stop }.serve(&connection).await;
            }
            Some(Spoken::Peer) => serve_node(self.node, connection, self.stop).await,
            // TLS agrees on none but those that are offered.
            None => Reason::Unused.close(&connection),
        }
    }
}

/// Connections have random numbers, and any could have been one of a former life.
struct Numbers;

impl ConnectionIdGenerator for Numbers {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&random::number::<NUMBER>())
    }

    fn cid_len(&self) -> usize {
        NUMBER
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let room = Allowance::of(0);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(room.streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(room.window))
        .send_window(room.window.into())
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .max_idle_timeout(Some(VarInt::from_u32(SILENCE_MS).into()))
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .congestion_controller_factory(congestion());
    transport
}

/// What a connection may take, which grows with the sessions on it: an idle stranger costs little, and all
/// connections together no more than their places, each less than two windows in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allowance {
    streams: u32,
    window: u32,
}

impl Allowance {
    fn of(sessions: usize) -> Self {
        let room = sessions.max(1).next_power_of_two();
        let number = |many: usize| u32::try_from(many).unwrap_or(u32::MAX);
        Self {
            streams: number((2 * room).clamp(FIRST_STREAMS, MOST_STREAMS)),
            window: number(room.min(WINDOWS)).saturating_mul(WINDOW),
        }
    }

    fn grant(self, connection: &Connection) {
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(self.streams));
        connection.set_receive_window(VarInt::from_u32(self.window));
        connection.set_send_window(self.window.into());
    }
}

/// A connection of a client's.
struct Clients {
    node: Arc<Node>,
    /// The tenant that the port or the host name decided.
    tenant: Option<AtSign>,
    source: Source,
    stop: CancellationToken,
}

impl Clients {
    /// Serves its sessions until either side ends it, it is of no use for a while, or the stop.
    async fn serve(self, connection: &Connection) {
        let mut sessions = JoinSet::new();
        let mut granted = Allowance::of(0);
        loop {
            tokio::select! {
                accepted = connection.accept_bi() => match accepted {
                    Ok((send, recv)) => {
                        let session = self.session(join(recv, send), connection.remote_address());
                        sessions.spawn(session);
                    }
                    // They see it, too.
                    Err(_) => break,
                },
                Some(_) = sessions.join_next() => {}
                () = tokio::time::sleep(self.node.config.limits.node.login), if sessions.is_empty() => {
                    Reason::Unused.close(connection);
                    return;
                }
                () = self.stop.cancelled() => break,
            }
            let allowed = Allowance::of(sessions.len());
            if allowed != granted {
                granted = allowed;
                granted.grant(connection);
            }
        }
        while sessions.join_next().await.is_some() {}
        Reason::Stop.close(connection);
    }

    /// Serves one session in its stream.
    fn session(
        &self,
        mut stream: Join<RecvStream, SendStream>,
        address: SocketAddr,
    ) -> impl Future<Output = ()> + use<> {
        let place = self.node.admission.place(self.source);
        let (node, stop) = (Arc::clone(&self.node), self.stop.clone());
        let caller = Caller { tenant: self.tenant.clone(), certificate: None, address: Some(address) };
        async move {
            match &place {
                Some(place) if !place.is_full => serve(&mut stream, node, caller, stop).await,
                // Who does not read it has left.
                Some(_) => drop(timeout(FAREWELL, stream.write_all(FULL.as_bytes())).await),
                None => return,
            }
            let (_, mut send) = stream.into_inner();
            // It fails for one that was finished before; and then what was said is on its way.
            drop(send.finish());
            drop(timeout(FAREWELL, send.stopped()).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_grows_with_the_sessions_and_no_further() {
        let of = |sessions| {
            let Allowance { streams, window } = Allowance::of(sessions);
            (streams, window / WINDOW)
        };
        assert_eq!([0, 1, 2, 3, 8, 9].map(of), [(16, 1), (16, 1), (16, 2), (16, 4), (16, 8), (32, 16)]);
        assert_eq!([100, 1024, 100_000].map(of), [(256, 64), (2048, 64), (2048, 64)]);
        let small = |sessions: u32| {
            let Allowance { window, .. } = Allowance::of(sessions as usize);
            window < 2 * WINDOW * (sessions + 1)
        };
        assert!((0..1000).all(small), "a place each, and one for the connection");
    }
}
