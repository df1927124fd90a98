//! Applications with keys of their own, against whole sessions over memory.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod known_holes;
mod lifecycle;

use std::sync::{Arc, LazyLock};

use at_protocol::AtSign;
use at_protocol::crypto::{Hash, RsaPrivateKey, cram_digest};
use atedge_server::session::{Caller, serve};
use atedge_server::store::Tenant;
use atedge_server::{Node, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "sesame";
/// The first key, an application's, and another application's.
static KEYS: LazyLock<[RsaPrivateKey; 3]> = LazyLock::new(|| [0; 3].map(|_| RsaPrivateKey::generate()));

fn alice() -> AtSign {
    "@alice".parse().unwrap()
}

fn public(key: usize) -> String {
    KEYS[key].public().to_base64().to_owned()
}

async fn node() -> Arc<Node> {
    let node = Node::in_memory(ServerConfig::default()).await.unwrap();
    assert!(node.add_tenant(Tenant { atsign: alice(), listen: None }, SECRET).await.unwrap());
    Arc::new(node)
}

/// One connection to @alice's server.
struct Talk {
    stream: DuplexStream,
}

impl Talk {
    async fn connect(node: &Arc<Node>) -> Self {
        // More than any answer here, so that each is read at once.
        let (stream, server) = duplex(256 * 1024);
        let caller = Caller { tenant: Some(alice()), ..Caller::default() };
        tokio::spawn(serve(server, Arc::clone(node), caller, CancellationToken::new()));
        let mut talk = Self { stream };
        assert_eq!(talk.hear().await, "@");
        talk
    }

    /// Authenticated by the activation secret.
    async fn activation(node: &Arc<Node>) -> Self {
        let mut talk = Self::connect(node).await;
        let challenge = talk.challenge().await;
        let digest = cram_digest(SECRET, &challenge);
        assert_eq!(talk.ask(&format!("cram:{digest}")).await, "data:success");
        talk
    }

    /// Authenticated by the first key, which no enrollment has.
    async fn owner(node: &Arc<Node>) -> Self {
        let mut talk = Self::activation(node).await;
        assert_eq!(talk.ask(&format!("update:privatekey:at_pkam_publickey {}", public(0))).await, "data:-1");
        assert_eq!(talk.pkam("", 0).await, "data:success");
        talk
    }

    /// Authenticated by an application's key.
    async fn app(node: &Arc<Node>, id: &str, key: usize) -> Self {
        let mut talk = Self::connect(node).await;
        assert_eq!(talk.pkam(&format!("enrollmentId:{id}:"), key).await, "data:success");
        talk
    }

    /// Answers a fresh challenge with this key; `more` stands before the signature.
    async fn pkam(&mut self, more: &str, key: usize) -> String {
        let challenge = self.challenge().await;
        let signature = KEYS[key].sign(challenge.as_bytes(), Hash::Sha256);
        self.ask(&format!("pkam:{more}{signature}")).await
    }

    async fn challenge(&mut self) -> String {
        self.ask("from:@alice").await.strip_prefix("data:").unwrap().to_owned()
    }

    async fn say(&mut self, line: &str) {
        self.stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// What was written at once.
    async fn hear(&mut self) -> String {
        let mut bytes = vec![0; 256 * 1024];
        let size = self.stream.read(&mut bytes).await.unwrap();
        String::from_utf8(bytes[..size].to_vec()).unwrap()
    }

    /// The answer to a line, without its prompt.
    async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        let answer = self.hear().await;
        let (answer, _) = answer.rsplit_once('\n').unwrap_or_else(|| panic!("to {line:.60}: {answer:?}"));
        answer.to_owned()
    }

    async fn data(&mut self, line: &str) -> Value {
        let answer = self.ask(line).await;
        let json = answer.strip_prefix("data:").unwrap_or_else(|| panic!("to {line:.60}: {answer}"));
        serde_json::from_str(json).unwrap()
    }

    async fn refused(&mut self, line: &str, code: &str) -> String {
        let answer = self.ask(line).await;
        assert!(answer.starts_with(&format!("error:{code}")), "to {line:.60}: {answer}");
        answer
    }

    /// Asks for an enrollment; gives its id.
    async fn request(&mut self, app: &str, namespaces: Value, key: usize) -> String {
        let asked = json!({
            "appName": app,
            "deviceName": "d",
            "namespaces": namespaces,
            "apkamPublicKey": public(key),
        });
        let answer = self.data(&format!("enroll:request:{asked}")).await;
        answer["enrollmentId"].as_str().unwrap().to_owned()
    }

    /// Decides about an enrollment, which must be allowed.
    async fn decide(&mut self, word: &str, id: &str) {
        let mut target = json!({ "enrollmentId": id });
        if word == "approve" {
            target["encryptedDefaultEncryptionPrivateKey"] = "a".into();
            target["encryptedDefaultSelfEncryptionKey"] = "b".into();
        }
        self.data(&format!("enroll:{word}:{target}")).await;
    }

    /// Asks for an enrollment and approves it.
    async fn enroll(&mut self, app: &str, namespaces: Value, key: usize) -> String {
        let id = self.request(app, namespaces, key).await;
        self.decide("approve", &id).await;
        id
    }

    async fn state(&mut self, id: &str) -> String {
        let shown = self.data(&format!("enroll:fetch:{{\"enrollmentId\":\"{id}\"}}")).await;
        shown["status"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of the connection; gives what was said before.
    async fn end(mut self) -> String {
        let mut said = String::new();
        self.stream.read_to_string(&mut said).await.unwrap();
        said
    }
}
