//! Connections to a node over memory.

#![allow(dead_code, reason = "each test crate uses what it needs")]

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::{Context, Poll};

use at_protocol::crypto::{Hash, RsaPrivateKey, cram_digest};
use at_protocol::keys::AtKeys;
use atedge_server::session::{Caller, serve};
use atedge_server::store::Tenant;
use atedge_server::{Node, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

pub(crate) const SECRET: &str = "sesame";
/// Room in a connection, in bytes.
const ROOM: usize = 64 * 1024;

/// A node in memory whose time moves only when a test says so.
pub(crate) struct Still {
    pub(crate) node: Arc<Node>,
    /// While a blocking task runs, the runtime does not move time by itself to where a timer is due: it
    /// would each time it waits for the store's thread.
    _held: Sender<()>,
}

impl Still {
    /// A node with these tenants.
    pub(crate) async fn with(tenants: &[&str], config: ServerConfig) -> Self {
        let (held, hold) = std::sync::mpsc::channel();
        drop(tokio::task::spawn_blocking(move || hold.recv()));
        tokio::time::pause();
        let node = Node::in_memory(config).await.unwrap();
        for name in tenants {
            let tenant = Tenant { atsign: name.parse().unwrap(), listen: None };
            assert!(node.add_tenant(tenant, SECRET).await.unwrap());
        }
        Self { node: Arc::new(node), _held: held }
    }

    /// A greeted connection to a tenant's server.
    pub(crate) async fn connect(&self, tenant: &str) -> Wire {
        let (output, input) = duplex(ROOM);
        let (sender, writes) = unbounded_channel();
        let caller = Caller { tenant: Some(tenant.parse().unwrap()), ..Caller::default() };
        let end = ServerEnd { input, writes: Some(sender) };
        tokio::spawn(serve(end, Arc::clone(&self.node), caller, CancellationToken::new()));
        let mut wire = Wire { output, writes, heard: String::new() };
        assert_eq!(wire.hear().await.as_deref(), Some("@"));
        wire
    }

    /// The owner, by the activation secret.
    pub(crate) async fn activation(&self, tenant: &str) -> Wire {
        let mut wire = self.connect(tenant).await;
        let challenge = wire.challenge(tenant).await;
        wire.succeeds(&format!("cram:{}", cram_digest(SECRET, &challenge))).await;
        wire
    }

    /// The owner by the first key, or an application by its enrollment: the answer to the proof.
    pub(crate) async fn pkam(
        &self,
        tenant: &str,
        key: &RsaPrivateKey,
        enrollment: Option<&str>,
    ) -> (Wire, String) {
        let mut wire = self.connect(tenant).await;
        let challenge = wire.challenge(tenant).await;
        let by = enrollment.map_or(String::new(), |id| format!("enrollmentId:{id}:"));
        let signature = key.sign(challenge.as_bytes(), Hash::Sha256);
        let answer = wire.ask(&format!("pkam:{by}{signature}")).await;
        (wire, answer)
    }

    /// The owner by the first key, which is given now.
    pub(crate) async fn first_key(&self, tenant: &str) -> Wire {
        let (mut owner, key) = (self.activation(tenant).await, keys().pkam);
        owner.succeeds(&format!("update:privatekey:at_pkam_publickey {}", key.public().to_base64())).await;
        let (wire, answer) = self.pkam(tenant, &key, None).await;
        assert_eq!(answer, format!("data:success\n{tenant}@"));
        wire
    }

    /// The server of `peer`, itself a tenant.
    pub(crate) async fn peer(&self, tenant: &str, peer: &str) -> Wire {
        let mut wire = self.connect(tenant).await;
        let challenge = wire.challenge(peer).await;
        let (cookie, proof) = challenge.strip_prefix("proof:").unwrap().rsplit_once(':').unwrap();
        let cookie = cookie.strip_suffix(peer).unwrap().parse().unwrap();
        assert!(self.node.show_signature(&peer.parse().unwrap(), cookie, proof).await);
        assert_eq!(wire.ask("pol").await, format!("{peer}@"));
        wire
    }

    /// Grants an enrollment.
    pub(crate) async fn approve(&self, owner: &mut Wire, id: &str) {
        let keys = r#""encryptedDefaultEncryptionPrivateKey":"a","encryptedDefaultSelfEncryptionKey":"b""#;
        owner.succeeds(&format!(r#"enroll:approve:{{"enrollmentId":"{id}",{keys}}}"#)).await;
    }

    /// Asks for an enrollment with these namespaces, JSON, and gives its id.
    pub(crate) async fn enroll(
        &self,
        owner: &mut Wire,
        key: &RsaPrivateKey,
        name: &str,
        namespaces: &str,
    ) -> String {
        let key = key.public().to_base64();
        let asked = format!(
            r#"{{"appName":"{name}","deviceName":"d","namespaces":{namespaces},"apkamPublicKey":"{key}"}}"#
        );
        let answer = owner.ask(&format!("enroll:request:{asked}")).await;
        let id = answer.split("\"enrollmentId\":\"").nth(1).and_then(|rest| rest.split('"').next());
        id.unwrap_or_else(|| panic!("{asked}: {answer}")).to_owned()
    }
}

/// Keys of `at-protocol`'s fixture, which are nobody's.
pub(crate) fn keys() -> AtKeys {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/at-protocol/fixtures/python.atKeys");
    AtKeys::parse(&std::fs::read_to_string(fixture).unwrap()).unwrap()
}

/// The client's end of a connection.
pub(crate) struct Wire {
    output: DuplexStream,
    writes: UnboundedReceiver<Vec<u8>>,
    /// What was written together with the answer that was heard last.
    heard: String,
}

impl Wire {
    /// Writes at once; `false` when the server has gone.
    pub(crate) async fn say(&mut self, text: &str) -> bool {
        self.output.write_all(text.as_bytes()).await.is_ok()
    }

    /// The next answer, with its prompt; `None` when the server has closed. Answers to lines that came
    /// together may be written together, but each of them whole.
    pub(crate) async fn hear(&mut self) -> Option<String> {
        if self.heard.is_empty() {
            self.heard = String::from_utf8(self.writes.recv().await?).expect("answers are text");
        }
        let next = self.heard.find('\n').and_then(|end| {
            let begins = ["data:", "error:"].into_iter().filter_map(|word| self.heard[end..].find(word));
            begins.min().map(|place| end + place)
        });
        let rest = next.map_or(String::new(), |place| self.heard.split_off(place));
        Some(std::mem::replace(&mut self.heard, rest))
    }

    /// Says a line and hears its answer; empty when the server has gone.
    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.say(&format!("{line}\n")).await;
        self.hear().await.unwrap_or_default()
    }

    async fn challenge(&mut self, name: &str) -> String {
        let answer = self.ask(&format!("from:{name}")).await;
        answer.strip_prefix("data:").unwrap().strip_suffix("\n@").unwrap().to_owned()
    }

    /// Says a line that succeeds.
    pub(crate) async fn succeeds(&mut self, line: &str) {
        let answer = self.ask(line).await;
        assert!(answer.starts_with("data:"), "{line}: {answer}");
    }
}

/// The server's end: reads from memory, and hands on every write by itself.
struct ServerEnd {
    input: DuplexStream,
    writes: Option<UnboundedSender<Vec<u8>>>,
}

impl AsyncRead for ServerEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_read(context, buffer)
    }
}

impl AsyncWrite for ServerEnd {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = self.writes.as_ref().is_some_and(|writes| writes.send(bytes.to_vec()).is_ok());
        Poll::Ready(if sent { Ok(bytes.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writes = None;
        Poll::Ready(Ok(()))
    }
}
