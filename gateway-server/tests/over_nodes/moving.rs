//! AtSigns that move from node to node while others write to them.

use std::sync::Arc;
use std::time::Duration;

use at_client::pin::pinned;
use at_client::tls::{ClientTls, dial};
use at_protocol::directory::Address;
use at_protocol::peer::ALPN;
use at_protocol::session::server::Hosts as _;
use atedge_server::store::Departure;
use atedge_service::tls::NodeIdentity;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::time::timeout;

use crate::fleet::{Fleet, Node, PATIENCE, atsign};
use crate::values;

fn address(node: &Node) -> Address {
    format!("localhost:{}", node.address.port()).parse().expect("an address")
}

/// Waits until it is decided what became of a move.
async fn decided(node: &Node, who: &str) -> Departure {
    let waiting = async {
        loop {
            match node.running().departure(&atsign(who)).await.expect("a store") {
                Some(state) if !state.is_underway() => return state,
                Some(_) | None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(PATIENCE, waiting).await.expect("a decision")
}

async fn moved(from: &Node, who: &str, to: &Node) -> Departure {
    from.running().move_tenant(&atsign(who), address(to)).await.expect("a store");
    decided(from, who).await
}

fn serves(node: &Node, who: &str) -> bool {
    node.running().node().hosts(&atsign(who))
}

async fn until_served(node: &Node, who: &str) {
    let waiting = async {
        while !serves(node, who) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it is served");
}

/// Waits until a node has given @alice away.
async fn until_given(node: &Node) {
    let waiting = async {
        let alice = atsign("@alice");
        while !matches!(node.running().departure(&alice).await, Ok(Some(Departure::Given { .. }))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it is given away");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_atsign_moves_with_all_it_has_while_others_write_to_it() {
    let fleet = Fleet::start().await;
    let first = fleet.house("first", &["@alice", "@bob"]).await;
    let second = fleet.house("second", &["@carol"]).await;
    let mut alice = fleet.owner(&first, "@alice").await;
    for number in 0..300 {
        alice.says(&format!("update:public:n{number}.test@alice {number}")).await;
    }
    let newest = alice.says("update:location.test@alice hall 3").await;
    // What alice has sent before goes along, what others send finds her, before, meanwhile and after.
    alice.notifies("@carol", 0..20).await;
    let (mut bob, mut carol) = (fleet.owner(&first, "@bob").await, fleet.owner(&second, "@carol").await);
    let sending = async {
        for round in 0..20 {
            bob.notifies("@alice", round * 10..round * 10 + 10).await;
            carol.notifies("@alice", round * 10..round * 10 + 10).await;
        }
    };
    let (_, state) = tokio::join!(sending, moved(&first, "@alice", &second));
    let Departure::Done { record } = state else { panic!("{state:?}") };
    assert_eq!((record.node(), record.at.address.port()), (&second.public(), second.address.port()));
    assert_eq!(fleet.record("@alice").as_ref(), Some(&*record));
    assert!(!serves(&first, "@alice") && serves(&second, "@alice"));
    assert_eq!(first.running().tenants().await.expect("a store").len(), 1, "nothing of her stays");
    bob.until_status("ae1-bob-199-1", "delivered").await;
    carol.until_status("ae1-carol-199-1", "delivered").await;

    let mut alice = fleet.owner(&second, "@alice").await;
    assert_eq!(alice.says("llookup:location.test@alice").await, "hall 3");
    let next: i64 = alice.says("update:location.test@alice hall 4").await.parse().expect("a commit id");
    assert_eq!(next, newest.parse::<i64>().expect("a commit id") + 1);
    alice.until_status("ae1-alice-19-1", "delivered").await;
    alice.wire.tell(&"monitor:1 test");
    let (mut from_bob, mut from_carol) = (Vec::new(), Vec::new());
    while from_bob.len() + from_carol.len() < 400 {
        let heard = alice.hears().await;
        let values = if heard.from == atsign("@bob") { &mut from_bob } else { &mut from_carol };
        values.push(heard.value.expect("a value"));
    }
    assert_eq!((from_bob, from_carol), (values(0..200), values(0..200)), "each once, in order");
    let mut carol = fleet.owner(&second, "@carol").await;
    carol.wire.tell(&"monitor:1 test");
    assert_eq!(carol.hears_values(20).await, values(0..20));

    // And home again, where she was before.
    let state = moved(&second, "@alice", &first).await;
    assert!(matches!(state, Departure::Done { .. }), "{state:?}");
    let mut alice = fleet.owner(&first, "@alice").await;
    assert_eq!(alice.says("llookup:location.test@alice").await, "hall 4");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_move_stays_as_it_was() {
    let fleet = Fleet::start().await;
    let first = fleet.house("first", &["@alice"]).await;
    let second = fleet.house("second", &[]).await;
    let ungranted = fleet.node("ungranted", &[], "").await;
    let refused = async |who: &str, to: Address| {
        first.running().move_tenant(&atsign(who), to).await.expect("a store");
        let state = decided(&first, who).await;
        let Departure::Refused { why } = state else { panic!("{state:?}") };
        why
    };
    let nowhere = "localhost:1".parse().expect("an address");
    assert!(refused("@alice", nowhere).await.contains("cannot reach"));
    assert!(refused("@alice", address(&first)).await.contains("this node itself"));
    let why = refused("@alice", address(&ungranted)).await;
    assert!(why.contains("broke") || why.contains("nothing"), "{why}");
    assert!(refused("@nobody", address(&second)).await.contains("not hosted here"));
    // A node for which the directory does not speak.
    let ours = fleet.record("@alice").expect("a record");
    fleet.say(&crate::fleet::record(&crate::fleet::key(7), "@alice", 7, ours.at.seq + 1));
    assert!(refused("@alice", address(&second)).await.contains("does not say"));
    fleet.say(&ours);
    assert!(serves(&first, "@alice") && !serves(&second, "@alice"));
    fleet.owner(&first, "@alice").await.says("update:location.test@alice hall 3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_away_is_served_there_once_the_directory_says_so_whoever_stops_meanwhile() {
    let fleet = Fleet::start().await;
    let mut first = fleet.house("first", &["@alice"]).await;
    let mut second = fleet.house("second", &[]).await;
    fleet.owner(&first, "@alice").await.says("update:location.test@alice hall 3").await;
    fleet.set_deaf(true);
    first.running().move_tenant(&atsign("@alice"), address(&second)).await.expect("a store");
    until_given(&first).await;
    assert!(!serves(&first, "@alice") && !serves(&second, "@alice"));
    first.stop().await;
    second.stop().await;
    first.start().await;
    second.start().await;
    assert!(!serves(&first, "@alice") && !serves(&second, "@alice"));
    fleet.set_deaf(false);
    let state = decided(&first, "@alice").await;
    assert!(matches!(&state, Departure::Done { record } if *record.node() == second.public()), "{state:?}");
    until_served(&second, "@alice").await;
    assert!(!serves(&first, "@alice"));
    let mut alice = fleet.owner(&second, "@alice").await;
    assert_eq!(alice.says("llookup:location.test@alice").await, "hall 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_that_might_serve_it_the_directory_takes_one() {
    let fleet = Fleet::start().await;
    let first = fleet.house("first", &["@alice"]).await;
    let second = fleet.house("second", &[]).await;
    let before = fleet.record("@alice").expect("a record");
    fleet.set_deaf(true);
    first.running().move_tenant(&atsign("@alice"), address(&second)).await.expect("a store");
    until_given(&first).await;
    // The first node's record with the next number is there before the second's.
    fleet.say(&first.record("@alice", before.at.seq + 1));
    fleet.set_deaf(false);
    let state = decided(&first, "@alice").await;
    assert!(matches!(&state, Departure::Refused { .. }), "{state:?}");
    until_served(&first, "@alice").await;
    assert!(!serves(&second, "@alice"));
    fleet.owner(&first, "@alice").await.says("update:location.test@alice hall 3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_lost_node_served_is_served_here_once_the_operator_says_so() {
    let fleet = Fleet::start().await;
    let mut first = fleet.house("first", &["@alice"]).await;
    fleet.owner(&first, "@alice").await.says("update:location.test@alice hall 3").await;
    let lost = fleet.record("@alice").expect("a record").at.seq + 1;
    fleet.say(&crate::fleet::record(&crate::fleet::key(7), "@alice", 7, lost));
    // It learns at its next start that another node serves her.
    first.stop().await;
    first.start().await;
    let gone = async {
        while serves(&first, "@alice") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("she is served no more");
    let store = first.offline().await;
    assert!(store.claim(&atsign("@alice")).await.expect("a store"));
    let state = decided(&first, "@alice").await;
    assert!(matches!(&state, Departure::Done { record } if record.at.seq == lost + 1), "{state:?}");
    until_served(&first, "@alice").await;
    fleet.until("@alice", |record| *record.node() == first.public()).await;
    let mut alice = fleet.owner(&first, "@alice").await;
    assert_eq!(alice.says("llookup:location.test@alice").await, "hall 3");
    // And again after a restart.
    first.stop().await;
    first.start().await;
    assert!(serves(&first, "@alice"));
}

/// Says lines to a node, as another, to move @alice there, and gives what it answers until it hangs up.
async fn told(to: &Node, identity: &Arc<NodeIdentity>, lines: &[&str]) -> Vec<String> {
    let tls = ClientTls::from(pinned(&to.public(), Some(Arc::clone(identity) as _), ALPN));
    let stream = dial(&address(to), &tls, PATIENCE).await.expect("a connection");
    let mut stream = BufStream::new(stream);
    let (mut answers, mut line) = (Vec::new(), String::new());
    stream.write_all(b"move:@alice\n").await.expect("a write");
    stream.flush().await.expect("a write");
    stream.read_line(&mut line).await.expect("an answer");
    answers.push(std::mem::take(&mut line));
    for line in lines {
        stream.write_all(format!("{line}\n").as_bytes()).await.expect("a write");
    }
    stream.flush().await.expect("a write");
    stream.get_mut().get_mut().1.send_close_notify();
    stream.flush().await.expect("a write");
    while timeout(PATIENCE, stream.read_line(&mut line)).await.expect("an answer").is_ok_and(|size| size > 0)
    {
        answers.push(std::mem::take(&mut line));
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_node_that_serves_it_moves_it_and_half_of_it_is_nothing() {
    const BEGIN: &str = r#"{"say":"begin"}"#;
    const HEAD: &str = r#"{"format":"atedge-tenant","version":1,"atsign":"@alice","listen":null}"#;
    let fleet = Fleet::start().await;
    let first = fleet.house("first", &["@alice"]).await;
    let second = fleet.house("second", &[]).await;
    let identity = |folder: &std::path::Path| {
        Arc::new(NodeIdentity::open_or_create(&folder.join("node.key")).expect("a key"))
    };
    let elsewhere = tempfile::tempdir().expect("a folder");
    let stranger = identity(elsewhere.path());
    let last = async |who: &Arc<NodeIdentity>, lines: &[&str]| {
        told(&second, who, lines).await.pop().expect("an answer")
    };
    assert!(last(&stranger, &[BEGIN]).await.contains("does not say that the node"));
    assert!(last(&stranger, &[r#"{"say":"take","seq":9}"#]).await.contains("nothing was copied"));
    let ours = identity(&first.folder);
    assert!(last(&ours, &[r#"{"say":"take","seq":9}"#]).await.contains("nothing was copied"));
    let bob = HEAD.replace("@alice", "@bob");
    for rows in [
        &[bob.as_str(), r#"{"rows":0}"#][..],
        &["no JSON"],
        &[HEAD, r#"{"table":"tenant","columns":{"atsign":"bob"}}"#, r#"{"rows":1}"#],
        &[HEAD, r#"{"rows":1}"#],
        &[HEAD],
    ] {
        let lines: Vec<&str> = [BEGIN].iter().chain(rows).copied().collect();
        assert!(last(&ours, &lines).await.contains("welcome"), "{rows:?} are not stored");
        assert!(last(&ours, &[r#"{"say":"take","seq":9}"#]).await.contains("nothing was copied"), "{rows:?}");
    }
    assert!(serves(&first, "@alice") && !serves(&second, "@alice"));
    assert_eq!(fleet.record("@alice").expect("a record").node(), &first.public());
}
