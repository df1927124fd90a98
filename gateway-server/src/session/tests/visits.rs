//! The access log, and the statistics made of it.

use super::*;

#[tokio::test]
async fn visits_are_counted_by_who_and_by_what() {
    let node = node("").await;
    let mut alice = Client::owner(&node, "@alice").await;
    alice.says("update:public:x.wavi@alice 1", "data:0\n@alice@").await;
    for _ in 0..2 {
        let mut caller = Client::connect(&node).await;
        caller.says("lookup:x.wavi@alice", "data:1\n@").await;
    }
    let (alice_sign, bob): (AtSign, AtSign) = ("@alice".parse().unwrap(), "@bob".parse().unwrap());
    node.note_visit(&alice_sign, Some(&bob), Visited::Pol, None, node.now());
    let top = "data: [{\"id\":\"5\",\"name\":\"topAtSigns\",\"value\":\"{\\\"@bob\\\":1}\"}, \
               {\"id\":\"6\",\"name\":\"topKeys\",\"value\":\"{\\\"x.wavi@alice\\\":2}\"}]\n@alice@";
    alice.says("stats:5,6", top).await;
    // By the activation secret only: nobody has proved himself by a key.
    alice
        .says(
            "stats:10",
            "data: [{\"id\":\"10\",\"name\":\"LastPkam\",\"value\":\"Not Available\"}]\n@alice@",
        )
        .await;
    let mut other = Client::owner(&node, "@bob").await;
    other.says("stats:6", "data: [{\"id\":\"6\",\"name\":\"topKeys\",\"value\":\"{}\"}]\n@bob@").await;
}

#[tokio::test]
async fn a_tenants_log_and_what_waits_for_it_have_a_most() {
    let node = node("[access_log]\nentries = 2\nwaiting = 5").await;
    let alice: AtSign = "@alice".parse().unwrap();
    let look = |key: &str| node.note_visit(&alice, None, Visited::Lookup, Some(key.to_owned()), node.now());
    for key in ["a", "b", "c", "d", "e", "too many at once"] {
        look(key);
    }
    node.flush_visits().await.unwrap();
    let kept = node.store.visits(&alice, 5).await.unwrap();
    assert_eq!(kept.keys, [("d".to_owned(), 1), ("e".to_owned(), 1)]);
    look("e");
    node.flush_visits().await.unwrap();
    assert_eq!(node.store.visits(&alice, 1).await.unwrap().keys, [("e".to_owned(), 2)]);
}
