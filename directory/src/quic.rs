//! QUIC between directories, on the UDP port of the same number. Both ends prove their node keys.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use at_client::pin::{self, pinned};
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Address, EXTENDED};
use atedge_service::files::write_private;
use atedge_service::tls::{BothCertificates, ClientCertificates, NodeIdentity};
use aws_lc_rs::hmac::{HMAC_SHA256, Key};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming,
    RecvStream, SendStream, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustls::pki_types::CertificateDer;
use tokio::io::{Join, join};
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use zeroize::Zeroizing;

use crate::desk::Desk;
use crate::follow::tell;

/// Connections at a time: a directory has few followers.
const CONNECTIONS: usize = 64;
/// Attempts that wait to be looked at, and the bytes that all of them may have sent besides the first packet.
const INCOMING: usize = 64;
const INCOMING_BYTES: u64 = 16 * 1024;
const INCOMING_BYTES_ALL: u64 = 512 * 1024;
/// After this silence a connection is lost.
const SILENCE_MS: u32 = 15_000;
/// A sign of life, so often that two may be lost on the way.
const SIGN_OF_LIFE: Duration = Duration::from_secs(4);
/// Streams that one end may open.
const STREAMS: u32 = 2;
/// Bytes that may wait in either direction: at 80 ms they carry 12 MB a second, 100,000 names.
const WINDOW: u32 = 1024 * 1024;
/// Bytes of a connection's number. They are random, so that any could have been one of a former life.
const NUMBER: usize = 8;
/// The file of the key by which former connections are ended, beside the node's.
const RESETS: &str = "quic.key";
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long last words may take to arrive.
const FAREWELL: Duration = Duration::from_secs(1);

/// Both halves of a stream.
pub(crate) type Stream = Join<RecvStream, SendStream>;

/// A connection that ends when it is dropped.
pub(crate) struct Dialled {
    endpoint: Endpoint,
    connection: Connection,
}

impl Drop for Dialled {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"");
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

/// Connects to exactly the node that has this key, and opens a stream.
pub(crate) async fn dial(
    address: &Address,
    node: &Ed25519Public,
    identity: &Arc<NodeIdentity>,
) -> io::Result<(Dialled, Stream)> {
    let shown = Arc::clone(identity) as Arc<dyn rustls::client::ResolvesClientCert>;
    let crypto = pinned(node, Some(shown), EXTENDED);
    let crypto = QuicClientConfig::try_from(crypto).map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for place in lookup_host((address.host(), address.port())).await? {
        let any = if place.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let endpoint = Endpoint::client(SocketAddr::new(any, 0))?;
        let shake = endpoint.connect_with(config.clone(), place, address.host()).map_err(io::Error::other)?;
        match timeout(HANDSHAKE, shake).await {
            Ok(Ok(connection)) => {
                let (send, recv) = connection.open_bi().await?;
                return Ok((Dialled { endpoint, connection }, join(recv, send)));
            }
            Ok(Err(error)) => failed = error.into(),
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}

/// Takes a UDP port.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(address)
}

/// Serves followers until the stop.
pub(crate) async fn hear(
    socket: UdpSocket,
    identity: Arc<NodeIdentity>,
    desk: Arc<Desk>,
    stop: CancellationToken,
) {
    let endpoint = match endpoint(socket, identity, &desk) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            tracing::error!(%error, "followers are not served");
            return;
        }
    };
    let mut followers = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(_) = followers.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let Some(incoming) = incoming else {
            tracing::error!("followers are not served any more: the socket failed");
            break;
        };
        if followers.len() >= CONNECTIONS {
            incoming.refuse();
            continue;
        }
        // Who connects shows first that it is where it says: followers can wait, and there is room for few.
        if incoming.may_retry() && !incoming.remote_address_validated() {
            drop(incoming.retry());
            continue;
        }
        let (desk, stop) = (Arc::clone(&desk), stop.clone());
        followers.spawn(async move {
            if let Err(error) = meet(incoming, &desk, &stop).await {
                debug!(%error, "a follower has gone");
            }
        });
    }
    endpoint.set_server_config(None);
    endpoint.close(VarInt::from_u32(0), b"the directory stops");
    drop(timeout(FAREWELL, endpoint.wait_idle()).await);
    followers.shutdown().await;
}

fn endpoint(socket: UdpSocket, identity: Arc<NodeIdentity>, desk: &Desk) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::new(Arc::new(reset_key(&identity.path().with_file_name(RESETS))?));
    config.cid_generator(|| Box::new(Numbers));
    let certificate = Arc::clone(&desk.in_force().rules.certificate);
    let tls = BothCertificates::new(certificate, identity)
        .server_config(ClientCertificates::Recorded, &[EXTENDED])
        .map_err(io::Error::other)?;
    let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(transport()))
        .max_incoming(INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_ALL);
    Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))
}

/// Connections have random numbers.
struct Numbers;

impl ConnectionIdGenerator for Numbers {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut number = [0; NUMBER];
        getrandom::fill(&mut number).expect("the system has random numbers");
        ConnectionId::new(&number)
    }

    fn cid_len(&self) -> usize {
        NUMBER
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The key by which a directory tells followers of its former life that it has gone (RFC 9000 §10.3), kept in
/// `file`: who was connected when it was killed need not wait for silence to become unbearable. Whoever has it can
/// end connections, and do nothing else to them.
fn reset_key(file: &Path) -> io::Result<Key> {
    let kept = std::fs::read(file).map(Zeroizing::new);
    if let Ok(kept) = kept
        && kept.len() == 32
    {
        return Ok(Key::new(HMAC_SHA256, &kept));
    }
    let mut fresh = Zeroizing::new([0; 32]);
    getrandom::fill(fresh.as_mut_slice())?;
    write_private(file, fresh.as_slice())?;
    Ok(Key::new(HMAC_SHA256, fresh.as_slice()))
}

async fn meet(incoming: Incoming, desk: &Desk, stop: &CancellationToken) -> io::Result<()> {
    let connection = timeout(HANDSHAKE, incoming.accept()?).await??;
    let shown = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer>>().ok());
    let key = shown.as_deref().and_then(|chain| chain.first()).and_then(pin::key);
    let is_welcome = || key.as_ref().is_some_and(|key| desk.is_follower(key));
    if !is_welcome() {
        let known = key.map(|key| key.to_string());
        tracing::warn!(from = %connection.remote_address(), key = known, "it may not follow");
        connection.close(VarInt::from_u32(1), b"you may not follow");
        return Ok(());
    }
    let (send, recv) = timeout(HANDSHAKE, connection.accept_bi()).await??;
    let told = tell(join(recv, send), desk, is_welcome, stop).await;
    connection.close(VarInt::from_u32(0), b"");
    told
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(WINDOW))
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .send_window(WINDOW.into())
        .max_idle_timeout(Some(VarInt::from_u32(SILENCE_MS).into()))
        .keep_alive_interval(Some(SIGN_OF_LIFE))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0);
    transport
}
