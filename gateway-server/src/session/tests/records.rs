//! Records over a connection, where more than one atSign or a setting has to do with it.

use at_protocol::Response;

use super::*;

/// The answer to a line that only the owner of `name` says.
async fn answer(client: &mut Client, line: &str, name: &str) -> String {
    client.write(&format!("{line}\n")).await;
    let answer = client.until(&format!("\n{name}@")).await;
    answer.strip_suffix(&format!("\n{name}@")).unwrap().to_owned()
}

#[tokio::test]
async fn a_new_public_key_puts_the_old_pair_key_aside_and_leaves_an_event() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    let mut bob = Client::owner(&node, "@bob").await;
    bob.says("update:public:publickey@bob old", "data:0\n@bob@").await;
    alice.says("plookup:publickey@bob", "data:old\n@alice@").await;
    alice.says("update:shared_key.bob@alice pair", "data:1\n@alice@").await;
    alice.says("plookup:bypassCache:true:publickey@bob", "data:old\n@alice@").await;
    alice.says("llookup:shared_key.bob@alice", "data:pair\n@alice@").await;

    bob.says("update:public:publickey@bob new", "data:1\n@bob@").await;
    alice.says("plookup:publickey@bob", "data:old\n@alice@").await;
    let before = answer(&mut alice, "stats:3", "@alice").await;
    assert!(before.contains("\"value\":\"2\""), "a copy that is kept for good answers: {before}");
    alice.says("plookup:bypassCache:true:publickey@bob", "data:new\n@alice@").await;
    alice.says("llookup:cached:public:publickey@bob", "data:new\n@alice@").await;
    let listed = answer(&mut alice, "scan shared_key|__atserver", "@alice").await;
    let keys: Vec<String> = serde_json::from_str(listed.strip_prefix("data:").unwrap()).unwrap();
    let [event, aside] = keys.as_slice() else { panic!("{keys:?}") };
    let moment = aside.strip_prefix("shared_key.bob.until.").unwrap().strip_suffix("@alice").unwrap();
    assert_eq!(*event, format!("{moment}000.events.__atserver@alice"));
    alice.says(&format!("llookup:{aside}"), "data:pair\n@alice@").await;
    let told = r#"{"category":"atProtocol","name":"atsign_pk_changed","data":{"atSign":"@bob"}}"#;
    alice.says(&format!("llookup:{event}"), &format!("data:{told}\n@alice@")).await;
}

#[tokio::test]
async fn what_is_not_there_any_more_leaves_no_copy() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    let mut bob = Client::owner(&node, "@bob").await;
    bob.says("update:ttr:-1:@alice:k@bob 1", "data:0\n@bob@").await;
    alice.says("lookup:all:k@bob", "data:").await;
    assert!(alice.until("\n@alice@").await.starts_with(r#"{"key":"cached:@alice:k@bob","data":"1""#));
    bob.says("delete:@alice:k@bob", "data:1\n@bob@").await;
    alice.says("lookup:k@bob", "data:1\n@alice@").await;
    let gone = "error:AT0015-key not found : Exception: @alice:k@bob does not exist in keystore\n@alice@";
    alice.says("lookup:bypassCache:true:k@bob", gone).await;
    let gone = "error:AT0015-key not found : cached:@alice:k@bob does not exist in keystore\n@alice@";
    alice.says("llookup:cached:@alice:k@bob", gone).await;
    // What is not born yet is `null` there, and nothing here.
    bob.says("update:ttb:600000:public:late@bob 1", "data:2\n@bob@").await;
    let null = "error:AT0015-key not found : Exception: public:late@bob does not exist in keystore\n@alice@";
    alice.says("plookup:late@bob", null).await;
}

#[tokio::test]
async fn copies_that_nobody_asked_to_keep_answer_nobody() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    let mut bob = Client::owner(&node, "@bob").await;
    bob.says("update:public:p@bob 1", "data:0\n@bob@").await;
    alice.says("plookup:p@bob", "data:1\n@alice@").await;
    bob.says("update:public:p@bob 2", "data:1\n@bob@").await;
    alice.says("llookup:cached:public:p@bob", "data:1\n@alice@").await;
    alice.says("plookup:p@bob", "data:2\n@alice@").await;
    let metadata = answer(&mut alice, "llookup:meta:cached:public:p@bob", "@alice").await;
    assert!(metadata.contains("\"ttl\":86400000"), "{metadata}");
    bob.says("update:@alice:s@bob 1", "data:2\n@bob@").await;
    alice.says("lookup:s@bob", "data:1\n@alice@").await;
    let none = "error:AT0015-key not found : cached:@alice:s@bob does not exist in keystore\n@alice@";
    alice.says("llookup:cached:@alice:s@bob", none).await;
}

#[tokio::test]
async fn a_copy_goes_with_an_immutable_original() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    let mut bob = Client::owner(&node, "@bob").await;
    bob.says("update:ttr:-1:ccd:true:immutable:true:@alice:k@bob 1", "data:0\n@bob@").await;
    alice.says("llookup:cached:@alice:k@bob", "data:1\n@alice@").await;
    bob.says("delete:force:@alice:k@bob", "data:1\n@bob@").await;
    let gone = "error:AT0015-key not found : cached:@alice:k@bob does not exist in keystore\n@alice@";
    alice.says("llookup:cached:@alice:k@bob", gone).await;
}

#[tokio::test]
async fn metadata_alone_is_told_without_a_value() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    let mut bob = Client::owner(&node, "@bob").await;
    bob.write("monitor edge\n").await;
    bob.says("noop:0", "data:ok\n").await;
    alice.says("update:@bob:k.edge@alice 1", "data:0\n@alice@").await;
    assert!(bob.until("\n").await.contains(r#""key":"@bob:k.edge@alice","value":"1","operation":"update""#));
    alice.says("update:meta:@bob:k.edge@alice:ttl:60000", "data:1\n@alice@").await;
    assert!(bob.until("\n").await.contains(r#""key":"@bob:k.edge@alice","value":null,"operation":"update""#));
}

#[tokio::test]
async fn settings_decide_who_is_told_and_what_stays() {
    let node = node("[records]\nauto_notify = false\nprotected = [\"public:Location.wavi\"]").await;
    let mut alice = Client::owner(&node, "@alice").await;
    let mut bob = Client::owner(&node, "@bob").await;
    alice.says("update:@bob:k.edge@alice 1", "data:0\n@alice@").await;
    alice.says("delete:@bob:k.edge@alice", "data:1\n@alice@").await;
    bob.says("notify:list", "data:null\n@bob@").await;
    alice.says("update:public:location.wavi@alice 1", "data:2\n@alice@").await;
    let refused = "error:AT0009-UnAuthorized client in request : Cannot delete protected key: \
                   'public:Location.wavi@alice'\n@alice@";
    alice.says("delete:public:location.wavi@alice", refused).await;
    alice.says("delete:location.wavi@alice", "data:3\n@alice@").await;
}

#[tokio::test]
async fn keys_are_as_long_as_they_may_be() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    let key = |length: usize| format!("{}@alice", "🦄".repeat(length - "@alice".len()));
    alice.says(&format!("update:{} v", key(248)), "data:0\n@alice@").await;
    alice.says(&format!("llookup:{}", key(248)), "data:v\n@alice@").await;
    let refused = "error:AT0016-Invalid key : key length 249 is greater than max allowed 248 chars\n@alice@";
    alice.says(&format!("update:{} v", key(249)), refused).await;
}

#[tokio::test]
async fn keys_that_other_servers_had_to_clean_up_cannot_be_written() {
    // `public:cached:…` and `public:publickey` without an owner (wire reference §3.5).
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    for line in [
        "update:public:cached:x@alice v",
        "update:public:publickey v",
        r#"update:json:{"atKey":"public:cached:x","value":"v","sharedBy":"@alice"}"#,
        r#"update:json:{"atKey":"public:publickey","value":"v"}"#,
    ] {
        let refused = answer(&mut alice, line, "@alice").await;
        assert!(refused.starts_with("error:AT0003-"), "{line}: {refused}");
    }
}

#[tokio::test]
async fn a_page_of_the_log_ends_at_its_size_and_has_one_entry_at_least() {
    let node = node("").await;
    let alice: AtSign = "@alice".parse().unwrap();
    // Straight to the store and to the verb: the connection of these tests is a narrow one.
    for (id, megabytes) in [3, 2, 6, 1, 1].into_iter().enumerate() {
        let key = format!("k{id}.wavi@alice").parse().unwrap();
        let value = "v".repeat(megabytes * 1024 * 1024);
        let edits = vec![Edit::Update { key, value, metadata: Metadata::default() }];
        let write = Write { edits, notification: None, now: node.now() };
        node.store.write(&alice, write).await.unwrap().unwrap();
    }
    let who = Principal::Owner;
    let mut pages = Vec::new();
    let mut after = -1;
    while after < 4 {
        let request = Request { node: &node, session: "_s", tenant: &alice, who: &who, now: node.now() };
        let verb = format!("sync:from:{after}:limit:10").parse().unwrap();
        let Effect::Answer(Response::Data(page)) = perform(&request, verb).await else { panic!("{after}") };
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        let ids: Vec<i64> =
            page.as_array().unwrap().iter().map(|entry| entry["commitId"].as_i64().unwrap()).collect();
        after = *ids.last().unwrap();
        pages.push(ids);
    }
    assert_eq!(pages, [vec![0], vec![1], vec![2], vec![3, 4]]);
}
