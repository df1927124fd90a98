//! Commands over a real outbox, with callers and adapters played by the test.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;
use crate::clock::Stamp;
use crate::outbox::{Durability, Opened, OutboxOptions};
use crate::payload::{ClockState, NoteId};
use crate::uplink::{NoteStatus, RoadError};

const NOW_MS: i64 = 1_800_000_000_000;

struct Noon;

impl Clock for Noon {
    fn now(&self) -> Stamp {
        Stamp { wall_us: NOW_MS * 1000, mono_us: 0, state: ClockState::Sync }
    }
}

/// Keeps what was sent: to whom, under which name, saying what.
#[derive(Clone, Default)]
struct Post(Arc<Mutex<Vec<(String, String, Value)>>>);

impl Post {
    /// The kinds and states sent since the last call.
    fn take(&self) -> Vec<(String, String)> {
        let sent = std::mem::take(&mut *self.0.lock().unwrap());
        sent.into_iter()
            .map(|(_, name, answer)| {
                let kind = name.split('.').next().unwrap().to_owned();
                assert_eq!(answer["respType"], kind.as_str());
                (kind, answer["payload"]["state"].as_str().unwrap().to_owned())
            })
            .collect()
    }
}

impl Road for Post {
    async fn notify(&self, note: Note<'_>) -> Result<(), RoadError> {
        let answer = serde_json::from_str(note.plain).unwrap();
        self.0.lock().unwrap().push((note.to.to_string(), note.name.to_owned(), answer));
        Ok(())
    }

    async fn status(&self, _: &NoteId) -> Result<NoteStatus, RoadError> {
        Ok(NoteStatus::Delivered)
    }
}

fn rules(more: &str) -> BTreeMap<CommandName, Rule> {
    let table = format!(
        "allow = [\"@ops\"]\nargs = {{ value = {{ type = \"i64\", min = 0, max = 9 }} }}\n\
         do = {{ publish = {{ topic = \"t\", payload = \"{{value}}\" }} }}\nexpires = \"2m\"\nsigned = false\n{more}"
    );
    let config: CommandConfig = toml::from_str(&table).unwrap();
    let shop = toml::from_str("type = \"mqtt\"\nlisten = \"127.0.0.1:1883\"").unwrap();
    let rule = Rule::new(&config, &BTreeMap::from([("shop".to_owned(), shop)])).unwrap();
    BTreeMap::from([("boiler.set".parse().unwrap(), rule)])
}

struct Bench {
    post: Post,
    outbox: Outbox,
    thread: crate::outbox::Thread,
    orders: mpsc::Receiver<Command>,
    commands: Commands<Post, Noon>,
}

fn bench(folder: &std::path::Path, rules: BTreeMap<CommandName, Rule>) -> Bench {
    let options =
        OutboxOptions { durability: Durability::None, ..OutboxOptions::new(folder, BTreeMap::new()) };
    let Opened { outbox, thread, .. } = Outbox::open(options, Noon.now()).unwrap();
    let (adapter, orders) = mpsc::channel(4);
    let post = Post::default();
    let commands = Commands {
        outbox: outbox.clone(),
        road: post.clone(),
        clock: Arc::new(Noon),
        declared: watch::channel(Declared {
            rules: Arc::new(rules),
            adapters: BTreeMap::from([("shop".to_owned(), adapter)]),
        })
        .1,
        namespace: "plant7".into(),
        handled: Arc::default(),
    };
    Bench { post, outbox, thread, orders, commands }
}

fn request(from: &str, id: u64, payload: Value) -> Request {
    let plain = json!({"reqId": id, "payload": payload}).to_string().into_bytes();
    let name = format!("request.{id}.cmd.boiler.__rpcs.plant7").parse().unwrap();
    Request { from: from.parse().unwrap(), name, plain: Zeroizing::new(plain) }
}

fn set(value: i64, key: &str) -> Value {
    json!({"command": "set", "args": {"value": value}, "issued": NOW_MS, "expires": NOW_MS + 1000, "key": key})
}

fn said(kinds: &[(&str, &str)]) -> Vec<(String, String)> {
    kinds.iter().map(|(kind, state)| ((*kind).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test]
async fn a_command_is_done_once_and_a_repeat_is_answered_from_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let Bench { post, mut orders, commands, .. } = bench(folder.path(), rules(""));
    let played = async {
        let order = orders.recv().await.unwrap();
        assert_eq!(order.order, Order::Publish { topic: "t".into(), payload: b"7".to_vec() });
        order.done.send(Ok(())).unwrap();
    };
    let (handled, ()) = tokio::join!(commands.handle(request("@ops", 1, set(7, "k"))), played);
    handled.unwrap();
    assert_eq!(post.take(), said(&[("ack", "accepted"), ("success", "done")]));
    commands.handle(request("@ops", 2, set(7, "k"))).await.unwrap();
    assert_eq!(post.take(), said(&[("success", "done")]));
    assert!(orders.try_recv().is_err(), "nothing more was ordered");
}

#[tokio::test]
async fn the_truth_is_told_about_what_went_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let Bench { post, mut orders, commands, .. } = bench(folder.path(), rules(""));
    let peer = || "broker".to_owned();
    let failed = atedge_adapters::CommandError::NotConnected { peer: peer() };
    let unknown = atedge_adapters::CommandError::Interrupted { peer: peer() };
    for (id, error, state) in [(1, failed, "failed"), (2, unknown, "unknown")] {
        let played = async { orders.recv().await.unwrap().done.send(Err(error)).unwrap() };
        let (handled, ()) =
            tokio::join!(commands.handle(request("@ops", id, set(1, &id.to_string()))), played);
        handled.unwrap();
        assert_eq!(post.take(), said(&[("ack", "accepted"), ("error", state)]));
    }
    let dropped = async { drop(orders.recv().await.unwrap()) };
    let (handled, ()) = tokio::join!(commands.handle(request("@ops", 3, set(1, "3"))), dropped);
    handled.unwrap();
    assert_eq!(post.take(), said(&[("ack", "accepted"), ("error", "unknown")]));
    let counted = [("failed".to_owned(), 1), ("unknown".to_owned(), 2)];
    assert_eq!(commands.handled.look(), BTreeMap::from(counted));
}

#[tokio::test]
async fn strangers_hear_nothing_and_mistakes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let Bench { post, mut orders, commands, .. } = bench(folder.path(), rules(""));
    commands.handle(request("@eve", 1, set(1, "k"))).await.unwrap();
    let mut elsewhere = request("@ops", 1, set(1, "k"));
    elsewhere.name.domain = "cmd.pump".into();
    commands.handle(elsewhere).await.unwrap();
    assert_eq!(post.take(), []);

    let with = |mut call: Value, key: &str, value: Value| {
        call[key] = value;
        call
    };
    for (payload, state) in [
        (json!("nonsense"), "rejected"),
        (with(set(1, "k"), "command", json!("explode")), "rejected"),
        (set(10, "k"), "rejected"),
        (with(set(1, "k"), "expires", json!(NOW_MS)), "expired"),
        (with(set(1, "k"), "expires", json!(NOW_MS + 120_001)), "rejected"),
        (with(set(1, "k"), "key", json!("x".repeat(129))), "rejected"),
    ] {
        commands.handle(request("@ops", 5, payload)).await.unwrap();
        assert_eq!(post.take(), said(&[("nack", state)]));
    }
    let mut other = request("@ops", 5, set(1, "k"));
    other.name.id = RequestId(6);
    commands.handle(other).await.unwrap();
    let mut rubbish = request("@ops", 5, set(1, "k"));
    rubbish.plain = Zeroizing::new(vec![0xff; 20]);
    commands.handle(rubbish).await.unwrap();
    assert_eq!(post.take(), said(&[("nack", "rejected"), ("nack", "rejected")]));
    assert!(orders.try_recv().is_err());
}

#[tokio::test]
async fn what_a_killed_agent_left_is_unknown_unless_it_may_be_done_again() {
    for (more, expected) in [
        ("", said(&[("error", "unknown"), ("error", "unknown")])),
        ("idempotent = true", said(&[("ack", "accepted"), ("success", "done")])),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Bench { outbox, thread, mut orders, commands, .. } = bench(folder.path(), rules(more));
        let killed = tokio::spawn(async move { commands.handle(request("@ops", 1, set(7, "k"))).await });
        let order = orders.recv().await.unwrap();
        killed.abort();
        assert!(killed.await.is_err());
        drop((order, orders, outbox));
        thread.join();

        let Bench { post, mut orders, commands, .. } = bench(folder.path(), rules(more));
        let (put, requests) = mpsc::channel(1);
        put.send(request("@ops", 2, set(7, "k"))).await.unwrap();
        drop(put);
        let played = async {
            if let Some(order) = orders.recv().await {
                order.done.send(Ok(())).unwrap();
            }
        };
        let (ran, ()) = tokio::join!(commands.run(requests), played);
        ran.unwrap();
        assert_eq!(post.take(), expected);
    }
}
