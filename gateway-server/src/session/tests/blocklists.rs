//! Whom a tenant turns away.

use super::*;

const AWAY: &str = "error:AT0013-Exception: Unable to connect\n@";

#[tokio::test]
async fn who_is_blocked_is_sent_away_and_may_come_again_when_he_is_not() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    let visit = async || {
        let mut caller = Client::connect(&node).await;
        caller.write("to:@alice\n").await;
        caller.until("\n@").await;
        caller.write("from:@mallory\n").await;
        caller
    };
    assert!(visit().await.until("\n@").await.starts_with("data:proof:"));
    alice.says("config:block:add:@mallory", "data:success\n@alice@").await;
    assert_eq!(visit().await.rest().await, AWAY);
    alice.says("config:block:remove:@mallory", "data:success\n@alice@").await;
    assert!(visit().await.until("\n@").await.starts_with("data:proof:"));
}

#[tokio::test]
async fn a_list_is_read_from_the_store_at_its_first_use() {
    let first = node("").await;
    let mut alice = Client::owner(&first, "@alice").await;
    alice.says("config:block:add:@mallory", "data:success\n@alice@").await;
    let (alice, key): (AtSign, _) =
        ("@alice".parse().unwrap(), crate::blocklist::Blocklist::key(&"@alice".parse().unwrap()));
    let kept = first.store.record(&alice, &key).await.unwrap().unwrap();
    assert_eq!(kept.value, "{\"blockList\":[\"@mallory\"]}");
    // Another node with the same record, which nobody has asked for yet.
    let second = node("").await;
    let edits = vec![Edit::Update { key, value: kept.value, metadata: Metadata::default() }];
    let write = Write { edits, notification: None, now: second.now() };
    second.store.write(&alice, write).await.unwrap().unwrap();
    let mut caller = Client::connect(&second).await;
    caller.write("to:@alice\n").await;
    caller.until("\n@").await;
    caller.write("FROM:@mallory\n").await;
    assert_eq!(caller.rest().await, AWAY);
}

#[tokio::test]
async fn a_neighbour_on_the_same_node_is_turned_away_like_anybody() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    alice.says("update:@bob:x.wavi@alice 1", "data:0\n@alice@").await;
    alice.says("config:block:add:@bob", "data:success\n@alice@").await;
    let mut bob = Client::owner(&node, "@bob").await;
    let refused = "error:AT0008-Handshake failure : Unable to connect\n@bob@";
    bob.says("lookup:x.wavi@alice", refused).await;
    bob.says("scan:@alice", refused).await;
    bob.says("notify:id:n1:@alice:x.wavi@bob:1", "data:n1\n@bob@").await;
    bob.says("notify:status:n1", "data:queued\n@bob@").await;
    alice.says("notify:list", "data:null\n@alice@").await;
}

#[tokio::test]
async fn a_list_has_a_longest() {
    let node = node("[limits.node]\nblocked = 2").await;
    let mut alice = Client::owner(&node, "@alice").await;
    alice.says("config:block:add:@a @b", "data:success\n@alice@").await;
    let full = "error:AT0022-Illegal arguments : at most 2 atSigns can be blocked\n@alice@";
    alice.says("config:block:add:@c", full).await;
    alice.says("config:block:show", "data:[\"@a\",\"@b\"]\n@alice@").await;
}

#[tokio::test]
async fn settings_change_under_test_only_and_automatic_notifications_with_them() {
    let node = node("[testing]\nenabled = true").await;
    let mut alice = Client::owner(&node, "@alice").await;
    alice.says("config:print:commitLogCompactionFrequencyMins", "data:18\n@alice@").await;
    alice.says("config:set:autoNotify=false", "data:ok\n@alice@").await;
    alice.says("config:print:autoNotify", "data:false\n@alice@").await;
    alice.says("update:@bob:x.wavi@alice 1", "data:0\n@alice@").await;
    let mut bob = Client::owner(&node, "@bob").await;
    bob.says("notify:list", "data:null\n@bob@").await;
    alice.says("config:reset:autoNotify", "data:ok\n@alice@").await;
    alice.says("update:@bob:x.wavi@alice 2", "data:1\n@alice@").await;
    bob.write("notify:list\n").await;
    assert!(bob.until("\n@bob@").await.contains("\"value\":\"2\""));
    alice.write("config:set:colour=red\n").await;
    assert!(alice.until("\n@alice@").await.starts_with("error:AT0003-"));
}
