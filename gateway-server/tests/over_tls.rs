//! A whole server over TLS, spoken to byte by byte.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::crypto::{Hash, RsaPrivateKey, cram_digest};
use atedge_server::config::ServerConfig;
use atedge_server::store::Tenant;
use atedge_server::{Offline, Running, Server, ServerTls};
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "open sesame";
/// Beyond this a test has failed; no test waits so long to succeed.
const PATIENCE: Duration = Duration::from_secs(20);

fn atsign(text: &str) -> AtSign {
    text.parse().expect("an atSign")
}

struct Town {
    running: Running,
    stop: CancellationToken,
}

impl Town {
    async fn start(state: &Path) -> Self {
        Self::start_with(state, "").await
    }

    async fn start_with(state: &Path, more: &str) -> Self {
        let toml = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[tls]\ndev = true\n[notifications]\nticker = \"0s\"\n{more}"
        );
        let config: ServerConfig = toml::from_str(&toml).expect("a configuration");
        let tls = ServerTls::load(&config, state).expect("certificates");
        let stop = CancellationToken::new();
        let running = Server::start(config, tls, state, stop.clone()).await.expect("a server");
        Self { running, stop }
    }

    async fn host(&self, name: &str) -> SocketAddr {
        let own = SocketAddr::from(([127, 0, 0, 1], 0));
        self.running.add_tenant(atsign(name), SECRET, Some(own)).await.expect("a new tenant")
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.finished().await;
    }
}

/// A client that reads exactly what it expects.
struct Client {
    stream: TlsStream<TcpStream>,
    seen: String,
}

impl Client {
    async fn dial(state: &Path, address: SocketAddr) -> Self {
        let mut roots = RootCertStore::empty();
        let ca = atedge_service::tls::read_certificates(&state.join("ca.pem")).expect("an authority");
        roots.add_parsable_certificates(ca);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("a handshake");
        Self { stream, seen: String::new() }
    }

    async fn connect(state: &Path, address: SocketAddr) -> Self {
        let mut client = Self::dial(state, address).await;
        client.until("@").await;
        client
    }

    /// A connection of an owner who has not activated yet.
    async fn owner(state: &Path, address: SocketAddr, name: &str) -> Self {
        let mut client = Self::connect(state, address).await;
        client.cram(name).await;
        client
    }

    /// Says a line that changes a record, and gives the commit's id.
    async fn commits(&mut self, line: &str) -> i64 {
        self.write(line).await;
        let answer = self.until("@").await;
        let id = answer.strip_prefix("data:").and_then(|rest| rest.lines().next());
        id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{answer} to {line}"))
    }

    async fn write(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).await.expect("a write");
    }

    /// Reads until what was read ends with `end`, and gives it.
    async fn until(&mut self, end: &str) -> String {
        while !self.seen.ends_with(end) {
            let more = self.some().await;
            self.seen.push_str(&more);
        }
        std::mem::take(&mut self.seen)
    }

    async fn some(&mut self) -> String {
        let mut bytes = [0; 4096];
        let read = timeout(PATIENCE, self.stream.read(&mut bytes)).await;
        let size = read.unwrap_or_else(|_| panic!("silence after {:?}", self.seen)).expect("a read");
        assert!(size > 0, "closed after {:?}", self.seen);
        std::str::from_utf8(&bytes[..size]).expect("text").to_owned()
    }

    /// Says a line and expects exactly this answer.
    async fn says(&mut self, line: &str, answer: &str) {
        self.write(line).await;
        let end = if answer.ends_with('\n') { "\n" } else { answer.lines().last().expect("an answer") };
        let got = self.until(end).await;
        assert_eq!(got, answer, "to {line}");
    }

    /// Says a line until this is its answer.
    async fn becomes(&mut self, line: &str, answer: &str) {
        let asked = async {
            loop {
                self.write(line).await;
                if self.until("@").await == answer {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{line} never came to {answer}"));
    }

    /// One line of a stream.
    async fn line(&mut self) -> String {
        loop {
            if let Some((line, rest)) = self.seen.split_once('\n') {
                let line = line.to_owned();
                self.seen = rest.to_owned();
                return line;
            }
            let before = std::mem::take(&mut self.seen);
            self.seen = before + &self.some().await;
        }
    }

    async fn challenge(&mut self, name: &str) -> String {
        self.write(&format!("from:{name}")).await;
        let answer = self.until("\n@").await;
        answer
            .strip_prefix("data:")
            .and_then(|rest| rest.strip_suffix("\n@"))
            .expect("a challenge")
            .to_owned()
    }

    async fn cram(&mut self, name: &str) {
        let challenge = self.challenge(name).await;
        let digest = cram_digest(SECRET, &challenge);
        self.says(&format!("cram:{digest}"), &format!("data:success\n{name}@")).await;
    }

    async fn pkam(&mut self, name: &str, key: &RsaPrivateKey, enrollment: &str) {
        let challenge = self.challenge(name).await;
        let signature = key.sign(challenge.as_bytes(), Hash::Sha256);
        self.says(&format!("pkam:{enrollment}{signature}"), &format!("data:success\n{name}@")).await;
    }
}

#[tokio::test]
async fn an_atsign_is_activated_and_signs_in_by_key() {
    let state = tempfile::tempdir().expect("a folder");
    let town = Town::start(state.path()).await;
    let alice = town.host("@alice").await;
    let key = RsaPrivateKey::generate();

    let mut owner = Client::connect(state.path(), alice).await;
    owner
        .says(
            "lookup:publickey@alice",
            "error:AT0015-Exception: public:publickey@alice does not exist in keystore\n@",
        )
        .await;
    owner.cram("@alice").await;
    let ask = serde_json::json!({
        "appName": "firstApp", "deviceName": "firstDevice", "apkamPublicKey": key.public().to_base64(),
    });
    owner.write(&format!("enroll:request:{ask}")).await;
    let answer = owner.until("\n@alice@").await;
    let json = answer.strip_prefix("data:").and_then(|rest| rest.strip_suffix("\n@alice@")).expect("data");
    let granted: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(granted["status"], "approved");
    let id = granted["enrollmentId"].as_str().expect("an id");

    let mut enrolled = Client::connect(state.path(), alice).await;
    enrolled.pkam("@alice", &key, &format!("enrollmentId:{id}:")).await;
    enrolled.write("update:isEncrypted:false:public:publickey@alice MIIB").await;
    enrolled.until("\n@alice@").await;
    enrolled.says("delete:privatekey:at_secret", "data:-1\n@alice@").await;
    enrolled.says("llookup:privatekey:at_secret_deleted", "error:AT0009-UnAuthorized client in request : privatekey:at_secret_deleted is the server's own\n@alice@").await;

    // Clients that know no enrollments sign in with the same key.
    let mut legacy = Client::connect(state.path(), alice).await;
    legacy.pkam("@alice", &key, "").await;
    legacy
        .says(
            "lookup:nope@alice",
            "error:AT0015-key not found : @alice:nope@alice does not exist in keystore\n@alice@",
        )
        .await;
    let mut nobody = Client::connect(state.path(), alice).await;
    nobody.says("lookup:publickey@alice", "data:MIIB\n@").await;
    let challenge = nobody.challenge("@alice").await;
    let digest = cram_digest(SECRET, &challenge);
    let gone = "error:AT0015-Exception: privatekey:at_secret does not exist in keystore\n@";
    nobody.says(&format!("cram:{digest}"), gone).await;
    nobody.challenge("@alice").await;
    let unknown = "error:AT0028:enrollment_id: none is expired or invalid\n@";
    nobody.says("pkam:enrollmentId:none:AAAA", unknown).await;
    town.end().await;
}

#[tokio::test]
async fn tenants_of_one_node_share_records_and_notify_each_other() {
    let state = tempfile::tempdir().expect("a folder");
    let town = Town::start(state.path()).await;
    let (alice, bob) = (town.host("@alice").await, town.host("@bob").await);
    let mut alice = Client::owner(state.path(), alice, "@alice").await;
    let mut watcher = Client::owner(state.path(), bob, "@bob").await;
    watcher.write("monitor:strict .edge@").await;
    watcher.says("noop:0", "data:ok\n").await;
    let mut bob = Client::owner(state.path(), bob, "@bob").await;

    alice.commits("update:ttr:-1:ccd:true:@bob:temp.edge@alice 21").await;
    let line = watcher.until("}\n").await;
    assert!(
        line.contains(
            r#""from":"@alice","to":"@bob","key":"@bob:temp.edge@alice","value":"21","operation":"update""#
        ),
        "{line}"
    );
    bob.says("lookup:temp.edge@alice", "data:21\n@bob@").await;
    bob.says("llookup:cached:@bob:temp.edge@alice", "data:21\n@bob@").await;
    bob.says("scan temp", "data:[\"cached:@bob:temp.edge@alice\"]\n@bob@").await;
    alice.says("scan temp", "data:[\"@bob:temp.edge@alice\"]\n@alice@").await;

    alice.says("notify:id:n1:update:isEncrypted:false:@bob:hum.edge@alice:40", "data:n1\n@alice@").await;
    let line = watcher.until("}\n").await;
    assert!(line.contains(r#""id":"n1""#) && line.contains(r#""isEncrypted":false"#), "{line}");
    alice.becomes("notify:status:n1", "data:delivered\n@alice@").await;
    // An id that is unique by its form is delivered once, any other again.
    for (id, pushed) in [("n1", 1), ("ae1-b-1-1", 1), ("ae1-b-1-1", 0)] {
        alice.says(&format!("notify:id:{id}:@bob:hum.edge@alice:41"), &format!("data:{id}\n@alice@")).await;
        for _ in 0..pushed {
            let line = watcher.until("}\n").await;
            assert!(line.contains(&format!(r#""id":"{id}""#)), "{line}");
        }
    }
    alice.commits("delete:@bob:temp.edge@alice").await;
    let line = watcher.until("}\n").await;
    assert!(line.contains(r#""operation":"delete""#), "{line}");
    let missing =
        "error:AT0015-key not found : cached:@bob:temp.edge@alice does not exist in keystore\n@bob@";
    bob.says("llookup:cached:@bob:temp.edge@alice", missing).await;

    // What was received can be had again, from the beginning, in the same order.
    bob.write("monitor:strict:0 .edge@").await;
    let mut replayed = String::new();
    while !replayed.contains(r#""operation":"delete""#) {
        replayed.push_str(&bob.until("}\n").await);
    }
    let ids = ["@bob:temp.edge@alice", "n1", "ae1-b-1-1"].map(|id| replayed.find(&format!("\"{id}\"")));
    assert!(ids.iter().all(Option::is_some) && ids.is_sorted(), "{replayed}");
    town.end().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let state = tempfile::tempdir().expect("a folder");
    let town = Town::start(state.path()).await;
    let address = town.host("@alice").await;
    let mut alice = Client::owner(state.path(), address, "@alice").await;
    let before = alice.commits("update:public:location@alice California").await;
    alice.says("notify:id:n1:@carol:x.edge@alice:1", "data:n1\n@alice@").await;
    town.end().await;

    let town = Town::start(state.path()).await;
    assert_eq!(town.running.address_of(&atsign("@alice")), address, "its own port is kept");
    let mut alice = Client::owner(state.path(), address, "@alice").await;
    alice.says("llookup:public:location@alice", "data:California\n@alice@").await;
    let after = alice.commits("update:public:location@alice Oregon").await;
    assert!(after > before, "commit ids are never used again");
    town.end().await;
}

#[tokio::test]
async fn a_full_node_says_so_and_the_shared_port_asks_who_is_meant() {
    let state = tempfile::tempdir().expect("a folder");
    let town = Town::start_with(state.path(), "[limits.node]\nconnections = 2\n").await;
    town.running.add_tenant(atsign("@alice"), SECRET, None).await.expect("a new tenant");
    let shared = town.running.address();
    let mut first = Client::connect(state.path(), shared).await;
    first.says("\r", "error:AT0003-Exception: invalid command\n@").await;
    first.says("noop:0", "data:ok\n@").await;
    first.cram("@alice").await;
    let _second = Client::connect(state.path(), shared).await;
    let mut third = Client::dial(state.path(), shared).await;
    assert_eq!(third.until("\n").await, "error:AT0012-Inbound connection limit exceeded\n");
    town.end().await;
}

/// Answers every look-up with the address of the shared map.
async fn directory(state: &Path, entries: Arc<Mutex<HashMap<String, SocketAddr>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let config: ServerConfig = toml::from_str("[tls]\ndev = true").expect("a configuration");
    let acceptor = TlsAcceptor::from(ServerTls::load(&config, state).expect("certificates").listener());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, entries) = (acceptor.clone(), Arc::clone(&entries));
            tokio::spawn(async move {
                let mut stream = BufReader::new(acceptor.accept(tcp).await.expect("a handshake"));
                stream.write_all(b"@").await.expect("a write");
                let mut line = String::new();
                stream.read_line(&mut line).await.expect("a question");
                let found = entries.lock().expect("no panic").get(line.trim()).copied();
                let answer = found.map_or("null".to_owned(), |at| format!("localhost:{}", at.port()));
                stream.write_all(format!("{answer}\r\n@").as_bytes()).await.expect("a write");
                stream.flush().await.expect("a write");
            });
        }
    });
    address
}

#[tokio::test]
async fn servers_prove_themselves_to_each_other_and_deliver() {
    // One authority for both nodes, each with its own leaf.
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let entries = Arc::new(Mutex::new(HashMap::new()));
    let directory = directory(here.path(), Arc::clone(&entries)).await;
    let settings = format!("[directory]\naddress = \"localhost:{}\"\n", directory.port());
    let first = Town::start_with(here.path(), &settings).await;
    for file in ["ca.pem", "ca.key"] {
        std::fs::copy(here.path().join(file), there.path().join(file)).expect("a copy");
    }
    let second = Town::start_with(there.path(), &settings).await;
    let alice = first.host("@alice").await;
    let bob = second.host("@bob").await;
    entries.lock().expect("no panic").insert("alice".to_owned(), alice);

    let mut alice = Client::owner(here.path(), alice, "@alice").await;
    alice.commits("update:@bob:temp.edge@alice 20").await;
    alice.says("notify:id:n0:@bob:x.edge@alice:0", "data:n0\n@alice@").await;
    alice.becomes("notify:status:n0", "data:errored\n@alice@").await;

    // What was sent while the directory did not know him was given up at once; from now on it knows.
    entries.lock().expect("no panic").insert("bob".to_owned(), bob);
    let mut watcher = Client::owner(there.path(), bob, "@bob").await;
    watcher.write("monitor:strict .edge@").await;
    watcher.says("noop:0", "data:ok\n").await;
    for id in ["n1", "n2", "n3"] {
        alice.says(&format!("notify:id:{id}:@bob:x.edge@alice:{id}"), &format!("data:{id}\n@alice@")).await;
    }
    for id in ["n1", "n2", "n3"] {
        let line = watcher.line().await;
        assert!(line.contains(&format!(r#""id":"{id}","from":"@alice","to":"@bob""#)), "{line}");
    }
    alice.becomes("notify:status:n3", "data:delivered\n@alice@").await;

    let mut bob = Client::owner(there.path(), bob, "@bob").await;
    bob.says("lookup:temp.edge@alice", "data:20\n@bob@").await;
    bob.says("scan:@alice", "data:[\"temp.edge@alice\"]\n@bob@").await;
    let missing =
        "error:AT0015-key not found : Exception: @bob:none.edge@alice does not exist in keystore\n@bob@";
    bob.says("lookup:none.edge@alice", missing).await;
    alice.commits("update:public:name.edge@alice Alice").await;
    bob.says("plookup:name.edge@alice", "data:Alice\n@bob@").await;
    let unknown =
        "error:AT0007-Secondary server not found : unable to find the secondary server of @carol\n@bob@";
    bob.says("plookup:name.edge@carol", unknown).await;

    // A stranger without the certificate and the key of @bob's server is not believed.
    let mut stranger = Client::connect(here.path(), first.running.address_of(&atsign("@alice"))).await;
    stranger.write("from:@bob").await;
    assert!(stranger.until("\n@").await.starts_with("data:proof:_"));
    stranger.says("pol", "error:AT0401-Exception: Certificate Verification Failed: no certificate\n@").await;
    first.end().await;
    second.end().await;
}

#[tokio::test]
async fn what_waits_for_a_server_that_is_down_arrives_in_order_after_restarts() {
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let entries = Arc::new(Mutex::new(HashMap::new()));
    let directory = directory(here.path(), Arc::clone(&entries)).await;
    let settings = format!("[directory]\naddress = \"localhost:{}\"\n", directory.port());
    let first = Town::start_with(here.path(), &settings).await;
    for file in ["ca.pem", "ca.key"] {
        std::fs::copy(here.path().join(file), there.path().join(file)).expect("a copy");
    }
    let second = Town::start_with(there.path(), &settings).await;
    let (alice, bob) = (first.host("@alice").await, second.host("@bob").await);
    entries.lock().expect("no panic").extend([("alice".to_owned(), alice), ("bob".to_owned(), bob)]);
    second.end().await;

    let ids = ["n1", "ae1-b-2-1", "n3"];
    let mut owner = Client::owner(here.path(), alice, "@alice").await;
    for id in ids {
        owner.says(&format!("notify:id:{id}:@bob:x.edge@alice:v"), &format!("data:{id}\n@alice@")).await;
    }
    // It was tried, and will be again.
    owner.becomes("notify:status:n1", "data:errored\n@alice@").await;
    owner.says("notify:status:n3", "data:queued\n@alice@").await;
    first.end().await;

    let first = Town::start_with(here.path(), &settings).await;
    let second = Town::start_with(there.path(), &settings).await;
    let mut owner = Client::owner(here.path(), alice, "@alice").await;
    owner.becomes("notify:status:n3", "data:delivered\n@alice@").await;
    let mut watcher = Client::owner(there.path(), bob, "@bob").await;
    watcher.write("monitor:strict:0 .edge@").await;
    for id in ids {
        let line = watcher.line().await;
        assert!(line.contains(&format!(r#""id":"{id}","#)), "expected {id}: {line}");
    }
    first.end().await;
    second.end().await;
}

#[tokio::test]
async fn a_tenant_that_the_command_line_adds_is_served_without_a_restart() {
    let state = tempfile::tempdir().expect("a folder");
    let town = Town::start(state.path()).await;
    let before = town.host("@alice").await;
    let secret = {
        let offline = Offline::open(ServerConfig::default(), state.path()).await.expect("the store");
        let tenant = Tenant { atsign: atsign("@bob"), listen: None };
        let twice = Tenant { atsign: atsign("@alice"), listen: None };
        assert!(offline.add_tenant(twice).await.is_err());
        offline.add_tenant(tenant).await.expect("a new tenant")
    };
    assert_eq!(secret.len(), 128);
    let shared = town.running.address();
    assert_ne!(before, shared);
    let served = async {
        loop {
            let mut client = Client::connect(state.path(), shared).await;
            client.write("from:@bob").await;
            if client.until("@").await.starts_with("data:_") {
                return;
            }
        }
    };
    timeout(PATIENCE, served).await.expect("a tenant is found within seconds");
    town.end().await;
}

#[tokio::test]
async fn a_tenant_that_another_process_removes_is_sent_away_and_its_door_closed() {
    let state = tempfile::tempdir().expect("a folder");
    let town = Town::start(state.path()).await;
    let (alice, bob) = (town.host("@alice").await, town.host("@bob").await);
    let mut owner = Client::owner(state.path(), alice, "@alice").await;
    let mut other = Client::owner(state.path(), bob, "@bob").await;
    let offline = Offline::open(ServerConfig::default(), state.path()).await.expect("the store");
    assert!(offline.remove(&atsign("@alice")).await.expect("a store"));
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, owner.stream.read_to_end(&mut rest)).await;
    // The end may come without a TLS farewell.
    assert!(ended.is_ok() && rest.is_empty(), "the connection was left open");
    let closed = async { while TcpStream::connect(alice).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("the address is given up");
    other.says("noop:0", "data:ok\n@bob@").await;
    town.end().await;
}
