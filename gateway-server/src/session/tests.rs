mod blocklists;
mod limits;
mod records;
mod streams;
mod virtual_time;
mod visits;

use at_protocol::Metadata;
use at_protocol::crypto::{Hash, RsaPrivateKey, cram_digest};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use super::*;
use crate::config::ServerConfig;
use crate::enrollment::{self, Enrollment, Right};
use crate::store::{Edit, Tenant, Write};

const SECRET: &str = "sesame";
/// Room in a connection, in bytes: less than the notifications that some tests do not read.
const ROOM: usize = 4096;

async fn node(toml: &str) -> Arc<Node> {
    let config: ServerConfig = toml::from_str(toml).unwrap();
    let node = Node::in_memory(config).await.unwrap();
    for name in ["@alice", "@bob"] {
        let tenant = Tenant { atsign: name.parse().unwrap(), listen: None };
        assert!(node.add_tenant(tenant, SECRET).await.unwrap());
    }
    Arc::new(node)
}

struct Client {
    stream: DuplexStream,
    seen: String,
}

impl Client {
    async fn connect(node: &Arc<Node>) -> Self {
        let (stream, server) = duplex(ROOM);
        tokio::spawn(serve(server, Arc::clone(node), Caller::default(), CancellationToken::new()));
        let mut client = Self { stream, seen: String::new() };
        assert_eq!(client.until("@").await, "@");
        client
    }

    async fn owner(node: &Arc<Node>, name: &str) -> Self {
        let mut client = Self::connect(node).await;
        let challenge = client.challenge(name).await;
        let digest = cram_digest(SECRET, &challenge);
        client.says(&format!("cram:{digest}"), &format!("data:success\n{name}@")).await;
        client
    }

    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(place) = self.seen.find(end) {
                let rest = self.seen.split_off(place + end.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let mut bytes = [0; 1024];
            let size = self.stream.read(&mut bytes).await.unwrap();
            assert!(size > 0, "closed after {:?}, waiting for {end:?}", self.seen);
            self.seen.push_str(std::str::from_utf8(&bytes[..size]).unwrap());
        }
    }

    async fn says(&mut self, line: &str, answer: &str) {
        self.write(&format!("{line}\n")).await;
        let end = answer.rfind('\n').map_or(answer, |place| &answer[place..]).to_owned();
        assert_eq!(self.until(&end).await, answer, "to {line}");
    }

    async fn challenge(&mut self, name: &str) -> String {
        self.write(&format!("from:{name}\n")).await;
        let answer = self.until("\n@").await;
        answer.strip_prefix("data:").unwrap().strip_suffix("\n@").unwrap().to_owned()
    }

    /// Everything until the server closes.
    async fn rest(mut self) -> String {
        self.stream.read_to_string(&mut self.seen).await.unwrap();
        self.seen
    }
}

#[tokio::test]
async fn lines_in_one_write_are_answered_in_order() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    alice
        .write("update:a@alice 1\nllookup:a@alice\n\nnoop:0\nupdate:a@alice 2\nllookup:a@alice\n@exit\n")
        .await;
    let answers = "data:0\n@alice@data:1\n@alice@data:ok\n@alice@data:1\n@alice@data:2\n@alice@";
    assert_eq!(alice.rest().await, answers);
}

#[tokio::test]
async fn a_line_beyond_the_limit_ends_the_connection_and_leaves_no_bytes_behind() {
    let node = node("").await;
    let mut nobody = Client::connect(&node).await;
    nobody.says("noop:0", "data:ok\n@").await;
    let long = "x".repeat(64 * 1024 + 1);
    nobody.write(&long).await;
    let answer = nobody.rest().await;
    assert_eq!(answer, "error:AT0005-Exception: a line exceeds 65536 bytes\n@");
    // An owner may say more.
    let mut alice = Client::owner(&node, "@alice").await;
    alice.says(&format!("update:a@alice {long}"), "data:0\n@alice@").await;
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_sent_away() {
    let node = node("[limits.node]\nlogin = \"30s\"").await;
    let began = tokio::time::Instant::now();
    let silent = Client::connect(&node).await;
    assert_eq!(silent.rest().await, "");
    assert_eq!(began.elapsed().as_secs(), 30);
    let mut greeted = Client::connect(&node).await;
    greeted.says("noop:0", "data:ok\n@").await;
    let began = tokio::time::Instant::now();
    assert_eq!(greeted.rest().await, "");
    assert!(began.elapsed().as_secs() > 30);
}

#[tokio::test]
async fn a_monitor_that_falls_behind_misses_nothing_and_repeats_nothing() {
    let node = node("").await;
    let mut watcher = Client::owner(&node, "@bob").await;
    watcher.write("monitor:strict edge\n").await;
    watcher.says("noop:0", "data:ok\n").await;
    let mut alice = Client::owner(&node, "@alice").await;
    // Far more than the connection, the ring and a page of the store hold.
    let count = 200;
    for number in 0..count {
        let line = format!("notify:id:n{number}:@bob:x.edge@alice:v");
        alice.says(&line, &format!("data:n{number}\n@alice@")).await;
    }
    for number in 0..count {
        let line = watcher.until("\n").await;
        assert!(line.contains(&format!("\"id\":\"n{number}\",")), "expected n{number}: {line}");
    }
    alice.says("notify:id:last:@bob:x.edge@alice:v", "data:last\n@alice@").await;
    assert!(watcher.until("\n").await.contains("\"id\":\"last\""));
}

#[tokio::test]
async fn a_monitor_begins_where_it_was_asked_to() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    for id in ["n1", "n2", "n3"] {
        alice.says(&format!("notify:id:{id}:@bob:x.edge@alice:v"), &format!("data:{id}\n@alice@")).await;
    }
    let mut bob = Client::owner(&node, "@bob").await;
    bob.write("monitor:strict:0 edge\n").await;
    let first = bob.until("\n").await;
    let moment = first.split("\"epochMillis\":").nth(1).unwrap().split(',').next().unwrap();
    let mut again = Client::owner(&node, "@bob").await;
    again.write(&format!("monitor:strict:{moment} edge\n")).await;
    assert!(again.until("\n").await.contains("\"id\":\"n2\""));
    assert!(again.until("\n").await.contains("\"id\":\"n3\""));
    alice.says("notify:id:n4:@bob:x.edge@alice:v", "data:n4\n@alice@").await;
    assert!(again.until("\n").await.contains("\"id\":\"n4\""));
}

#[tokio::test]
async fn monitors_are_told_of_commits_and_by_the_ticker() {
    let node = node("").await;
    let mut watcher = Client::owner(&node, "@alice").await;
    watcher.write("monitor nothing-like-this\n").await;
    watcher.says("noop:0", "data:ok\n").await;
    let mut alice = Client::owner(&node, "@alice").await;
    alice.says("update:a@alice 1", "data:0\n@alice@").await;
    let line = watcher.until("\n").await;
    assert!(
        line.contains("\"id\":\"-1\"") && line.contains("\"value\":\"0\",\"operation\":\"update\""),
        "{line}"
    );
    alice.says("delete:a@alice", "data:1\n@alice@").await;
    assert!(watcher.until("\n").await.contains("\"value\":\"1\",\"operation\":\"delete\""));
    node.monitors().tick(node.now());
    assert!(watcher.until("\n").await.contains("\"value\":\"1\",\"operation\":\"update\""));
}

/// Plants an enrollment of @alice that is proved by `key`.
async fn enroll(node: &Node, key: &RsaPrivateKey, metadata: Metadata) {
    let alice: AtSign = "@alice".parse().unwrap();
    let public = key.public().to_base64().to_owned();
    let mut enrollment = Enrollment::asked("_s", "app".into(), "device".into(), public).granted_whole();
    enrollment.namespaces = [("wavi".to_owned(), Right::Read)].into();
    let value = serde_json::to_string(&enrollment).unwrap();
    let edits = vec![Edit::Update { key: enrollment::record_key("e1", &alice).unwrap(), value, metadata }];
    let write = Write { edits, notification: None, now: node.now() };
    node.store.write(&alice, write).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_application_reads_its_namespace_until_its_time_is_over() {
    let node = node("").await;
    let key = RsaPrivateKey::generate();
    enroll(&node, &key, Metadata::default()).await;
    let mut alice = Client::owner(&node, "@alice").await;
    alice.says("update:a.wavi@alice 1", "data:0\n@alice@").await;
    alice.says("update:a.buzz@alice 2", "data:1\n@alice@").await;

    let mut app = Client::connect(&node).await;
    let challenge = app.challenge("@alice").await;
    let signature = key.sign(challenge.as_bytes(), Hash::Sha256);
    app.says(&format!("pkam:enrollmentId:e1:{signature}"), "data:success\n@alice@").await;
    app.says("llookup:a.wavi@alice", "data:1\n@alice@").await;
    app.says("scan", "data:[\"a.wavi@alice\"]\n@alice@").await;
    let denied =
        "error:AT0009-UnAuthorized client in request : Connection with enrollment ID e1 is not authorized to";
    app.says("llookup:a.buzz@alice", &format!("{denied} llookup key: a.buzz@alice\n@alice@")).await;
    app.says("update:a.wavi@alice 3", &format!("{denied} update key: a.wavi@alice\n@alice@")).await;
    app.says("stats:3", "data: [{\"id\":\"3\",\"name\":\"lastCommitID\",\"value\":\"0\"}]\n@alice@").await;

    // The same enrollment, now with an end that has passed.
    enroll(&node, &key, Metadata { ttl: Some(1), ..Metadata::default() }).await;
    let mut late = Client::connect(&node).await;
    let alice: AtSign = "@alice".parse().unwrap();
    let record = node.store.record(&alice, &enrollment::record_key("e1", &alice).unwrap()).await;
    let record = record.unwrap().unwrap();
    while record.is_active(node.now()) {
        tokio::task::yield_now().await;
    }
    let challenge = late.challenge("@alice").await;
    let signature = key.sign(challenge.as_bytes(), Hash::Sha256);
    let gone = "error:AT0028:enrollment_id: e1 is expired or invalid\n@";
    late.says(&format!("pkam:enrollmentId:e1:{signature}"), gone).await;
}

#[tokio::test]
async fn values_that_point_elsewhere_are_followed_three_times() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    for (name, value) in
        [("a", "atsign://b@alice"), ("b", "atsign://c@alice"), ("c", "atsign://d@alice"), ("d", "end")]
    {
        alice.write(&format!("update:public:{name}@alice {value}\n")).await;
        alice.until("\n@alice@").await;
    }
    let mut nobody = Client::connect(&node).await;
    nobody.says("lookup:a@alice", "data:end\n@").await;
    alice.write("update:public:d@alice atsign://a@alice\n").await;
    alice.until("\n@alice@").await;
    nobody.says("lookup:a@alice", "data:null\n@").await;
    nobody
        .says(
            "lookup:all:none@alice",
            "error:AT0015-Exception: public:none@alice does not exist in keystore\n@",
        )
        .await;
}

#[tokio::test]
async fn an_idle_connection_is_small() {
    let node = node("").await;
    let (_, server) = duplex(ROOM);
    let serving = serve(server, node, Caller::default(), CancellationToken::new());
    let size = size_of_val(&serving);
    assert!(size <= 1600, "a connection takes {size} bytes besides its TLS state and its socket");
}

/// Answers the challenge for @bob's server with this signature, at the server of @alice.
async fn pol(node: &Arc<Node>, sign: impl FnOnce(&str) -> String) -> (Client, String) {
    let (alice, bob): (AtSign, AtSign) = ("@alice".parse().unwrap(), "@bob".parse().unwrap());
    let (stream, server) = duplex(ROOM);
    let caller = Caller { tenant: Some(alice), ..Caller::default() };
    tokio::spawn(serve(server, Arc::clone(node), caller, CancellationToken::new()));
    let mut peer = Client { stream, seen: String::new() };
    assert_eq!(peer.until("@").await, "@");
    let asked = peer.challenge("@bob").await;
    let (session, proof) = asked.strip_prefix("proof:").unwrap().split_once("@bob:").unwrap();
    node.cookies.show(session.parse().unwrap(), bob, sign(proof));
    peer.write("pol\n").await;
    let answer = peer.until("@").await;
    (peer, answer)
}

#[tokio::test]
async fn a_server_is_believed_by_its_signature_and_sees_what_is_its_own() {
    let node = node("").await;
    let bob: AtSign = "@bob".parse().unwrap();
    crate::tenant::ensure_signing_key(&node, &bob).await.unwrap();
    let private = node.store.record(&bob, &crate::tenant::signing_private_key(&bob)).await.unwrap().unwrap();
    let key = RsaPrivateKey::from_pkcs8_base64(&private.value).unwrap();
    let (_, refused) = pol(&node, |proof| key.sign(format!("{proof}0").as_bytes(), Hash::Sha256)).await;
    assert_eq!(refused, "error:AT0401-Exception: pol authentication failed\n@");

    let mut alice = Client::owner(&node, "@alice").await;
    alice.says("update:@bob:_hidden.wavi@alice 1", "data:0\n@alice@").await;
    alice.says("update:@carol:other.wavi@alice 2", "data:1\n@alice@").await;
    let (mut peer, accepted) = pol(&node, |proof| key.sign(proof.as_bytes(), Hash::Sha256)).await;
    assert_eq!((accepted.as_str(), peer.until("@").await.as_str()), ("@", "bob@"), "the bare prompt");
    peer.says("scan", "data:[\"_hidden.wavi@alice\"]\n@bob@").await;
    peer.says("lookup:_hidden.wavi@alice", "data:1\n@bob@").await;
    let missing = "error:AT0015-Exception: @bob:other.wavi@alice does not exist in keystore\n@";
    peer.says("lookup:other.wavi@alice", missing).await;
    peer.says("notify:id:n1:@alice:x.wavi@bob:v", "data:success\n@bob@").await;
    alice.says("notify:status:n1", "data:delivered\n@alice@").await;
    let denied = "error:AT0009-Exception: @carol is not authorized to send notification as @bob\n@";
    peer.says("notify:id:n2:@alice:x.wavi@carol:v", denied).await;
}
