//! From a listening socket to a session: a place, a handshake, which protocol, and whose atServer is meant.
//!
//! An address has two doors: TCP with TLS, and QUIC on the UDP port of the same number.

mod quic;
mod resets;
mod tls;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use at_protocol::AtSign;
use atedge_service::tls::{BothCertificates, ClientCertificates, TlsError};
use rustls::CipherSuite;
use rustls::server::ClientHello;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::node::Node;

pub(crate) use resets::ResetKey;
pub(crate) use tls::Protocol;

/// What is said, without a greeting, to who finds no place (atProtocol wire reference §2.4).
pub(crate) const FULL: &str = "error:AT0012-Inbound connection limit exceeded\n";
/// How many numbers the system may choose, if it is to choose one, before one is free for UDP, too.
const TRIES: usize = 32;

/// What is shown to those who connect, over TCP and over QUIC.
#[derive(Clone)]
pub(crate) struct Shown {
    /// Over TCP, with the order of suites that the client asks for.
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// Over TCP, with the server's own order.
    ordered: Arc<rustls::ServerConfig>,
    pub(crate) quic: Arc<rustls::ServerConfig>,
}

impl Shown {
    /// With these certificates; and others may show theirs.
    pub(crate) fn of(certificates: &Arc<BothCertificates>) -> Result<Self, TlsError> {
        let tls = certificates.server_config(ClientCertificates::Recorded, &Protocol::OFFERED)?;
        let mut ordered = rustls::ServerConfig::clone(&tls);
        ordered.ignore_client_order = true;
        Ok(Self {
            tls,
            ordered: Arc::new(ordered),
            quic: certificates.server_config(ClientCertificates::Recorded, &quic::OFFERED)?,
        })
    }
}

impl Shown {
    /// For a client over TCP: who begins with ChaCha20 has a processor without AES and knows best.
    fn tls_for(&self, hello: &ClientHello<'_>) -> Arc<rustls::ServerConfig> {
        let first = hello.cipher_suites().first();
        let is_chacha = first.is_some_and(|suite| {
            [
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ]
            .contains(suite)
        });
        Arc::clone(if is_chacha { &self.tls } else { &self.ordered })
    }
}

/// The sockets of an address.
pub(crate) struct Bound {
    tcp: TcpListener,
    /// Of the same number; none where QUIC is turned off.
    udp: Option<UdpSocket>,
}

impl Bound {
    /// Takes an address. If its port is 0, one is chosen that is free for both.
    pub(crate) async fn to(address: SocketAddr, quic: bool) -> io::Result<Self> {
        for _ in 1..TRIES {
            match Self::once(address, quic).await {
                Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                tried => return tried,
            }
        }
        Self::once(address, quic).await
    }

    async fn once(address: SocketAddr, quic: bool) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let taken = |error: io::Error| io::Error::new(error.kind(), format!("UDP: {error}"));
        let udp = if quic { Some(quic::bind(tcp.local_addr()?).map_err(taken)?) } else { None };
        Ok(Self { tcp, udp })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// One address and what its connections need.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) node: Arc<Node>,
    pub(crate) shown: Shown,
    pub(crate) resets: ResetKey,
    /// Whose door it is, if it is one tenant's alone.
    pub(crate) tenant: Option<AtSign>,
    /// Where connections are counted, so that a stop can wait for them.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Door {
    /// Takes connections until the stop.
    pub(crate) fn open(self, bound: Bound) {
        let Bound { tcp, udp } = bound;
        if let Some(udp) = udp {
            self.tasks.spawn(self.clone().hear(udp));
        }
        self.tasks.clone().spawn(self.accept(tcp));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_is_found_for_both_and_a_taken_one_is_named() {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = Bound::to(nowhere, true).await.unwrap();
        let udp = bound.udp.as_ref().unwrap().local_addr().unwrap();
        assert_eq!(bound.address().unwrap(), udp);
        drop(bound.tcp);
        let taken = Bound::to(udp, true).await.err().unwrap();
        assert!(taken.to_string().starts_with("UDP: "), "{taken}");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert!(Bound::to(udp, false).await.unwrap().udp.is_none());
    }
}
