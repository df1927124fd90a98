//! Streams between two connections.

use super::virtual_time::Still;
use super::*;

/// @alice's connection that offers stream `1`, and somebody's that takes it.
async fn pair(node: &Arc<Node>) -> (Client, Client) {
    let mut alice = Client::owner(node, "@alice").await;
    alice.write("stream:init@bob 1 cat.jpg 12\n").await;
    alice.says("noop:0", "data:ok\n@alice@").await;
    let mut taker = Client::connect(node).await;
    taker.write("to:@alice\n").await;
    taker.until("\n@").await;
    taker.write("stream:receive 1\n").await;
    assert_eq!(alice.until("\n").await, "stream:ack 1\n");
    (alice, taker)
}

#[tokio::test]
async fn bytes_go_through_as_they_are_until_all_has_arrived() {
    let node = node("").await;
    let (mut alice, mut taker) = pair(&node).await;
    let raw = "no lines\nscan\r\n@exit\n\n".to_owned() + &"x".repeat(3 * ROOM);
    let wrote = async {
        alice.write(&raw).await;
        alice
    };
    let read = async {
        let mut got = String::new();
        while got.len() < raw.len() {
            got.push_str(&taker.until(if got.is_empty() { "\n\n" } else { "x" }).await);
        }
        assert_eq!(got, raw);
        taker.write("stream:done 1\n").await;
        taker
    };
    let (alice, taker) = tokio::join!(wrote, read);
    assert_eq!(alice.rest().await, "stream:done 1\n");
    assert_eq!(taker.rest().await, "");
}

#[tokio::test]
async fn a_receiver_that_does_not_read_holds_its_sender_back() {
    let node = node("").await;
    let (mut alice, taker) = pair(&node).await;
    // What fits: both pipes, what is under way, and one read; far less than this.
    let much = vec![b'x'; 1024 * 1024];
    let mut written = 0;
    tokio::select! {
        biased;
        () = async {
            while let Ok(size) = alice.stream.write(&much).await {
                written += size;
            }
        } => panic!("the sender was cut"),
        // Nothing moves any more once every task has had many turns.
        () = async {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    assert!(written > 0 && written <= 2 * ROOM + 10 * READ, "{written} bytes are held");
    drop(taker);
    assert_eq!(alice.rest().await, "", "cut with its receiver");
}

#[tokio::test]
async fn a_receiver_is_cut_with_its_sender() {
    let node = node("").await;
    let (mut alice, taker) = pair(&node).await;
    alice.write("half").await;
    drop(alice);
    assert_eq!(taker.rest().await, "half");
}

#[tokio::test]
async fn what_nobody_takes_is_forgotten_and_what_stands_still_is_cut() {
    let still = Still::new().await;
    let mut alice = Client::owner(&still.node, "@alice").await;
    alice.write("stream:init@bob 1 cat.jpg 12\n").await;
    alice.says("noop:0", "data:ok\n@alice@").await;
    still.pass(599, 0).await;
    alice.says("noop:0", "data:ok\n@alice@").await;
    still.pass(2, 0).await;
    alice.says("noop:0", "data:ok\n@alice@").await;
    let mut late = Client::connect(&still.node).await;
    late.write("to:@alice\n").await;
    late.until("\n@").await;
    late.says("stream:receive 1", "error:AT0401-Exception: Invalid stream id\n@").await;
    let (mut alice, mut taker) = pair(&still.node).await;
    still.pass(59, 0).await;
    alice.write("x").await;
    taker.until("x").await;
    still.pass(59, 0).await;
    alice.write("y").await;
    taker.until("y").await;
    still.pass(61, 0).await;
    assert_eq!(alice.rest().await, "");
    assert_eq!(taker.rest().await, "");
}
