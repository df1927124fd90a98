//! Connections between nodes over QUIC: one for each pair of nodes, whatever they host, with a stream for each
//! pair of atSigns that have something to say.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use at_client::pin::{self, pinned};
use at_protocol::crypto::Ed25519Public;
use at_protocol::peer::ALPN;
use atedge_service::tls::NodeIdentity;
use quinn::congestion::NewRenoConfig;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::io::{Join, join};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::arrival::{Served, Visitor};
use crate::node::Node;

/// After this silence a connection is lost.
const SILENCE_MS: u32 = 20_000;
/// A sign of life, so often that two may be lost on the way before the other end gives up.
const SIGN_OF_LIFE: Duration = Duration::from_secs(6);
/// Streams that the other node may open at first. Room is kept for each, opened or not.
const FIRST_STREAMS: u32 = 16;
/// Streams that the other node may have open in the end: more pairs than that take turns.
const MOST_STREAMS: u32 = 4096;
/// Bytes that may wait on one stream: a window of lines of 4 KiB.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Bytes that may wait on one connection in either direction: at 80 ms they carry 200 MB a second.
const WINDOW: u32 = 16 * 1024 * 1024;
/// Streams that are refused to a node that was never found to speak for anybody, before it is sent away: each may
/// cost a question to the directory.
const MOST_REFUSED: usize = 16;
/// Bytes that are sent before the first is acknowledged: thirty-two packets.
const INITIAL_WINDOW: u64 = 32 * 1200;
/// How long last words may take to arrive.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a connection is closed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reason {
    /// The server stops.
    Stop = 0,
    /// No stream was open for a while.
    Unused = 1,
    /// The other end showed no node's certificate.
    Nameless = 2,
    /// It spoke for nobody that it serves, again and again.
    Unwelcome = 3,
    /// Its node has made another.
    Replaced = 4,
}

/// Both halves of a stream.
pub(super) type Stream = Join<quinn::RecvStream, quinn::SendStream>;

/// An endpoint for connections to other nodes, on a port of its own.
pub(super) fn endpoint() -> io::Result<Endpoint> {
    // Where there is IPv6, it reaches IPv4 as well.
    Endpoint::client(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        .or_else(|_| Endpoint::client(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
}

/// Connects to exactly the node that has this key.
pub(super) async fn connect(
    endpoint: &Endpoint,
    identity: &Arc<NodeIdentity>,
    key: &Ed25519Public,
    (address, host): (SocketAddr, &str),
) -> io::Result<Connection> {
    let shown = Arc::clone(identity) as Arc<dyn rustls::client::ResolvesClientCert>;
    let mut crypto = pinned(key, Some(shown), ALPN);
    // Tickets would be kept with the connection, and could be used on no other.
    crypto.resumption = rustls::client::Resumption::disabled();
    let crypto = QuicClientConfig::try_from(crypto).map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    let connecting = endpoint.connect_with(config, address, host).map_err(io::Error::other)?;
    let connection = connecting.await?;
    grant(&connection);
    Ok(connection)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(FIRST_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .keep_alive_interval(Some(SIGN_OF_LIFE))
        .max_idle_timeout(Some(VarInt::from_u32(SILENCE_MS).into()))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .congestion_controller_factory(congestion());
    transport
}

/// How the rate follows what is lost: as that of a few dozen connections would, one for each pair of atSigns, which
/// this one stands for. Each loss takes a fiftieth of the window, not half of it: so a loss that has nothing to do
/// with congestion, as over radio, costs little, and a link that is full is still noticed and given way on.
pub(crate) fn congestion() -> Arc<NewRenoConfig> {
    let mut config = NewRenoConfig::default();
    config.initial_window(INITIAL_WINDOW).loss_reduction_factor(0.98);
    Arc::new(config)
}

/// How many streams a node may have open of which so many are: as many again, so that new ones need not wait.
fn room_for(open: usize) -> u32 {
    let open = u32::try_from(open).unwrap_or(u32::MAX);
    open.saturating_mul(2).clamp(FIRST_STREAMS, MOST_STREAMS).next_power_of_two()
}

/// What a node may take that was found to speak for somebody.
fn grant(connection: &Connection) {
    connection.set_receive_window(VarInt::from_u32(WINDOW));
    connection.set_send_window(WINDOW.into());
}

/// The key that the other end has proved.
pub(crate) fn key_of(connection: &Connection) -> Option<Ed25519Public> {
    let shown = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    pin::key(shown.first()?)
}

/// Says why, and closes.
pub(super) fn close(connection: &Connection, reason: Reason) {
    let words: &[u8] = match reason {
        Reason::Stop => b"the server stops",
        Reason::Unused => b"unused",
        Reason::Nameless => b"no node's certificate was shown",
        Reason::Unwelcome => b"too many streams were refused",
        Reason::Replaced => b"another was made",
    };
    connection.close(VarInt::from_u32(reason as u32), words);
}

/// Opens a stream.
pub(super) async fn open(connection: &Connection) -> io::Result<Stream> {
    let (send, recv) = connection.open_bi().await?;
    Ok(join(recv, send))
}

/// Serves the connections that are made from here, until the stop.
pub(crate) async fn serve_made(node: Arc<Node>, stop: CancellationToken) {
    let Some(mut made) = node.links().ok().and_then(|links| links.nodes().to_serve()) else { return };
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            connection = made.recv() => match connection {
                Some(connection) => {
                    serving.spawn(converse(Arc::clone(&node), connection, stop.clone(), true));
                }
                None => break,
            },
            Some(_) = serving.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    while serving.join_next().await.is_some() {}
}

/// Serves the streams of a connection that another node has made, until either end closes it, or the stop.
pub(crate) async fn serve(node: Arc<Node>, connection: Connection, stop: CancellationToken) {
    converse(node, connection, stop, false).await;
}

/// Serves the streams of a connection, whichever end has made it. `is_known` says whether the other end is one
/// that we wanted to reach.
async fn converse(node: Arc<Node>, connection: Connection, stop: CancellationToken, mut is_known: bool) {
    let Some(key) = key_of(&connection) else {
        close(&connection, Reason::Nameless);
        return;
    };
    let address = Some(connection.remote_address());
    let known = CancellationToken::new();
    let visitor = Visitor { node: Arc::clone(&node), key: key.clone(), address, known: known.clone() };
    let (mut streams, mut refused, mut granted) = (JoinSet::new(), 0, FIRST_STREAMS);
    loop {
        tokio::select! {
            accepted = connection.accept_bi() => match accepted {
                Ok((send, recv)) => {
                    let (visitor, stop) = (visitor.clone(), stop.clone());
                    streams.spawn(async move {
                        let mut stream = join(recv, send);
                        // Who moves comes by a connection of its own.
                        let is_admitted = matches!(visitor.serve(&mut stream, stop).await, Served::Done);
                        let (_, mut send) = stream.into_inner();
                        // It fails for one that was finished before; and then what was said is on its way.
                        drop(send.finish());
                        drop(timeout(FAREWELL, send.stopped()).await);
                        is_admitted
                    });
                }
                // They see it, too.
                Err(_) => break,
            },
            Some(ended) = streams.join_next() => {
                refused += usize::from(!ended.unwrap_or(false));
                if !is_known && refused >= MOST_REFUSED {
                    return close(&connection, Reason::Unwelcome);
                }
            }
            () = tokio::time::sleep(node.config.limits.node.login), if !is_known && streams.is_empty() => {
                return close(&connection, Reason::Unused);
            }
            () = known.cancelled(), if !is_known => {
                is_known = true;
                grant(&connection);
                node.met(&key, &connection);
            }
            () = stop.cancelled() => break,
        }
        let room = room_for(streams.len());
        if is_known && room > granted {
            granted = room;
            connection.set_max_concurrent_bi_streams(VarInt::from_u32(room));
        }
    }
    while streams.join_next().await.is_some() {}
    close(&connection, Reason::Stop);
}

impl Node {
    /// The connection of another node can be used to reach that.
    fn met(&self, key: &Ed25519Public, connection: &Connection) {
        if let Ok(links) = self.links() {
            links.nodes().met(key, connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_as_many_streams_again_up_to_a_bound() {
        assert_eq!([0, 8, 9, 1000, 2048, usize::MAX].map(room_for), [16, 16, 32, 2048, 4096, 4096]);
    }
}
