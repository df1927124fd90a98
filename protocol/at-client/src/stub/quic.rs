//! The town's server over QUIC.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use at_protocol::crypto::Ed25519Secret;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime, VarInt};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::join;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::{Town, connection};

/// The way over UDP, on the number of the TCP port. It is closed with it.
pub(crate) struct Tunnel {
    endpoint: Endpoint,
    /// Where streams came from, one entry each.
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    tasks: JoinSet<()>,
}

impl Town {
    /// Serves QUIC, with a certificate of the town's.
    pub(crate) fn tunnel(&self) -> Tunnel {
        self.tunnel_as(&self.authority.server_tls("localhost", |_| ()))
    }

    /// Serves QUIC as somebody.
    pub(crate) fn tunnel_as(&self, tls: &TlsAcceptor) -> Tunnel {
        let mut tls = rustls::ServerConfig::clone(tls.config());
        tls.alpn_protocols = vec![b"atp-client/1".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let socket = UdpSocket::bind(("127.0.0.1", self.server.port())).unwrap();
        let server = Some(ServerConfig::with_crypto(Arc::new(crypto)));
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(EndpointConfig::default(), server, socket, runtime).unwrap();
        let (ear, world) = (endpoint.clone(), Arc::clone(&self.world));
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let streams = Arc::clone(&seen);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Some(incoming) = ear.accept().await {
                let (world, streams) = (Arc::clone(&world), Arc::clone(&streams));
                connections.spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    let mut sessions = JoinSet::new();
                    while let Ok((send, recv)) = connection.accept_bi().await {
                        streams.lock().unwrap().push(connection.remote_address());
                        sessions.spawn(connection::serve(join(recv, send), Arc::clone(&world)));
                    }
                });
            }
        });
        Tunnel { endpoint, seen, tasks }
    }
}

impl Tunnel {
    pub(crate) fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Where streams came from.
    pub(crate) fn seen(&self) -> Vec<SocketAddr> {
        self.seen.lock().unwrap().clone()
    }

    /// Goes, and says so; the port is free again then.
    pub(crate) async fn close(self) {
        let Self { endpoint, mut tasks, .. } = self;
        let address = endpoint.local_addr().unwrap();
        endpoint.close(VarInt::from_u32(0), b"the server stops");
        endpoint.wait_idle().await;
        tasks.shutdown().await;
        drop(endpoint);
        while UdpSocket::bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    }
}

/// A node's key, and what it shows to those who know it.
pub(crate) fn node(first: u8) -> (Ed25519Secret, TlsAcceptor) {
    let secret = Ed25519Secret::from_seed(&Zeroizing::new([first; 32]));
    let key = KeyPair::from_pem(&secret.to_pem()).unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    (secret, TlsAcceptor::from(Arc::new(config)))
}
