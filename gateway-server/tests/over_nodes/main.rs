//! Nodes that know each other by their keys: over QUIC, over TCP where UDP does not pass, and not at all where
//! the keys are wrong.

mod agents;
mod fleet;
mod moving;

use std::sync::Arc;

use at_client::pin::pinned;
use at_client::tls::{ClientTls, dial};
use at_client::wire::{Said, WireError};
use at_client::{TlsWire, Wire};
use at_protocol::crypto::Ed25519Public;
use at_protocol::peer::{ALPN, Opening};
use atedge_service::tls::NodeIdentity;
use fleet::{Fleet, Node, PATIENCE, atsign, key, record};
use tokio::time::timeout;

fn values(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("v{number}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_and_look_ups_cross_on_one_connection() {
    let fleet = Fleet::start().await;
    let first = fleet.node("first", &["@alice", "@carol"], "").await;
    let second = fleet.node("second", &["@bob", "@dave"], "").await;
    let mut alice = fleet.owner(&first, "@alice").await;
    let mut carol = fleet.owner(&first, "@carol").await;
    let mut bob = fleet.owner(&second, "@bob").await;
    let mut dave = fleet.owner(&second, "@dave").await;
    bob.monitors();
    dave.monitors();
    alice.notifies("@bob", 0..300).await;
    assert_eq!(bob.hears_values(300).await, values(0..300));
    carol.notifies("@dave", 0..3).await;
    assert_eq!(dave.hears_values(3).await, values(0..3));
    alice.until_status("ae1-alice-299-1", "delivered").await;
    // Both ways, shared and public.
    let mut bob = fleet.owner(&second, "@bob").await;
    alice.says("update:@bob:phone.test@alice 555").await;
    alice.says("update:public:location.test@alice hall 3").await;
    assert_eq!(bob.says("lookup:phone.test@alice").await, "555");
    assert_eq!(bob.says("plookup:location.test@alice").await, "hall 3");
    bob.notifies("@alice", 0..1).await;
    bob.until_status("ae1-bob-0-1", "delivered").await;
    // What the first node has made, the second uses.
    for owner in [&mut alice, &mut bob] {
        let stats = owner.says("stats:2").await;
        assert!(stats.contains(r#""value":"1""#), "{stats}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_while_the_other_node_comes_and_goes() {
    let fleet = Fleet::start().await;
    let first = fleet.node("first", &["@alice"], "").await;
    let mut second = fleet.node("second", &["@bob"], "").await;
    let mut alice = fleet.owner(&first, "@alice").await;
    for round in 0..5 {
        alice.notifies("@bob", round * 50..round * 50 + 25).await;
        second.stop().await;
        alice.notifies("@bob", round * 50 + 25..round * 50 + 50).await;
        second.start().await;
    }
    alice.until_status("ae1-alice-249-1", "delivered").await;
    let mut bob = fleet.owner(&second, "@bob").await;
    bob.wire.tell(&"monitor:1 test");
    assert_eq!(bob.hears_values(250).await, values(0..250));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_does_not_pass_tcp_does_with_the_same_keys() {
    let fleet = Fleet::start().await;
    let first = fleet.node("first", &["@alice"], "").await;
    let second = fleet.node("second", &["@bob"], "listen.quic = false").await;
    let (mut alice, mut bob) = (fleet.owner(&first, "@alice").await, fleet.owner(&second, "@bob").await);
    bob.monitors();
    alice.notifies("@bob", 0..20).await;
    assert_eq!(bob.hears_values(20).await, values(0..20));
    // A node of another key at the same place is not spoken to, over either way.
    fleet.say(&record(&key(9), "@dave", second.address.port(), 1));
    alice.notifies("@dave", 20..21).await;
    let refused = alice.wire.request(&"plookup:location.test@dave").await.unwrap_err();
    assert!(refused.to_string().contains("not the one that the signed record names"), "{refused}");
    alice.until_status("ae1-alice-20-1", "errored").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_the_wrong_key_holds_what_waits_until_it_is_right() {
    let mut fleet = Fleet::start().await;
    let first = fleet.node("first", &["@alice"], "").await;
    let second = fleet.node("second", &["@bob"], "").await;
    // Signed by the node that it names, with a grant, but another node is there.
    fleet.say(&record(&key(9), "@bob", second.address.port(), 1));
    let (mut alice, mut bob) = (fleet.owner(&first, "@alice").await, fleet.owner(&second, "@bob").await);
    bob.monitors();
    alice.notifies("@bob", 0..3).await;
    alice.until_status("ae1-alice-0-1", "errored").await;
    fleet.say(&second.record("@bob", 2));
    assert_eq!(bob.hears_values(3).await, values(0..3));
    // What was believed serves on without the directory.
    fleet.close_directory().await;
    alice.notifies("@bob", 3..6).await;
    assert_eq!(bob.hears_values(3).await, values(3..6));
}

/// A node of its own making, which speaks to others over TCP or QUIC.
struct Stranger(Arc<NodeIdentity>);

impl Stranger {
    fn new(fleet: &Fleet) -> Self {
        let file = fleet.authority.ca().with_file_name("stranger.key");
        Self(Arc::new(NodeIdentity::open_or_create(&file).expect("a key")))
    }

    fn public(&self) -> Ed25519Public {
        Ed25519Public::from_bytes(*self.0.public()).expect("a key")
    }

    /// Has the directory say that it serves an atSign, where nobody finds it.
    fn serves(&self, fleet: &Fleet, who: &str) {
        let end = at_protocol::Timestamp::from(std::time::SystemTime::now()).plus_millis(3_600_000);
        let granted = vec![who.parse().expect("an atSign")];
        let grant = at_protocol::directory::Grant::sign(&fleet::registrar(), self.public(), granted, end);
        let at = at_protocol::directory::Location {
            address: "localhost:1".parse().expect("an address"),
            quic: 1,
            seq: 1,
            not_after: end,
        };
        let pem = std::fs::read_to_string(self.0.path()).expect("a key file");
        let secret = at_protocol::crypto::Ed25519Secret::from_pem(&pem).expect("a key");
        fleet.say(&at_protocol::directory::SignedRecord::sign(&secret, atsign(who), at, grant));
    }

    /// A connection over QUIC.
    async fn connects(&self, endpoint: &quinn::Endpoint, to: &Node) -> quinn::Connection {
        let crypto = pinned(&to.public(), Some(self.0.clone()), ALPN);
        let crypto =
            quinn::crypto::rustls::QuicClientConfig::try_from(crypto).expect("a suite for the first packets");
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        endpoint
            .connect_with(config, to.address, "localhost")
            .expect("an address")
            .await
            .expect("a connection")
    }

    async fn says(&self, to: &Node, lines: &[&str]) -> TlsWire {
        let tls = ClientTls::from(pinned(&to.public(), Some(self.0.clone()), ALPN));
        let address = format!("localhost:{}", to.address.port()).parse().expect("an address");
        let mut wire = Wire::begin(dial(&address, &tls, PATIENCE).await.expect("a connection"));
        lines.iter().for_each(|line| wire.say(line));
        wire
    }
}

async fn heard(wire: &mut TlsWire) -> Result<String, String> {
    match timeout(PATIENCE, wire.next()).await.expect("an answer") {
        Ok(Said::Answer(answer)) => answer.map_err(|error| error.to_string()),
        Ok(Said::Notification(_)) => Err("a notification".to_owned()),
        Err(WireError::Closed) => Err("closed".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

const ALICE_TO_BOB: &str = "from:@alice to:@bob";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_speaks_for_those_only_whose_record_has_its_key() {
    let fleet = Fleet::start().await;
    let first = fleet.node("first", &["@alice"], "").await;
    let second = fleet.node("second", &["@bob"], "").await;
    let stranger = Stranger::new(&fleet);
    for (line, why) in [
        (ALICE_TO_BOB, "does not speak for @alice"),
        ("ask:@alice to:@bob", "does not speak for @alice"),
        ("from:@nobody to:@bob", "it is not known which node speaks for @nobody"),
        ("from:@alice to:@dave", "@dave is not hosted here"),
        ("pol", "a stream between nodes begins with"),
    ] {
        let mut wire = stranger.says(&second, &[line]).await;
        let refused = heard(&mut wire).await.unwrap_err();
        assert!(refused.contains(why), "{line}: {refused}");
        assert_eq!(heard(&mut wire).await, Err("closed".to_owned()));
    }
    // In nobody's name it may ask, as anybody may.
    let mut bob = fleet.owner(&second, "@bob").await;
    bob.says("update:public:location.test@bob hall 3").await;
    let mut wire = stranger.says(&second, &["ask to:@bob", "lookup:location.test@bob", "scan"]).await;
    assert_eq!(heard(&mut wire).await.as_deref(), Ok("success"));
    assert_eq!(heard(&mut wire).await.as_deref(), Ok("hall 3"));
    assert!(heard(&mut wire).await.is_ok());
    // A server of old that claims to be @alice's: she is known by her node's key alone.
    let mut pol = fleet.owner(&second, "@bob").await.wire;
    assert!(pol.request(&"from:@alice").await.unwrap().starts_with("proof:"));
    let refused = pol.pol(&atsign("@alice")).await.unwrap_err();
    assert!(refused.to_string().contains("in no other way"), "{refused}");
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_takes_lines_up_to_the_first_that_it_cannot_and_a_newer_one_ends_it() {
    let fleet = Fleet::start().await;
    let second = fleet.node("second", &["@bob"], "").await;
    let stranger = Stranger::new(&fleet);
    stranger.serves(&fleet, "@alice");
    let notify = |number: u32| {
        format!("notify:id:ae1-x-{number}-1:update:ttln:600000:@bob:n{number}.test@alice:v{number}")
    };
    let (one, two, three) = (notify(1), notify(2), notify(3));
    let foreign = "notify:update:@bob:n.test@carol:v";
    let mut wire = stranger.says(&second, &[ALICE_TO_BOB, &one, &two, foreign, &three]).await;
    for _ in 0..3 {
        assert_eq!(heard(&mut wire).await.as_deref(), Ok("success"));
    }
    assert!(heard(&mut wire).await.unwrap_err().contains("not authorized"));
    assert_eq!(heard(&mut wire).await, Err("closed".to_owned()));

    let mut older = stranger.says(&second, &[ALICE_TO_BOB, &two]).await;
    for _ in 0..2 {
        assert_eq!(heard(&mut older).await.as_deref(), Ok("success"));
    }
    let mut newer = stranger.says(&second, &[ALICE_TO_BOB, &three]).await;
    for _ in 0..2 {
        assert_eq!(heard(&mut newer).await.as_deref(), Ok("success"));
    }
    assert_eq!(heard(&mut older).await, Err("closed".to_owned()));
    let mut bob = fleet.owner(&second, "@bob").await;
    bob.wire.tell(&"monitor:1 test");
    assert_eq!(bob.hears_values(3).await, values(1..4), "each once");
    assert_eq!(ALICE_TO_BOB.parse::<Opening>().unwrap().to(), &atsign("@bob"));
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_others_records_follow_their_owner_across_nodes() {
    let fleet = Fleet::start().await;
    // It does not tell of updates by itself, which would renew the copies at any moment.
    let first = fleet.node("first", &["@alice"], "records.auto_notify = false").await;
    let second = fleet.node("second", &["@bob"], "testing.enabled = true").await;
    let (mut alice, mut bob) = (fleet.owner(&first, "@alice").await, fleet.owner(&second, "@bob").await);
    let copy = |key: &str| format!("llookup:cached:@bob:{key}.test@alice");
    // What is looked up with a `ttr` is kept, answers, and is passed by on request.
    alice.says("update:ttr:600:@bob:looked.test@alice one").await;
    assert_eq!(bob.says("lookup:looked.test@alice").await, "one");
    assert_eq!(bob.says(&copy("looked")).await, "one");
    alice.says("update:ttr:600:@bob:looked.test@alice two").await;
    assert_eq!(bob.says("lookup:looked.test@alice").await, "one");
    assert_eq!(bob.says("lookup:bypassCache:true:looked.test@alice").await, "two");
    assert_eq!(bob.says("lookup:looked.test@alice").await, "two");
    // Without one it is asked for each time; public records too.
    for (value, number) in [("a", 1), ("b", 2)] {
        alice.says(&format!("update:@bob:fresh.test@alice {value}")).await;
        alice.says(&format!("update:public:open.test@alice {number}")).await;
        assert_eq!(bob.says("lookup:fresh.test@alice").await, value);
        assert_eq!(bob.says("plookup:open.test@alice").await, number.to_string());
    }
    // What is notified with a `ttr` is kept; with `ccd` it goes when its owner deletes it.
    let notify = async |alice: &mut fleet::Owner, id: &str, what: &str| {
        alice.says(&format!("notify:id:ae1-c-{id}-1:{what}")).await;
        alice.until_status(&format!("ae1-c-{id}-1"), "delivered").await;
    };
    notify(&mut alice, "1", "update:ttr:-1:ccd:true:@bob:gone.test@alice:v").await;
    notify(&mut alice, "2", "update:ttr:-1:ccd:false:@bob:stays.test@alice:v").await;
    assert_eq!(bob.says(&copy("gone")).await, "v");
    notify(&mut alice, "3", "delete:@bob:gone.test@alice").await;
    notify(&mut alice, "4", "delete:@bob:stays.test@alice").await;
    assert!(bob.wire.request(&copy("gone")).await.is_err());
    assert_eq!(bob.says(&copy("stays")).await, "v");
    // A refresh fetches what is due again, and drops what is gone.
    alice.says("update:ttr:1:@bob:due.test@alice old").await;
    assert_eq!(bob.says("lookup:due.test@alice").await, "old");
    alice.says("update:ttr:1:@bob:due.test@alice new").await;
    until_copy(&mut bob, &copy("due"), Some("new")).await;
    alice.says("delete:@bob:due.test@alice").await;
    until_copy(&mut bob, &copy("due"), None).await;
}

/// Refreshes until the copy is this.
async fn until_copy(bob: &mut fleet::Owner, line: &str, expected: Option<&str>) {
    let waited = timeout(PATIENCE, async {
        loop {
            bob.says("config:set:doCacheRefreshNow=true").await;
            if bob.wire.request(&line).await.ok().as_deref() == expected {
                return;
            }
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{line} never was {expected:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_for_nobody_is_sent_away_from_a_connection() {
    let fleet = Fleet::start().await;
    let first = fleet.node("first", &["@alice"], "").await;
    let second = fleet.node("second", &["@bob"], "").await;
    let stranger = Stranger::new(&fleet);
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connection = stranger.connects(&endpoint, &second).await;
    let mut refused = 0;
    let closed = loop {
        let (mut send, mut recv) = match connection.open_bi().await {
            Ok(both) => both,
            Err(closed) => break closed,
        };
        if send.write_all(format!("{ALICE_TO_BOB}\n").as_bytes()).await.is_err() {
            break connection.closed().await;
        }
        match timeout(PATIENCE, recv.read_to_end(1000)).await.expect("an answer") {
            Ok(answer) => assert!(answer.starts_with(b"error:AT0401-")),
            Err(_) => break connection.closed().await,
        }
        refused += 1;
        assert!(refused < 100, "it is never sent away");
    };
    assert!(closed.to_string().contains("too many streams were refused"), "{closed}");
    // Those who are known are not troubled.
    let mut alice = fleet.owner(&first, "@alice").await;
    alice.notifies("@bob", 0..1).await;
    alice.until_status("ae1-alice-0-1", "delivered").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_is_reached_as_soon_as_it_connects_again() {
    let fleet = Fleet::start().await;
    let second = fleet.node("second", &["@bob"], "").await;
    let stranger = Stranger::new(&fleet);
    stranger.serves(&fleet, "@alice");
    let mut bob = fleet.owner(&second, "@bob").await;
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut lives = Vec::new();
    for number in 0..2 {
        let connection = stranger.connects(&endpoint, &second).await;
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(format!("{ALICE_TO_BOB}\n").as_bytes()).await.unwrap();
        let mut welcome = [0; 12];
        timeout(PATIENCE, recv.read_exact(&mut welcome)).await.expect("a welcome").unwrap();
        assert_eq!(&welcome, b"data:success");
        // Nobody answers it, as if the connection had been lost at once.
        bob.notifies("@alice", number..number + 1).await;
        let opened =
            timeout(PATIENCE, connection.accept_bi()).await.expect("a stream of the newest connection");
        lives.push((connection, opened.unwrap(), send, recv));
    }
    let closed = timeout(PATIENCE, lives[0].0.closed()).await.expect("an end");
    assert!(closed.to_string().contains("another was made"), "{closed}");
    assert!(lives[1].0.close_reason().is_none());
}
