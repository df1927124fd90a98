//! Sessions over QUIC, spoken byte by byte.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use at_protocol::crypto::cram_digest;
use atedge_server::{Running, Server, ServerConfig, ServerTls};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use rustls::RootCertStore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const SECRET: &str = "open sesame";
/// Beyond this a test has failed; no test waits so long to succeed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Town {
    running: Running,
    stop: CancellationToken,
    state: tempfile::TempDir,
}

impl Town {
    async fn start(more: &str) -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let toml = format!("{more}\nlisten.address = \"127.0.0.1:0\"\ntls.dev = true\n");
        let config: ServerConfig = toml::from_str(&toml).expect("a configuration");
        let tls = ServerTls::load(&config, state.path()).expect("certificates");
        let stop = CancellationToken::new();
        let running = Server::start(config, tls, state.path(), stop.clone()).await.expect("a server");
        for name in ["@alice", "@bob"] {
            let name = name.parse().expect("an atSign");
            running.add_tenant(name, SECRET, None).await.expect("a new tenant");
        }
        Self { running, stop, state }
    }

    /// How many connections the server counts.
    fn open(&self) -> usize {
        ["@alice", "@bob"]
            .map(|name| self.running.node().sessions().count(&name.parse().expect("an atSign")))
            .into_iter()
            .sum()
    }

    async fn connect(&self) -> Link {
        let address = self.running.address();
        dial(self.state.path(), address, "localhost", &[b"atp-client/1"]).await.expect("a connection")
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.finished().await;
    }
}

/// A connection and the endpoint that it lives on.
struct Link {
    connection: Connection,
    _endpoint: Endpoint,
}

async fn dial(
    state: &Path,
    address: SocketAddr,
    name: &str,
    protocols: &[&[u8]],
) -> Result<Link, ConnectionError> {
    let mut roots = RootCertStore::empty();
    let ca = atedge_service::tls::read_certificates(&state.join("ca.pem")).expect("an authority");
    roots.add_parsable_certificates(ca);
    let mut tls =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
    tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let crypto = QuicClientConfig::try_from(tls).expect("a suite for the first packets");
    let endpoint = Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a socket");
    let connecting = endpoint.connect_with(ClientConfig::new(Arc::new(crypto)), address, name);
    let connection = timeout(PATIENCE, connecting.expect("a name")).await.expect("an answer")?;
    Ok(Link { connection, _endpoint: endpoint })
}

impl Link {
    /// A stream that the server knows of.
    async fn stream(&self) -> Stream {
        let opened = timeout(PATIENCE, self.connection.open_bi()).await.expect("room for a stream");
        let (mut send, recv) = opened.expect("a stream");
        send.write_all(b" ").await.expect("a write");
        Stream { send, recv }
    }

    async fn session(&self) -> Stream {
        let mut stream = self.stream().await;
        stream.until("@").await;
        stream
    }

    async fn closed(&self) -> ConnectionError {
        timeout(PATIENCE, self.connection.closed()).await.expect("an end")
    }
}

struct Stream {
    send: SendStream,
    recv: RecvStream,
}

impl Stream {
    async fn write(&mut self, line: &str) {
        self.send.write_all(format!("{line}\n").as_bytes()).await.expect("a write");
    }

    /// Reads until what was read ends with `end`, and gives it.
    async fn until(&mut self, end: &str) -> String {
        let mut seen = String::new();
        while !seen.ends_with(end) {
            let more = self.some().await;
            seen.push_str(&more.unwrap_or_else(|| panic!("closed after {seen:?}")));
        }
        seen
    }

    async fn some(&mut self) -> Option<String> {
        let mut bytes = [0; 4096];
        let read = timeout(PATIENCE, self.recv.read(&mut bytes)).await.expect("no silence");
        let size = read.expect("a read")?;
        Some(std::str::from_utf8(&bytes[..size]).expect("text").to_owned())
    }

    async fn says(&mut self, line: &str, answer: &str) {
        self.write(line).await;
        assert_eq!(self.until(answer.lines().last().expect("an answer")).await, answer, "to {line}");
    }

    async fn cram(&mut self, name: &str) {
        self.write(&format!("from:{name}")).await;
        let answer = self.until("\n@").await;
        let challenge = answer.strip_prefix("data:").and_then(|rest| rest.strip_suffix("\n@"));
        let digest = cram_digest(SECRET, challenge.expect("a challenge"));
        self.says(&format!("cram:{digest}"), &format!("data:success\n{name}@")).await;
    }
}

fn code(error: ConnectionError) -> Option<VarInt> {
    if let ConnectionError::ApplicationClosed(close) = error { Some(close.error_code) } else { None }
}

#[tokio::test]
async fn many_atsigns_share_a_connection_and_each_proves_itself() {
    let town = Town::start("").await;
    let link = town.connect().await;
    let mut alice = link.session().await;
    let mut bob = link.session().await;
    alice.cram("@alice").await;
    bob.write("from:@bob").await;
    bob.until("\n@").await;
    bob.write("llookup:x.y@bob").await;
    assert!(bob.until("@").await.starts_with("error:"), "nobody has proved to be @bob");
    bob.cram("@bob").await;
    alice.write("update:public:where.ns@alice here").await;
    assert!(alice.until("@alice@").await.starts_with("data:"));
    bob.says(
        "llookup:nope.ns@bob",
        "error:AT0015-key not found : nope.ns@bob does not exist in keystore\n@bob@",
    )
    .await;
    let mut nobody = link.session().await;
    nobody.write("from:@alice").await;
    nobody.until("\n@").await;
    nobody.says("lookup:where.ns@alice", "data:here\n@").await;
    assert_eq!(town.open(), 3);

    // What goes on in one session is nothing to the others.
    alice.send.finish().expect("not finished yet");
    while alice.some().await.is_some() {}
    bob.says("noop:0", "data:ok\n@bob@").await;
    town.end().await;
    assert_eq!(code(link.closed().await), Some(VarInt::from_u32(0)));
}

#[tokio::test]
async fn who_opens_all_streams_and_says_nothing_is_sent_away() {
    let town = Town::start("limits.node.login = \"1s\"").await;
    let link = town.connect().await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(link.stream().await);
    }
    for stream in &mut silent {
        assert_eq!(stream.until("@").await, "@");
        assert_eq!(stream.some().await, None);
    }
    assert_eq!(
        code(link.closed().await),
        Some(VarInt::from_u32(1)),
        "a connection without sessions is of no use"
    );
    // Others have their places.
    town.connect().await.session().await.cram("@alice").await;
    town.end().await;
}

#[tokio::test]
async fn broken_and_boundless_streams_cost_their_own_sessions_only() {
    let town = Town::start("").await;
    let link = town.connect().await;
    let mut good = link.session().await;
    good.cram("@alice").await;
    // Half a line, and then nothing more; or nothing more is wanted; or both.
    for round in 0..300 {
        let mut broken = link.session().await;
        broken.send.write_all(b"from:@alice\nlook").await.expect("a write");
        if round % 2 == 0 {
            broken.send.reset(VarInt::from_u32(7)).expect("open until now");
        }
        if round % 3 == 0 {
            broken.recv.stop(VarInt::from_u32(7)).expect("open until now");
        }
    }
    // A line that does not end.
    let mut endless = Vec::new();
    for _ in 0..20 {
        endless.push(link.session().await);
    }
    for stream in &mut endless {
        let flood = vec![b'x'; 128 * 1024];
        // The server hangs up in the middle of it.
        drop(timeout(PATIENCE, stream.send.write_all(&flood)).await.expect("no silence"));
        let said = stream.until("@").await;
        assert!(said.starts_with("error:AT0005"), "{said}");
    }
    good.says("noop:0", "data:ok\n@alice@").await;
    let left = async {
        while town.open() > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, left).await.expect("their places come back");
    town.end().await;
}

#[tokio::test]
async fn each_session_takes_a_place() {
    let town = Town::start("limits.node.connections = 3").await;
    let link = town.connect().await;
    let (mut first, _second) = (link.session().await, link.session().await);
    let mut third = link.stream().await;
    assert_eq!(third.until("\n").await, "error:AT0012-Inbound connection limit exceeded\n");
    assert_eq!(third.some().await, None);
    let refused = dial(town.state.path(), town.running.address(), "localhost", &[b"atp-client/1"]).await;
    assert!(matches!(refused.err(), Some(ConnectionError::ConnectionClosed(_))));
    first.says("noop:0", "data:ok\n@").await;
    town.end().await;
}

#[tokio::test]
async fn who_names_no_protocol_of_ours_gets_no_connection() {
    let town = Town::start("").await;
    let (state, address) = (town.state.path(), town.running.address());
    for protocols in [&[b"h3".as_slice()][..], &[]] {
        let refused = dial(state, address, "localhost", protocols).await;
        assert!(refused.is_err(), "{protocols:?}");
    }
    let other = dial(state, address, "other.example", &[b"atp-client/1"]).await;
    assert!(other.is_err(), "the certificate is checked as ever");
    town.end().await;
}

#[tokio::test]
async fn in_a_crowd_who_connects_shows_where_it_is_and_is_served() {
    let town = Town::start("limits.node.handshakes = 1").await;
    town.connect().await.session().await.cram("@alice").await;
    town.end().await;
}

#[tokio::test]
async fn a_host_name_decides_for_all_sessions_of_its_connection() {
    let names = "listen.domain = \"fleet.example\"\ntls.names = [\"alice.fleet.example\"]";
    let town = Town::start(names).await;
    let (state, address) = (town.state.path(), town.running.address());
    let link = dial(state, address, "alice.fleet.example", &[b"atp-client/1"]).await.expect("a connection");
    let _session = link.session().await;
    assert_eq!(town.open(), 1);
    town.end().await;
}

/// A server that ends without a word when it is dropped, as one that is killed.
struct Mortal {
    runtime: Option<tokio::runtime::Runtime>,
}

impl Mortal {
    async fn start(state: &Path, port: u16) -> (Self, SocketAddr) {
        let toml = format!("listen.address = \"127.0.0.1:{port}\"\ntls.dev = true\n");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let state = state.to_owned();
        let started = runtime.spawn(async move {
            let config: ServerConfig = toml::from_str(&toml).expect("a configuration");
            let tls = ServerTls::load(&config, &state).expect("certificates");
            Server::start(config, tls, &state, CancellationToken::new()).await.expect("a server").address()
        });
        let address = started.await.expect("no panic");
        (Self { runtime: Some(runtime) }, address)
    }

    /// Nothing of it is left when this returns.
    async fn kill(mut self) {
        let runtime = self.runtime.take().expect("it is killed once");
        let killed = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(PATIENCE));
        killed.await.expect("no panic");
    }
}

#[tokio::test]
async fn who_was_connected_to_a_server_that_was_killed_is_told_by_the_next() {
    let state = tempfile::tempdir().expect("a folder");
    let (first, address) = Mortal::start(state.path(), 0).await;
    let link = dial(state.path(), address, "localhost", &[b"atp-client/1"]).await.expect("a connection");
    let mut session = link.session().await;
    first.kill().await;
    let (next, _) = Mortal::start(state.path(), address.port()).await;
    session.write("noop:0").await;
    assert!(matches!(link.closed().await, ConnectionError::Reset));
    next.kill().await;
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let town = Town::start("listen.quic = false").await;
    assert!(UdpSocket::bind(town.running.address()).is_ok(), "nothing listens there");
    town.end().await;
}
