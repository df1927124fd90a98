//! TLS over TCP: one connection, one session.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use at_protocol::peer::ALPN;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Door, FULL, Shown};
use crate::admission::Source;
use crate::node::Node;
use crate::peers::{Certificate, Served, Visitor};
use crate::session::{Caller, serve};
use crate::web;

/// The pause after an `accept` that failed, for want of file descriptors most likely: long enough not to
/// turn in circles, and what is open goes on meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What is spoken behind TLS, by ALPN (atProtocol wire reference §2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The protocol of atServers, which is also meant by who asks for nothing.
    At,
    /// HTTP and WebSocket.
    Http,
    /// What another node has to say, to whom UDP does not pass: one stream.
    Peer,
}

impl Protocol {
    /// The names that are offered, the preferred one first.
    pub(crate) const OFFERED: [&[u8]; 3] = [b"atProtocol/1.0", Self::HTTP, ALPN];
    const HTTP: &[u8] = b"http/1.1";

    fn of(chosen: Option<&[u8]>) -> Self {
        match chosen {
            Some(Self::HTTP) => Self::Http,
            Some(ALPN) => Self::Peer,
            Some(_) | None => Self::At,
        }
    }
}

impl Door {
    /// Takes connections over TCP until the stop.
    pub(super) async fn accept(self, listener: TcpListener) {
        let mut is_failing = false;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((tcp, address)) => {
                    is_failing = false;
                    self.tasks.spawn(self.clone().welcome(tcp, address));
                }
                Err(error) => {
                    if !is_failing {
                        tracing::warn!(%error, "cannot accept connections for now");
                    }
                    is_failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn welcome(self, tcp: TcpStream, address: SocketAddr) {
        let Self { node, shown, tenant, stop, .. } = self;
        let source = Source::from(address.ip());
        let Some(place) = node.admission.place(source) else { return };
        // On the heap, so that the connection does not carry its handshake along.
        let handshake =
            Box::pin(timeout(node.config.limits.node.handshake, shake(&node, &shown, tcp, source)));
        let mut stream = tokio::select! {
            shaken = handshake => match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "no handshake");
                    return;
                }
                Err(_) => return,
            },
            () = stop.cancelled() => return,
        };
        let (_, tls) = stream.get_ref();
        let by_name = || tls.server_name().and_then(|host| node.tenant_of_host(host));
        let tenant = tenant.or_else(by_name);
        let protocol = Protocol::of(tls.alpn_protocol());
        if place.is_full {
            // Who does not read it has left.
            let told = async {
                stream.write_all(protocol.full().as_bytes()).await?;
                stream.shutdown().await
            };
            drop(timeout(Duration::from_secs(1), told).await);
            return;
        };
        let shown = tls.peer_certificates().filter(|chain| !chain.is_empty());
        let certificate =
            shown.map(|chain| Certificate(chain.iter().map(|one| one.clone().into_owned()).collect()));
        let caller = Caller { tenant, certificate, address: Some(address) };
        match protocol {
            Protocol::At => serve(stream, node, caller, stop).await,
            Protocol::Http => Box::pin(web::serve(stream, node, caller, stop)).await,
            Protocol::Peer => {
                let Some(visitor) = Visitor::of(node, &caller) else { return };
                if let Served::Moves(atsign) = Box::pin(visitor.serve(&mut stream, stop)).await {
                    visitor.hand_on(atsign, stream);
                }
            }
        }
    }
}

/// The hello is read before it is the source's turn: until then the connection costs no more than its place.
async fn shake(
    node: &Node,
    shown: &Shown,
    tcp: TcpStream,
    source: Source,
) -> io::Result<TlsStream<TcpStream>> {
    tcp.set_nodelay(true)?;
    let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
    let _turn = node.admission.turn(source).await;
    let tls = shown.tls_for(&hello.client_hello());
    hello.into_stream(tls).await
}

impl Protocol {
    fn full(self) -> &'static str {
        match self {
            Self::At | Self::Peer => FULL,
            Self::Http => {
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            }
        }
    }
}
