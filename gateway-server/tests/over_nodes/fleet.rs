//! Nodes of a fleet on loopback, with a directory that says what it is told, and their owners.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use at_client::tls::{ClientTls, Trust, dial};
use at_client::wire::Said;
use at_client::{Directory, RecordKeeper, TlsWire, Wire};
use at_protocol::crypto::{Ed25519Public, Ed25519Secret, cram_digest};
use at_protocol::directory::{
    Address, EXTENDED, Grant, Location, Registrar, Registrars, SignedRecord, VerifiedRecord,
};
use at_protocol::notification::Frame;
use at_protocol::{AtSign, Timestamp};
use atedge_server::{Identity, Offline, Running, Server, ServerConfig, ServerTls};
use atedge_service::tls::{ClientCertificates, DevAuthority};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

const SECRET: &str = "open sesame";
/// Beyond this a test has failed; no test waits so long to succeed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn atsign(text: &str) -> AtSign {
    text.parse().expect("an atSign")
}

pub(crate) fn key(first: u8) -> Ed25519Secret {
    Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
}

/// The registrar of the fleet.
pub(crate) fn registrar() -> Ed25519Secret {
    key(1)
}

/// A directory for records, and the authority of all certificates.
pub(crate) struct Fleet {
    folder: tempfile::TempDir,
    pub(crate) authority: DevAuthority,
    directory: SocketAddr,
    /// What it answers about whom.
    pub(crate) answers: Arc<Mutex<HashMap<AtSign, String>>>,
    tasks: JoinSet<()>,
}

/// One node, which may be stopped and started again.
pub(crate) struct Node {
    config: ServerConfig,
    pub(crate) folder: std::path::PathBuf,
    running: Option<(Running, CancellationToken)>,
    pub(crate) address: SocketAddr,
    pub(crate) secret: Ed25519Secret,
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir().expect("a folder");
        let authority = DevAuthority::open_or_create(folder.path(), &[]).expect("an authority");
        let config = authority.server_config(ClientCertificates::Ignored).expect("a certificate");
        let mut config = rustls::ServerConfig::clone(&config);
        config.alpn_protocols = vec![EXTENDED.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let directory = listener.local_addr().expect("an address");
        let answers = Arc::new(Mutex::new(HashMap::new()));
        let (mut tasks, known) = (JoinSet::new(), Arc::clone(&answers));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, known) = (acceptor.clone(), Arc::clone(&known));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let (mut stream, mut line) = (BufReader::new(stream), String::new());
                    stream.write_all(b"@").await.expect("a greeting");
                    while stream.read_line(&mut line).await.is_ok_and(|size| size > 0) {
                        let answer = format!("{}\r\n@", answer(&known, line.trim()));
                        line.clear();
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { folder, authority, directory, answers, tasks }
    }

    /// Starts a node that has a grant for everybody, and says by itself who is there.
    pub(crate) async fn house(&self, name: &str, atsigns: &[&str]) -> Node {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let identity = Identity::open(&ServerConfig::default().server, &folder).expect("a key");
        let file = folder.join("node.grant");
        std::fs::write(&file, grant(&identity.public()).to_string()).expect("a file");
        let more = format!("server.host = \"localhost\"\nserver.node_grant = {file:?}");
        let node = self.node(name, &[], &more).await;
        for atsign in atsigns {
            node.running().add_tenant(self::atsign(atsign), SECRET, None).await.expect("a new tenant");
            self.until(atsign, |record| *record.node() == node.public()).await;
        }
        node
    }

    /// What the directory has of an atSign.
    pub(crate) fn record(&self, atsign: &str) -> Option<SignedRecord> {
        let answers = self.answers.lock().expect("nobody panicked");
        answers.get(&self::atsign(atsign)).map(|text| text.parse().expect("a record"))
    }

    /// Waits until the directory has the record that is meant.
    pub(crate) async fn until(&self, atsign: &str, is_it: impl Fn(&SignedRecord) -> bool) {
        let waiting = async {
            while !self.record(atsign).is_some_and(|record| is_it(&record)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("the directory is told");
    }

    /// Whether the directory takes records.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.answers.lock().expect("nobody panicked").retain(|who, _| *who != atsign(DEAF));
        if deaf {
            self.answers.lock().expect("nobody panicked").insert(atsign(DEAF), String::new());
        }
    }

    /// The directory goes away.
    pub(crate) async fn close_directory(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Starts a node that hosts these atSigns, and has the directory know of them.
    pub(crate) async fn node(&self, name: &str, atsigns: &[&str], more: &str) -> Node {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let toml = format!(
            "{more}\nlisten.address = \"{}\"\nnotifications.ticker = \"0s\"\n\
             tls = {{ cert = {cert:?}, key = {cert:?} }}\n\
             directory = {{ address = \"localhost:{}\", ca = {:?} }}\n\
             server.registrars = [{{ key = \"{}\", atsigns = [\"*\"] }}]\n",
            free_address(),
            self.directory.port(),
            self.authority.ca(),
            registrar().public(),
            cert = self.authority.cert(),
        );
        let mut config: ServerConfig = toml::from_str(&toml).expect("a configuration");
        let running = start(&config, &folder).await;
        let address = running.0.address();
        config.listen.address = address;
        let pem = std::fs::read_to_string(folder.join("node.key")).expect("a key");
        let secret = Ed25519Secret::from_pem(&pem).expect("an Ed25519 key");
        let node = Node { config, folder, running: Some(running), address, secret };
        for atsign in atsigns {
            node.running().add_tenant(self::atsign(atsign), SECRET, None).await.expect("a new tenant");
            self.say(&node.record(atsign, 1));
        }
        node
    }

    /// Has the directory answer this.
    pub(crate) fn say(&self, record: &SignedRecord) {
        self.answers.lock().expect("nobody panicked").insert(record.atsign.clone(), record.to_string());
    }

    pub(crate) fn tls(&self) -> ClientTls {
        ClientTls::new(&Trust::Only(self.authority.ca()), None).expect("an authority")
    }

    /// The directory, for who trusts the registrar about everybody.
    pub(crate) fn trusted(&self) -> Directory {
        let everybody = vec!["*".parse().expect("a pattern")];
        let registrars = Registrars::new(vec![Registrar { key: registrar().public(), atsigns: everybody }]);
        let address = format!("localhost:{}", self.directory.port()).parse().expect("an address");
        Directory::new(address, self.tls()).trusting(registrars, [], Arc::new(Forgetful))
    }

    /// The owner of an atSign, by the activation secret.
    pub(crate) async fn owner(&self, node: &Node, atsign: &str) -> Owner {
        let address = format!("localhost:{}", node.address.port()).parse().expect("an address");
        let stream = dial(&address, &self.tls(), PATIENCE).await.expect("a connection");
        let mut wire = Wire::open(stream).await.expect("a greeting");
        let challenge = wire.request(&format!("from:{atsign}")).await.expect("a challenge");
        let answer = wire.request(&format!("cram:{}", cram_digest(SECRET, &challenge))).await;
        assert_eq!(answer.expect("let in"), "success");
        Owner { wire, atsign: atsign.to_owned() }
    }
}

/// Keeps no records.
struct Forgetful;

impl RecordKeeper for Forgetful {
    fn keep<'a>(&'a self, _: &'a Arc<VerifiedRecord>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(std::future::ready(()))
    }
}

/// An address for TCP and UDP. It is below the ports that the system hands out by itself, so that it is still
/// free when a node that was stopped takes it again.
fn free_address() -> SocketAddr {
    const FIRST: u32 = 20_000;
    const MANY: u32 = 12_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let candidate = || {
        let place = std::process::id().wrapping_mul(769).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(FIRST + place % MANY).expect("a port")))
    };
    let is_free = |address: &SocketAddr| {
        std::net::TcpListener::bind(address).is_ok() && std::net::UdpSocket::bind(address).is_ok()
    };
    std::iter::repeat_with(candidate).take(1000).find(is_free).expect("a free port")
}

/// Who stands in the directory while it takes no records.
const DEAF: &str = "@deaf";

/// What the directory answers: it takes a record whose number grows.
fn answer(known: &Mutex<HashMap<AtSign, String>>, line: &str) -> String {
    let mut known = known.lock().expect("nobody panicked");
    if let Some(name) = line.strip_prefix("record:") {
        let found = name.parse().ok().and_then(|name: AtSign| known.get(&name).cloned());
        return found.unwrap_or_else(|| "null".to_owned());
    }
    let Some(record) = line.strip_prefix("register:").and_then(|json| json.parse::<SignedRecord>().ok())
    else {
        return "null".to_owned();
    };
    if known.contains_key(&atsign(DEAF)) {
        return "error:not now".to_owned();
    }
    let before = known.get(&record.atsign).and_then(|text| text.parse::<SignedRecord>().ok());
    match before.filter(|before| before.at.seq >= record.at.seq && *before != record) {
        Some(before) => format!("error:number {} is known", before.at.seq),
        None => {
            let answer = format!("ok seq={}", record.at.seq);
            known.insert(record.atsign.clone(), record.to_string());
            answer
        }
    }
}

async fn start(config: &ServerConfig, folder: &Path) -> (Running, CancellationToken) {
    let stop = CancellationToken::new();
    let tls = ServerTls::load(config, folder).expect("certificates");
    let running = Server::start(config.clone(), tls, folder, stop.clone()).await.expect("a server");
    (running, stop)
}

impl Node {
    pub(crate) fn running(&self) -> &Running {
        &self.running.as_ref().expect("it runs").0
    }

    /// Its store, as another process sees it.
    pub(crate) async fn offline(&self) -> Offline {
        Offline::open(self.config.clone(), &self.folder).await.expect("a store")
    }

    pub(crate) fn public(&self) -> Ed25519Public {
        self.secret.public()
    }

    /// Where it says that one of its atSigns is.
    pub(crate) fn record(&self, atsign: &str, seq: u64) -> SignedRecord {
        record(&self.secret, atsign, self.address.port(), seq)
    }

    pub(crate) async fn stop(&mut self) {
        let (running, stop) = self.running.take().expect("it runs");
        stop.cancel();
        timeout(PATIENCE, running.finished()).await.expect("an end");
    }

    pub(crate) async fn start(&mut self) {
        self.running = Some(start(&self.config, &self.folder).await);
    }
}

/// A record signed by a node that the registrar has granted everybody.
pub(crate) fn record(node: &Ed25519Secret, atsign: &str, port: u16, seq: u64) -> SignedRecord {
    let grant = grant(&node.public());
    let end = grant.not_after;
    let address: Address = format!("localhost:{port}").parse().expect("an address");
    let at = Location { address, quic: port, seq, not_after: end };
    SignedRecord::sign(node, self::atsign(atsign), at, grant)
}

fn grant(node: &Ed25519Public) -> Grant {
    let end = Timestamp::from(std::time::SystemTime::now()).plus_millis(3_600_000);
    Grant::sign(&registrar(), node.clone(), vec!["*".parse().expect("a pattern")], end)
}

/// An owner's connection.
pub(crate) struct Owner {
    pub(crate) wire: TlsWire,
    atsign: String,
}

impl Owner {
    /// Says a line that succeeds.
    pub(crate) async fn says(&mut self, line: &str) -> String {
        self.wire.request(&line).await.unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Sends numbered notifications, whose repeats are known for repeats.
    pub(crate) async fn notifies(&mut self, to: &str, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let me = self.atsign.clone();
            let name = me.trim_start_matches('@').to_owned();
            let id = format!("ae1-{name}-{number}-1");
            self.says(&format!("notify:id:{id}:update:ttln:600000:{to}:n{number}.test{me}:v{number}")).await;
        }
    }

    /// How a notification fares, once it is this.
    pub(crate) async fn until_status(&mut self, id: &str, status: &str) {
        let waited = timeout(PATIENCE, async {
            while self.says(&format!("notify:status:{id}")).await != status {
                tokio::task::yield_now().await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{id} never was {status}"));
    }

    pub(crate) fn monitors(&mut self) {
        self.wire.tell(&"monitor:0 test");
    }

    /// The next notification that somebody has sent.
    pub(crate) async fn hears(&mut self) -> Frame {
        loop {
            let said = timeout(PATIENCE, self.wire.next()).await.expect("a notification");
            match said.expect("a connection") {
                // The server tells how far the commit log has grown since it started.
                Said::Notification(frame) if frame.id == "-1" => {}
                Said::Notification(frame) => return *frame,
                Said::Answer(_) => {}
            }
        }
    }

    /// The values of the next notifications.
    pub(crate) async fn hears_values(&mut self, count: usize) -> Vec<String> {
        let mut values = Vec::new();
        while values.len() < count {
            values.push(self.hears().await.value.expect("a value"));
        }
        values
    }
}
