//! The front for browsers, over TLS: what is read by HTTP, and the protocol in WebSocket messages.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use at_protocol::base2e15;
use at_protocol::crypto::cram_digest;
use atedge_server::config::ServerConfig;
use atedge_server::{Running, Server, ServerTls};
use futures_util::{SinkExt, StreamExt};
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

const SECRET: &str = "open sesame";
/// Beyond this a test has failed; no test waits so long to succeed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Town {
    running: Running,
    state: tempfile::TempDir,
    /// The door that is @alice's alone.
    alice: SocketAddr,
    _stop: tokio_util::sync::DropGuard,
}

impl Town {
    async fn start(more: &str) -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let toml = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\ndomain = \"fleet.example\"\n[tls]\ndev = true\n{more}"
        );
        let config: ServerConfig = toml::from_str(&toml).expect("a configuration");
        let tls = ServerTls::load(&config, state.path()).expect("certificates");
        let stop = CancellationToken::new();
        let running = Server::start(config, tls, state.path(), stop.clone()).await.expect("a server");
        let own = SocketAddr::from(([127, 0, 0, 1], 0));
        let add = |name: &str, own| running.add_tenant(name.parse().expect("an atSign"), SECRET, own);
        let alice = add("@alice", Some(own)).await.expect("a tenant");
        add("@bob", None).await.expect("a tenant");
        Self { running, state, alice, _stop: stop.drop_guard() }
    }

    async fn dial(&self, address: SocketAddr, protocol: &str) -> TlsStream<TcpStream> {
        dial(self.state.path(), address, protocol).await
    }

    /// Says lines as @alice, by the protocol.
    async fn write(&self, lines: &[String]) {
        let mut stream = self.dial(self.alice, "atProtocol/1.0").await;
        assert_eq!(until(&mut stream, "@").await, "@");
        stream.write_all(b"from:@alice\n").await.expect("a write");
        let answer = until(&mut stream, "\n@").await;
        let challenge = answer.strip_prefix("data:").and_then(|rest| rest.strip_suffix("\n@"));
        let digest = cram_digest(SECRET, challenge.expect("a challenge"));
        for line in [&format!("cram:{digest}")].into_iter().chain(lines) {
            stream.write_all(format!("{line}\n").as_bytes()).await.expect("a write");
            let answer = until(&mut stream, "\n@alice@").await;
            assert!(answer.starts_with("data:"), "{answer} to {line}");
        }
    }

    /// One request at a connection of its own; the whole answer.
    async fn request(&self, address: SocketAddr, head: &str) -> (String, Vec<u8>) {
        let mut stream = self.dial(address, "http/1.1").await;
        stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.expect("a write");
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end");
        // Not everybody says good-bye in TLS.
        read.ok();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let body = bytes.split_off(end + 4);
        (String::from_utf8(bytes).expect("a head is text").to_lowercase(), body)
    }

    async fn get(&self, path: &str) -> (String, Vec<u8>) {
        self.request(self.alice, &format!("GET {path} HTTP/1.1\r\nHost: localhost")).await
    }
}

async fn dial(state: &Path, address: SocketAddr, protocol: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let ca = atedge_service::tls::read_certificates(&state.join("ca.pem")).expect("an authority");
    roots.add_parsable_certificates(ca);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let tcp = TcpStream::connect(address).await.expect("a connection");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
    stream
}

async fn until(stream: &mut TlsStream<TcpStream>, end: &str) -> String {
    let mut seen = String::new();
    while !seen.ends_with(end) {
        let mut bytes = [0; 4096];
        let size = timeout(PATIENCE, stream.read(&mut bytes)).await.expect("an answer").expect("a read");
        assert!(size > 0, "closed after {seen:?}");
        seen.push_str(std::str::from_utf8(&bytes[..size]).expect("text"));
    }
    seen
}

#[tokio::test]
async fn public_records_are_read_by_their_path() {
    let town = Town::start("").await;
    let picture = [0, 1, 2, 254, 255];
    town.write(&[
        "update:public:index.html@alice <p>hello</p>".to_owned(),
        "update:public:index.html.b.a@alice deep".to_owned(),
        format!("update:isBinary:true:public:me.png@alice {}", base2e15::encode(&picture)),
        "update:public:_hidden@alice found".to_owned(),
        "update:ttl:1:public:gone@alice x".to_owned(),
        "update:mine@alice secret".to_owned(),
        "update:@bob:shared@alice secret".to_owned(),
    ])
    .await;
    let (head, body) = town.get("/index.html").await;
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    assert!(head.contains("content-type: text/html; charset=utf-8\r\n"), "{head}");
    assert_eq!(body, b"<p>hello</p>");
    assert_eq!(town.get("/@alice/a/b/index.html").await.1, b"deep");
    assert_eq!(town.get("/_hidden").await.1, b"found");
    let (head, body) = town.get("/me.png").await;
    assert!(head.contains("content-type: image/png\r\n"), "{head}");
    assert_eq!(body, picture);
    let (head, body) = town.get("/index.html?at_rt=all").await;
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    let all: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((&all["key"], &all["data"]), (&"public:index.html@alice".into(), &"<p>hello</p>".into()));
    let (_, body) = town.get("/index.html?at_rt=meta").await;
    let meta: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(meta["createdBy"], "@alice");
    let (head, _) = town.get("/index.html?at_ct=text%2Fmarkdown").await;
    assert!(head.contains("content-type: text/markdown\r\n"), "{head}");

    for path in ["/mine", "/shared", "/nothing", "/gone", "/privatekey/at_secret", "/@bob/index.html"] {
        let (head, body) = town.get(path).await;
        assert!(head.starts_with("http/1.1 404 not found\r\n"), "{path}: {head}");
        assert!(!String::from_utf8_lossy(&body).contains("secret"), "{path}");
    }
}

#[tokio::test]
async fn requests_that_cannot_be_answered_are_told_so() {
    let town = Town::start("").await;
    for (request, status) in [
        ("POST /index.html HTTP/1.1\r\nHost: x\r\nContent-Length: 0".to_owned(), "405"),
        ("DELETE / HTTP/1.1\r\nHost: x".to_owned(), "405"),
        (format!("GET /{} HTTP/1.1\r\nHost: x", "x".repeat(1000)), "400"),
        ("GET /%zz HTTP/1.1\r\nHost: x".to_owned(), "400"),
        ("GET /ws HTTP/1.1\r\nHost: x".to_owned(), "426"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(100_000)), "431"),
        (format!("GET / HTTP/1.1\r\nHost: x{}", "\r\nX: x".repeat(100)), "431"),
        ("what is this".to_owned(), "400"),
        ("GET / HTTP/1.1\r\nHost: x".to_owned(), "200"),
    ] {
        let (head, _) = town.request(town.alice, &request).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{request:.60}: {head}");
    }
}

#[tokio::test]
async fn host_or_path_decides_whose_record_it_is() {
    let town = Town::start("").await;
    town.write(&["update:public:motto@alice per aspera".to_owned()]).await;
    let shared = town.running.address();
    for (request, status) in [
        ("GET /motto HTTP/1.1\r\nHost: alice.fleet.example", "200"),
        ("GET /motto HTTP/1.1\r\nHost: alice.fleet.example:6464", "200"),
        ("GET /@alice/motto HTTP/1.1\r\nHost: anything", "200"),
        ("GET /@alice/motto HTTP/1.1\r\nHost: bob.fleet.example", "404"),
        ("GET /motto HTTP/1.1\r\nHost: bob.fleet.example", "404"),
        ("GET /motto HTTP/1.1\r\nHost: anything", "404"),
        ("GET /@carol/motto HTTP/1.1\r\nHost: anything", "404"),
    ] {
        let (head, _) = town.request(shared, request).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{request}: {head}");
    }
}

#[tokio::test]
async fn connections_are_kept_for_a_while_only() {
    let town = Town::start("[limits.node]\nhttp_idle = \"200ms\"").await;
    let mut stream = town.dial(town.alice, "http/1.1").await;
    for _ in 0..3 {
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("a write");
        assert!(until(&mut stream, "404 Not Found\n").await.starts_with("HTTP/1.1 404"));
    }
    // Half a head is no reason to wait longer.
    stream.write_all(b"GET /x HT").await.expect("a write");
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end").ok();
}

#[tokio::test]
async fn the_protocol_is_spoken_in_websocket_messages() {
    let town = Town::start("").await;
    let stream = town.dial(town.alice, "http/1.1").await;
    let (mut socket, _) = client_async("wss://localhost/ws", stream).await.expect("a WebSocket");
    let hear = async |socket: &mut tokio_tungstenite::WebSocketStream<_>| -> String {
        loop {
            let message = timeout(PATIENCE, socket.next()).await.expect("an answer").expect("one more");
            match message.expect("a message") {
                Message::Text(text) => return text.to_string(),
                Message::Pong(bytes) => assert_eq!(bytes.as_ref(), b"still there?"),
                other @ (Message::Binary(_) | Message::Ping(_) | Message::Close(_) | Message::Frame(_)) => {
                    panic!("{other:?}")
                }
            }
        }
    };
    assert_eq!(hear(&mut socket).await, "@");
    socket.send(Message::text("from:@alice")).await.expect("a message");
    let answer = hear(&mut socket).await;
    let challenge = answer.strip_prefix("data:").and_then(|rest| rest.strip_suffix("\n@"));
    let login = format!("cram:{}\n", cram_digest(SECRET, challenge.expect("a challenge")));
    socket.send(Message::text(login)).await.expect("a message");
    assert_eq!(hear(&mut socket).await, "data:success\n@alice@");
    socket.send(Message::Ping(b"still there?".as_slice().into())).await.expect("a ping");
    let long = "x".repeat(60_000);
    socket.send(Message::text(format!("update:a@alice {long}"))).await.expect("a message");
    assert!(hear(&mut socket).await.starts_with("data:"));
    // Several lines in one message: an answer each.
    socket.send(Message::text("llookup:a@alice\nnoop:0")).await.expect("a message");
    assert_eq!(hear(&mut socket).await, format!("data:{long}\n@alice@"));
    assert_eq!(hear(&mut socket).await, "data:ok\n@alice@");
    // What does not fit into a line is not gathered.
    socket.send(Message::text("x".repeat(100_000))).await.ok();
    let end = timeout(PATIENCE, socket.next()).await.expect("an end");
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
}
