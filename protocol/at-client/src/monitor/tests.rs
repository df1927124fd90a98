use std::future::poll_fn;
use std::task::Poll;

use super::*;
use crate::login::LoginError;
use crate::notify::NotifyRequest;
use crate::stub::{Town, When, keys};

async fn town() -> Town {
    Town::with(&["@alice", "@bobby3"]).await
}

/// From the beginning, so that nothing depends on who is first.
fn from_the_start() -> MonitorConfig {
    MonitorConfig { since: Some(Timestamp::from_millis(0)), ..MonitorConfig::default() }
}

async fn tell(client: &Client, to: &str, name: &str, text: &str) {
    let (to, name) = (to.parse().unwrap(), name.parse().unwrap());
    client.notify(NotifyRequest::new(&to, &name, text.as_bytes())).await.unwrap();
}

async fn heard(monitor: &mut Monitor) -> String {
    shown(&monitor.next().await.unwrap())
}

fn shown(incoming: &Incoming) -> String {
    let text = match &incoming.payload {
        Payload::Opened(plain) => std::str::from_utf8(plain).unwrap(),
        Payload::Clear(text) => &format!("clear {text}"),
        Payload::Undecryptable => "undecryptable",
        Payload::Nothing => "nothing",
    };
    format!("{} {}: {text}", incoming.from, incoming.name)
}

#[tokio::test]
async fn notifications_arrive_opened_and_in_order() {
    let town = town().await;
    let (alice, bob) = (town.client("@alice"), town.client("@bobby3"));
    let mut monitor = alice.monitor(MonitorConfig { self_notifications: true, ..from_the_start() });
    tell(&bob, "@alice", "a.ns", "one").await;
    tell(&bob, "@alice", "b.ns", "two").await;
    tell(&alice, "@alice", "c.ns", "to myself").await;
    assert_eq!(heard(&mut monitor).await, "@bobby3 a.ns: one");
    assert_eq!(heard(&mut monitor).await, "@bobby3 b.ns: two");
    assert_eq!(heard(&mut monitor).await, "@alice c.ns: to myself");
    assert_eq!(*monitor.state().borrow(), MonitorState::Connected);
    assert_eq!(town.world().count("monitor:selfNotifications:0"), 1);
}

#[tokio::test]
async fn servers_with_other_habits_are_understood() {
    let town = town().await;
    town.world().prompts_on_monitors = true;
    town.world().replays_without_keys = true;
    let (alice, bob) = (town.client("@alice"), town.client("@bobby3"));
    tell(&bob, "@alice", "a.ns", "replayed").await;
    let heartbeat = Duration::from_millis(300);
    let mut monitor = alice.monitor(MonitorConfig { heartbeat, ..from_the_start() });
    assert_eq!(heard(&mut monitor).await, "@bobby3 a.ns: replayed");
    assert_eq!(town.world().count("lookup:shared_key@bobby3"), 1);

    // The prompt behind the heartbeat's answer is in front of the next notification.
    let next = async { heard(&mut monitor).await };
    let after_the_heartbeat = async {
        town.hears("noop:0", 1).await;
        tell(&bob, "@alice", "b.ns", "behind a prompt").await;
    };
    assert_eq!(tokio::join!(next, after_the_heartbeat).0, "@bobby3 b.ns: behind a prompt");

    let mut frame = town.world().received("@alice")[0].clone();
    for (name, change) in [("c.ns", Some("null")), ("d.ns", None)] {
        let (own, _) = town.world().record("@bobby3", "shared_key.alice@bobby3").unwrap();
        let pair = keys("@bobby3").encryption.unwrap_key(&own).unwrap();
        frame.id = name.to_owned();
        frame.key = format!("@alice:{name}@bobby3");
        frame.value = Some(pair.encrypt(&at_protocol::crypto::Iv::ZERO, b"zero vector"));
        frame.metadata.as_mut().unwrap().iv_nonce = change.map(str::to_owned);
        town.world().deliver(frame.clone());
        assert_eq!(heard(&mut monitor).await, format!("@bobby3 {name}: zero vector"));
    }
}

#[tokio::test]
async fn what_is_no_message_is_passed_over() {
    let town = town().await;
    let (alice, bob) = (town.client("@alice"), town.client("@bobby3"));
    tell(&bob, "@alice", "a.ns", "first").await;
    let mut monitor = alice.monitor(from_the_start());
    assert_eq!(heard(&mut monitor).await, "@bobby3 a.ns: first");
    let sent = town.world().received("@alice")[0].clone();
    let altered = |id: &str, key: &str, value: Option<&str>| Frame {
        id: id.to_owned(),
        key: key.to_owned(),
        value: value.map(str::to_owned),
        ..sent.clone()
    };
    let ticker = Frame::stats(alice.atsign(), 7, Operation::Update, Timestamp::from_millis(1));
    town.world().push("@alice", &ticker.line());
    town.world().push("@alice", "notification: {\"id\":1}\n");
    town.world().deliver(altered("k", "@alice:shared_key@bobby3", Some("x")));
    town.world().deliver(Frame { message_type: MessageType::Text, ..altered("t", "@alice:hello", None) });
    town.world().deliver(altered("m", "@alice:m.ns@bobby3", Some("AAAA")));
    town.world().deliver(altered("n", "@alice:n.ns@bobby3", None));
    let in_the_clear =
        Frame { is_encrypted: false, metadata: None, ..altered("o", "@alice:o.ns@bobby3", Some("x")) };
    town.world().deliver(in_the_clear);
    assert_eq!(heard(&mut monitor).await, "@bobby3 m.ns: undecryptable");
    assert_eq!(heard(&mut monitor).await, "@bobby3 n.ns: nothing");
    assert_eq!(heard(&mut monitor).await, "@bobby3 o.ns: clear x");
}

#[tokio::test]
async fn it_continues_where_it_was_cut_off() {
    let town = town().await;
    let (alice, bob) = (town.client("@alice"), town.client("@bobby3"));
    let mut monitor = alice.monitor(from_the_start());
    tell(&bob, "@alice", "a.ns", "before").await;
    assert_eq!(heard(&mut monitor).await, "@bobby3 a.ns: before");
    town.world().hang_up_monitors("@alice");
    // One in the same millisecond as the last, one after it.
    let mut twin = town.world().received("@alice")[0].clone();
    twin.id = "twin".to_owned();
    town.world().received("@alice").push(twin);
    tell(&bob, "@alice", "b.ns", "after").await;
    assert_eq!(heard(&mut monitor).await, "@bobby3 a.ns: before");
    assert_eq!(heard(&mut monitor).await, "@bobby3 b.ns: after");
    assert_eq!(town.world().count("monitor:"), 2);
}

#[tokio::test]
async fn a_server_that_does_not_answer_heartbeats_is_left() {
    let town = town().await;
    town.world().fault("noop:0", When::Hang);
    let heartbeat = Duration::from_millis(300);
    let mut monitor = town.client("@alice").monitor(MonitorConfig { heartbeat, ..from_the_start() });
    let mut state = monitor.state();
    let causes = async {
        loop {
            state.changed().await.unwrap();
            if let MonitorState::Disconnected { cause } = &*state.borrow() {
                return cause.clone();
            }
        }
    };
    let bob = town.client("@bobby3");
    let talk = async {
        let cause = causes.await;
        tell(&bob, "@alice", "a.ns", "still here").await;
        cause
    };
    let (heard, cause) = tokio::join!(heard(&mut monitor), talk);
    assert_eq!(heard, "@bobby3 a.ns: still here");
    assert_eq!(cause, "the server did not answer within 100ms");
}

#[tokio::test]
async fn a_notification_is_the_occasion_for_a_heartbeat() {
    let town = town().await;
    let bob = town.client("@bobby3");
    let mut monitor = town.client("@alice").monitor(from_the_start());
    tell(&bob, "@alice", "a.ns", "at once").await;
    heard(&mut monitor).await;
    for (part, name, beats) in [(HEARTBEAT / 2, "b.ns", 0), (HEARTBEAT / 2, "c.ns", 1)] {
        tokio::time::pause();
        tokio::time::advance(part).await;
        tokio::time::resume();
        tell(&bob, "@alice", name, "later").await;
        heard(&mut monitor).await;
        tokio::select! {
            _ = monitor.next() => panic!("there was one"),
            () = town.hears("noop:0", beats) => {}
        }
        assert_eq!(town.world().count("noop:0"), beats);
    }
}

#[tokio::test]
async fn dropping_the_wait_loses_nothing() {
    let town = town().await;
    let bob = town.client("@bobby3");
    for name in ["a.ns", "b.ns", "c.ns"] {
        tell(&bob, "@alice", name, "x").await;
    }
    town.world().replays_without_keys = true;
    let mut monitor = town.client("@alice").monitor(from_the_start());
    let mut names = Vec::new();
    while names.len() < 3 {
        // Each wait is dropped after a single poll, while connecting, looking up and reading.
        let mut next = Box::pin(monitor.next());
        let polled = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
        drop(next);
        match polled {
            Poll::Ready(incoming) => names.push(incoming.unwrap().name.to_string()),
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
    assert_eq!(names, ["a.ns", "b.ns", "c.ns"]);
    assert_eq!(town.world().count("monitor:"), 1);
}

#[tokio::test]
async fn what_needs_somebodys_help_is_an_error() {
    let town = town().await;
    let mut monitor = Client::new(town.config("@alice", keys("@bobby3"))).monitor(from_the_start());
    let refused = monitor.next().await.err().unwrap();
    assert!(matches!(refused, MonitorError::Connect(ConnectError::Login(LoginError::KeysRefused { .. }))));
    let regex = Some("(".to_owned());
    let mut monitor = town.client("@alice").monitor(MonitorConfig { regex, ..from_the_start() });
    let refused = monitor.next().await.err().unwrap();
    assert!(matches!(&refused, MonitorError::Refused { source, .. } if source.code == "AT0003"));
    let mut monitor = town.client("@alice").monitor(from_the_start());
    let expire = async {
        town.hears("monitor:0", 2).await;
        town.world().push("@alice", "error:{\"errorCode\":\"AT0028\",\"errorDescription\":\"expired\"}\n@");
    };
    let (refused, ()) = tokio::join!(monitor.next(), expire);
    assert!(matches!(refused, Err(MonitorError::Refused { source, .. }) if source.code == "AT0028"));
}
