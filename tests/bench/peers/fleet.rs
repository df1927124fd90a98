//! Nodes that find each other by signed records, and a directory that says what it is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use at_protocol::Timestamp;
use at_protocol::crypto::Ed25519Secret;
use at_protocol::directory::{EXTENDED, Grant, Location, SignedRecord};
use atedge_service::tls::{ClientCertificates, NodeIdentity};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::client::Client;
use crate::ground::{Ground, Holds, Host};

/// How long records hold.
const HOUR: u64 = 3_600_000;
/// Between two questions of how something fares.
const BEAT: Duration = Duration::from_millis(10);

/// What nodes have in common.
pub(super) struct Fleet<'a> {
    pub(super) ground: &'a Ground,
    registrar: Ed25519Secret,
    directory: SocketAddr,
    known: Known,
    gate: watch::Sender<bool>,
    /// Ends the directory.
    _tasks: JoinSet<()>,
}

/// Records by the atSigns that they are of, as lines.
type Known = Arc<Mutex<HashMap<String, String>>>;

/// One node of the fleet, a real server.
pub(super) struct Node<'a> {
    pub(super) host: Host<'a>,
    secret: Ed25519Secret,
}

/// A key of an Ed25519 pair that nobody else has.
pub(super) fn key(first: u16) -> Ed25519Secret {
    let mut seed = [0x5a; 32];
    seed[..2].copy_from_slice(&first.to_le_bytes());
    Ed25519Secret::from_seed(&Zeroizing::new(seed))
}

impl<'a> Fleet<'a> {
    /// No node yet, and a directory that knows nobody.
    pub(super) async fn start(ground: &'a Ground) -> Result<Self> {
        let config = ground.authority.server_config(ClientCertificates::Ignored)?;
        let mut config = rustls::ServerConfig::clone(&config);
        config.alpn_protocols = vec![EXTENDED.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let directory = listener.local_addr()?;
        let known = Known::default();
        let (gate, open) = watch::channel(true);
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let known = Arc::clone(&known);
            async move {
                let mut connections = JoinSet::new();
                while let Ok((tcp, _)) = listener.accept().await {
                    let (acceptor, known, open) = (acceptor.clone(), Arc::clone(&known), open.clone());
                    // Who hangs up has had enough.
                    connections.spawn(async move { answer(tcp, &acceptor, &known, open).await.ok() });
                }
            }
        });
        Ok(Self { ground, registrar: key(1), directory, known, gate, _tasks: tasks })
    }

    /// A node whose tenants are known to the directory. It does not run yet.
    pub(super) async fn prepare(&self, name: &str, letter: &'static str, tenants: usize) -> Result<Node<'a>> {
        let tables = format!(
            "[directory]\naddress = \"localhost:{}\"\nca = {:?}\n[server]\nregistrars = [{{ key = \"{}\", \
             atsigns = [\"*\"] }}]\n",
            self.directory.port(),
            self.ground.authority.ca(),
            self.registrar.public(),
        );
        let host = Host::with(self.ground, name, letter, Holds { tenants, keys: 0 }, &tables).await?;
        let identity = NodeIdentity::open_or_create(&host.state().join("node.key"))?;
        let secret = Ed25519Secret::from_pem(&std::fs::read_to_string(identity.path())?)?;
        let atsigns: Vec<String> = (0..tenants).map(|number| host.atsign(number)).collect();
        self.say(&secret, &atsigns, host.address.port())?;
        Ok(Node { host, secret })
    }

    /// The same, and it runs.
    pub(super) async fn node(&self, name: &str, letter: &'static str, tenants: usize) -> Result<Node<'a>> {
        let mut node = self.prepare(name, letter, tenants).await?;
        node.host.run()?;
        Ok(node)
    }

    /// The directory knows from now on that these are served by the node of this key.
    pub(super) fn say(&self, node: &Ed25519Secret, atsigns: &[String], port: u16) -> Result<()> {
        let end = Timestamp::from(SystemTime::now()).plus_millis(HOUR);
        let grant = Grant::sign(&self.registrar, node.public(), vec!["*".parse()?], end);
        for atsign in atsigns {
            let at = Location {
                address: format!("127.0.0.1:{port}").parse()?,
                quic: port,
                seq: 1,
                not_after: end,
            };
            let record = SignedRecord::sign(node, atsign.parse()?, at, grant.clone());
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(atsign.clone(), record.to_string());
        }
        Ok(())
    }

    /// Closed, the directory hears questions and answers none until it is open again.
    pub(super) fn set_open(&self, is_open: bool) {
        self.gate.send_replace(is_open);
    }

    /// A connection to the directory.
    pub(super) async fn ask_directory(&self) -> Result<Client> {
        let mut tls = rustls::ClientConfig::clone(&self.ground.tls);
        tls.alpn_protocols = vec![EXTENDED.to_vec()];
        Client::dial(self.directory, &Arc::new(tls)).await
    }
}

async fn answer(
    tcp: TcpStream,
    acceptor: &TlsAcceptor,
    known: &Known,
    mut open: watch::Receiver<bool>,
) -> Result<()> {
    tcp.set_nodelay(true)?;
    let (mut stream, mut line) = (BufReader::new(acceptor.accept(tcp).await?), String::new());
    stream.write_all(b"@").await?;
    stream.flush().await?;
    while stream.read_line(&mut line).await? > 0 {
        open.wait_for(|open| *open).await?;
        let name = line.trim().strip_prefix("record:").unwrap_or_default();
        let found = known.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        stream.write_all(format!("{}\r\n@", found.as_deref().unwrap_or("null")).as_bytes()).await?;
        stream.flush().await?;
        line.clear();
    }
    Ok(())
}

impl Node<'_> {
    /// That its tenants are reached at another port from now on.
    pub(super) fn moves_to(&self, fleet: &Fleet<'_>, atsigns: &[String], port: u16) -> Result<()> {
        fleet.say(&self.secret, atsigns, port)
    }
}

/// A notification with an id, under which it can be asked after.
pub(super) fn notify(id: &str, to: &str, from: &str, value: &str) -> String {
    format!("notify:id:{id}:update:ttln:600000:{to}:reading.bench{from}:{value}\n")
}

/// Waits until a notification of the client's has been delivered.
pub(super) async fn delivered(client: &mut Client, id: &str) -> Result<()> {
    while client.ask(&format!("notify:status:{id}\n")).await? != "data:delivered" {
        tokio::time::sleep(BEAT).await;
    }
    Ok(())
}
