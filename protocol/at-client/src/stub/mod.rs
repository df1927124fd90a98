//! A town for the tests: a directory, and an atServer of several atSigns, over TLS on loopback.
//!
//! The server speaks through the real server session; behind it is a map. Connections can be made to break
//! at a chosen line, and the server can be given the habits of others.

mod connection;
mod quic;
mod script;
mod world;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use at_protocol::AtSign;
use at_protocol::crypto::{AesKey, RsaPrivateKey};
use at_protocol::directory::Address;
use at_protocol::keys::AtKeys;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub(crate) use quic::node;
pub(crate) use script::with_server;
pub(crate) use world::When;
use world::World;

use crate::{Client, ClientConfig, ClientTls, Directory, Trust};

const KEYS: &str = include_str!("../../../at-protocol/fixtures/enrolled.atKeys");

/// The activation secret of every atSign in town.
pub(crate) const SECRET: &str = "secret123";

/// A certificate authority and the folder where its certificate lies.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// Directory and server, which end with it.
pub(crate) struct Town {
    pub(crate) authority: Authority,
    pub(crate) directory: Arc<Directory>,
    pub(crate) server: Address,
    world: Arc<Mutex<World>>,
    directory_tasks: JoinSet<()>,
    _server_tasks: JoinSet<()>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file beside the certificate.
    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// TLS that trusts this authority alone.
    pub(crate) fn client_tls(&self) -> ClientTls {
        ClientTls::new(&Trust::Only(self.ca()), None).unwrap()
    }

    /// A server with a certificate for `name`, after `change`.
    pub(crate) fn server_tls(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Listens on a free port of `localhost` and has `serve` answer each connection.
pub(crate) async fn listen<F>(
    tls: TlsAcceptor,
    serve: impl Fn(TlsStream<TcpStream>) -> F + Send + 'static,
) -> (Address, JoinSet<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(stream) = tls.accept(tcp).await {
                connections.spawn(serve(stream));
            }
        }
    });
    (address, tasks)
}

impl Town {
    /// A town in which these atSigns are hosted and activated.
    pub(crate) async fn with(activated: &[&str]) -> Self {
        let town = Self::empty(activated).await;
        for name in activated {
            town.world().activate(&name.parse().unwrap(), &keys(name));
        }
        town
    }

    /// A town in which these atSigns are hosted.
    pub(crate) async fn empty(hosted: &[&str]) -> Self {
        let authority = Authority::new();
        let world = Arc::new(Mutex::new(World::default()));
        for name in hosted {
            world.lock().unwrap().host(name.parse().unwrap());
        }
        let served = Arc::clone(&world);
        let serve = move |stream| connection::serve(stream, Arc::clone(&served));
        let (server, server_tasks) = listen(authority.server_tls("localhost", |_| ()), serve).await;
        let (known, answer) = (Arc::clone(&world), server.clone());
        let serve = move |stream| answer_questions(stream, Arc::clone(&known), answer.clone());
        let (directory, directory_tasks) = listen(authority.server_tls("localhost", |_| ()), serve).await;
        let directory = Arc::new(Directory::new(directory, authority.client_tls()));
        Self { authority, directory, server, world, directory_tasks, _server_tasks: server_tasks }
    }

    /// What the server knows.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// A client with the keys that the atSign was activated with, and nothing in its caches.
    pub(crate) fn client(&self, name: &str) -> Client {
        Client::new(self.config(name, keys(name)))
    }

    pub(crate) fn config(&self, name: &str, keys: AtKeys) -> ClientConfig {
        ClientConfig {
            atsign: name.parse().unwrap(),
            keys: Arc::new(keys),
            directory: Arc::clone(&self.directory),
            dialer: self.authority.client_tls().into(),
        }
    }

    /// Waits until `count` lines that begin like this have been said.
    pub(crate) async fn hears(&self, line: &str, count: usize) {
        let mut heard = self.world().heard_so_far();
        let enough = |town: &Self| town.world().count(line) >= count;
        while !enough(self) {
            heard.changed().await.unwrap();
        }
    }

    /// The directory goes away.
    pub(crate) async fn close_directory(&mut self) {
        self.directory_tasks.shutdown().await;
    }
}

/// Keys that need no generating: those of the fixtures, which way round depends on the name.
pub(crate) fn keys(name: &str) -> AtKeys {
    let fixture = AtKeys::parse(KEYS).unwrap();
    let even = name.len().is_multiple_of(2);
    let copy = |key: &RsaPrivateKey| RsaPrivateKey::from_pkcs8_base64(&key.to_pkcs8_base64()).unwrap();
    AtKeys {
        pkam: copy(if even { &fixture.pkam } else { &fixture.encryption }),
        encryption: copy(if even { &fixture.encryption } else { &fixture.pkam }),
        self_key: AesKey::from_bytes([u8::try_from(name.len()).unwrap(); 32]),
        apkam_symmetric: fixture.apkam_symmetric,
        enrollment_id: None,
    }
}

async fn answer_questions(stream: TlsStream<TcpStream>, world: Arc<Mutex<World>>, server: Address) {
    let mut stream = BufReader::new(stream);
    if stream.write_all(b"@").await.is_err() {
        return;
    }
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|size| size > 0) {
        let hosted =
            line.trim().parse::<AtSign>().is_ok_and(|atsign| world.lock().unwrap().is_hosted(&atsign));
        let answer = if hosted { format!("{server}\r\n@") } else { "null\r\n@".to_owned() };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        line.clear();
    }
}
