//! The handshake of servers of old, in both directions, and what is refused in it.

mod fake;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use at_protocol::crypto::cram_digest;
use atedge_server::{Running, Server, ServerConfig, ServerTls};
use fake::{Authority, Listening, SigningKey, Talk, connect, is_signed};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, date_time_ymd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const SECRET: &str = "open sesame";

/// Our server of @alice, a directory, and the authority of both.
struct Town {
    authority: Authority,
    names: Arc<Mutex<HashMap<String, String>>>,
    alice: SocketAddr,
    running: Running,
    stop: CancellationToken,
    _directory: JoinSet<()>,
}

impl Town {
    async fn start() -> Self {
        let authority = Authority::new();
        let certificate = authority.issue("localhost", |_| ());
        let names = Arc::new(Mutex::new(HashMap::<String, String>::new()));
        let listening = Listening::start(&authority, &certificate).await;
        let (port, known) = (listening.port(), Arc::clone(&names));
        let mut directory = JoinSet::new();
        directory.spawn(async move {
            loop {
                let (mut talk, _) = listening.accept().await;
                let mut question = [0; 64];
                while let Ok(size @ 1..) = talk.stream.read(&mut question).await {
                    let name = String::from_utf8_lossy(&question[..size]).trim().to_owned();
                    let found = known.lock().expect("nobody panicked").get(&name).cloned();
                    let answer = format!("{}\r\n@", found.as_deref().unwrap_or("null"));
                    if talk.stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        let toml = format!(
            "listen.address = \"127.0.0.1:0\"\nnotifications.ticker = \"0s\"\ntesting.enabled = true\n\
             tls = {{ cert = {certificate:?}, key = {certificate:?} }}\n\
             directory = {{ address = \"localhost:{port}\", ca = {:?} }}",
            authority.ca()
        );
        let config: ServerConfig = toml::from_str(&toml).expect("a configuration");
        let state = authority.folder.path().join("state");
        std::fs::create_dir(&state).expect("a folder");
        let tls = ServerTls::load(&config, &state).expect("certificates");
        let stop = CancellationToken::new();
        let running = Server::start(config, tls, &state, stop.clone()).await.expect("a server");
        let own = SocketAddr::from(([127, 0, 0, 1], 0));
        let name = "@alice".parse().expect("an atSign");
        let alice = running.add_tenant(name, SECRET, Some(own)).await.expect("a new tenant");
        let town = Self { authority, names, alice, running, stop, _directory: directory };
        town.says("alice", &format!("localhost:{}", alice.port()));
        town
    }

    /// Has the directory know somebody.
    fn says(&self, name: &str, address: &str) {
        self.names.lock().expect("nobody panicked").insert(name.to_owned(), address.to_owned());
    }

    async fn connect(&self, certificate: Option<&Path>) -> Talk<TlsStream<TcpStream>> {
        connect(&self.authority, certificate, self.alice.port()).await
    }

    /// @alice's owner.
    async fn owner(&self) -> Talk<TlsStream<TcpStream>> {
        let mut talk = self.connect(None).await;
        talk.says("from:@alice\n").await;
        let asked = talk.hears("data:{}\n@").await;
        talk.says(&format!("cram:{}\n", cram_digest(SECRET, &asked[0]))).await;
        talk.hears("data:success\n@alice@").await;
        talk
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.finished().await;
    }
}

/// Proves to be @bob's server, as far as that goes: the last words heard.
async fn prove(
    caller: &mut Talk<TlsStream<TcpStream>>,
    bob: &Listening,
    key: &SigningKey,
    proof: impl FnOnce(&str) -> String,
) {
    caller.says("from:@bob\n").await;
    let asked = caller.hears("data:proof:{}@bob:{}\n@").await;
    caller.says("pol\n").await;
    // We are called back.
    let (mut called, _) = bob.accept().await;
    called.hears(&format!("lookup:{}@bob\n", asked[0])).await;
    called.says(&format!("data:{}\n@", key.sign(&proof(&asked[1])))).await;
    called.hears("lookup:signing_publickey@bob\n").await;
    called.says(&format!("data:{}\n@", key.public())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_old_is_believed_and_spoken_to_as_the_reference_has_it() {
    let town = Town::start().await;
    let certificate = town.authority.issue("localhost", |_| ());
    let bob = Listening::start(&town.authority, &certificate).await;
    let key = SigningKey::new();
    town.says("bob", &format!("localhost:{}", bob.port()));
    let mut alice = town.owner().await;
    // Else @bob would be told of the record at once.
    alice.says("config:set:autoNotify=false\n").await;
    alice.hears("data:{}\n@alice@").await;
    alice.says("update:@bob:phone.ns@alice 555\n").await;
    alice.hears("data:{}\n@alice@").await;

    // From @bob's server to ours: what the reference says, in its order.
    let mut caller = town.connect(Some(&certificate)).await;
    caller.says("lookup:all:publickey@alice\n").await;
    caller.hears("error:AT0015-{}\n@").await;
    prove(&mut caller, &bob, &key, str::to_owned).await;
    caller.hears("@bob@").await;
    caller
        .says("notify:id:7d3f:update:messageType:key:notifier:SYSTEM:ttln:60000:@alice:temp.ns@bob:21.5\n")
        .await;
    caller.hears("data:success\n@bob@").await;
    caller.says("lookup:all:phone.ns@alice\n").await;
    let found = caller.hears("data:{}\n@bob@").await;
    assert!(found[0].contains(r#""data":"555""#), "{}", found[0]);
    alice.says("notify:list\n").await;
    let listed = alice.hears("data:{}\n@alice@").await;
    assert!(listed[0].contains(r#""id":"7d3f","from":"@bob","to":"@alice""#), "{}", listed[0]);

    // From ours to @bob's.
    alice.says("notify:id:n1:update:ttln:60000:@bob:temp.ns@alice:22\n").await;
    alice.hears("data:n1\n@alice@").await;
    let (mut called, has_shown) = bob.accept().await;
    assert!(has_shown, "a certificate is shown");
    called.hears("from:@alice\n").await;
    let (session, proof) = ("_2b7c9f6e-0c1d-4e2f-8a3b-4c5d6e7f8091", "0f1e2d3c-4b5a-4697-8877-665544332211");
    called.says(&format!("data:proof:{session}@alice:{proof}\n@")).await;
    called.hears("pol\n").await;
    let mut back = town.connect(None).await;
    back.says(&format!("lookup:{session}@alice\n")).await;
    let signature = back.hears("data:{}\n@").await;
    back.says("lookup:signing_publickey@alice\n").await;
    let public = back.hears("data:{}\n@").await;
    assert!(is_signed(&public[0], proof, &signature[0]));
    called.says("@alice@").await;
    let line = called.hears("notify:id:n1:{}\n").await;
    assert!(line[0].starts_with("update:") && line[0].ends_with(":@bob:temp.ns@alice:22"), "{}", line[0]);
    called.says("data:success\n@alice@").await;
    // On the same connection, the next one after that.
    alice.says("notify:id:n2:update:ttln:60000:@bob:temp.ns@alice:23\n").await;
    alice.hears("data:n2\n@alice@").await;
    called.hears("notify:id:n2:{}\n").await;
    called.says("data:success\n@alice@").await;
    town.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_old_without_its_own_certificate_or_signature_is_refused() {
    let town = Town::start().await;
    let stranger = Authority::new();
    let good = town.authority.issue("localhost", |_| ());
    let bob = Listening::start(&town.authority, &good).await;
    town.says("bob", &format!("localhost:{}", bob.port()));
    let past = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    };
    let server_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let certificates = [
        ("none", None),
        ("another authority's", Some(stranger.issue("localhost", |_| ()))),
        ("another host's", Some(town.authority.issue("elsewhere.example", |_| ()))),
        ("a host's that only begins alike", Some(town.authority.issue("localhost.example", |_| ()))),
        ("expired", Some(town.authority.issue("localhost", past))),
        ("for servers only", Some(town.authority.issue("localhost", server_only))),
    ];
    for (what, certificate) in &certificates {
        let mut caller = town.connect(certificate.as_deref()).await;
        caller.says("from:@bob\n").await;
        caller.hears("data:proof:{}@bob:{}\n@").await;
        caller.says("pol\n").await;
        let refused = caller.hears("error:AT0401-Exception: Certificate Verification Failed: {}\n@").await;
        assert!(!refused[0].is_empty(), "{what}");
        // It stays a stranger.
        caller.says("notify:update:@alice:temp.ns@bob:1\n").await;
        caller.hears("error:AT0401-{}\n@").await;
    }
    // The right certificate, and a signature of something else.
    let mut caller = town.connect(Some(&good)).await;
    prove(&mut caller, &bob, &SigningKey::new(), |_| "another proof".to_owned()).await;
    caller.hears("error:AT0401-Exception: pol authentication failed\n@").await;
    town.end().await;
}
