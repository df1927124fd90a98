//! From a listening socket to a session: TLS, and whose atServer is meant.

use std::sync::Arc;
use std::time::Duration;

use at_protocol::AtSign;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::Node;
use crate::peers::Certificate;
use crate::session::{Caller, serve};

/// The pause after an `accept` that failed, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One listener and what its connections need.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) node: Arc<Node>,
    pub(crate) acceptor: TlsAcceptor,
    /// Whose door it is, if it is one tenant's alone.
    pub(crate) tenant: Option<AtSign>,
    /// Where connections are counted, so that a stop can wait for them.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Door {
    /// Takes connections until the stop.
    pub(crate) async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((tcp, _)) => {
                    self.tasks.spawn(self.clone().welcome(tcp));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn welcome(self, tcp: TcpStream) {
        let Self { node, acceptor, tenant, stop, .. } = self;
        let Some(place) = node.take_place() else { return };
        let address = tcp.peer_addr().ok();
        if tcp.set_nodelay(true).is_err() {
            return;
        }
        // On the heap, so that the connection does not carry its handshake along.
        let handshake = Box::pin(timeout(node.config.limits.node.handshake, acceptor.accept(tcp)));
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
        if place.is_full {
            // Without a greeting (atProtocol wire reference §2.4); who does not read it has left.
            let full = b"error:AT0012-Inbound connection limit exceeded\n";
            let told = async {
                stream.write_all(full).await?;
                stream.shutdown().await
            };
            drop(timeout(Duration::from_secs(1), told).await);
            return;
        }
        let (_, tls) = stream.get_ref();
        let by_name = || tls.server_name().and_then(|host| node.tenant_of_host(host));
        let tenant = tenant.or_else(by_name);
        let shown = tls.peer_certificates().filter(|chain| !chain.is_empty());
        let certificate =
            shown.map(|chain| Certificate(chain.iter().map(|one| one.clone().into_owned()).collect()));
        serve(stream, node, Caller { tenant, certificate, address }, stop).await;
    }
}
