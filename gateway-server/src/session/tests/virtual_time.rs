//! Lifetimes on virtual time, under a wall clock that is set forwards and back meanwhile.

use std::sync::mpsc::Sender;

use tokio::time::advance;

use super::*;
use crate::clock::tests::Hands;
use crate::timers::{self, Job};

const HOUR_MS: i64 = 3_600_000;

/// A node with @alice and @bob whose time moves only when a test says so.
pub(super) struct Still {
    pub(super) node: Arc<Node>,
    hands: Hands,
    /// While a blocking task runs, the runtime does not move time by itself to where a timer is due: it
    /// would each time it waits for the store's thread.
    _held: Sender<()>,
}

impl Still {
    pub(super) async fn new() -> Self {
        let (held, hold) = std::sync::mpsc::channel();
        drop(tokio::task::spawn_blocking(move || hold.recv()));
        tokio::time::pause();
        let hands = Hands::at(1_700_000_000_000);
        let node = Node::in_memory_by(ServerConfig::default(), hands.wall()).await.unwrap();
        for name in ["@alice", "@bob"] {
            let tenant = Tenant { atsign: name.parse().unwrap(), listen: None };
            assert!(node.add_tenant(tenant, SECRET).await.unwrap());
        }
        Self { node: Arc::new(node), hands, _held: held }
    }

    /// Lets time pass until `work` is done, which pauses now and then.
    async fn finish<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::task::yield_now() => advance(Duration::from_millis(10)).await,
            }
        }
    }

    /// Lets this many seconds pass, while somebody sets the wall clock by so many hours.
    pub(super) async fn pass(&self, seconds: u64, hours: i64) {
        self.hands.turn(hours * HOUR_MS);
        advance(Duration::from_secs(seconds)).await;
    }
}

const GONE: &str = "error:AT0015-key not found : x@alice does not exist in keystore\n@alice@";

#[tokio::test]
async fn a_record_is_born_dies_and_is_swept_in_its_own_time() {
    let still = Still::new().await;
    let mut alice = Client::owner(&still.node, "@alice").await;
    alice.says("update:ttl:60000:ttb:30000:x@alice v", "data:0\n@alice@").await;
    still.pass(29, 5).await;
    alice.says("llookup:x@alice", "data:null\n@alice@").await;
    alice.says("scan", "data:[]\n@alice@").await;
    still.pass(1, -10).await;
    alice.says("llookup:x@alice", "data:v\n@alice@").await;
    alice.says("scan", "data:[\"x@alice\"]\n@alice@").await;
    still.pass(59, -10).await;
    still.node.sweep().await.unwrap();
    alice.says("llookup:x@alice", "data:v\n@alice@").await;
    still.pass(1, 20).await;
    alice.says("llookup:x@alice", "data:null\n@alice@").await;
    still.node.sweep().await.unwrap();
    alice.says("llookup:x@alice", GONE).await;
}

#[tokio::test]
async fn a_copy_answers_until_its_refresh() {
    let still = Still::new().await;
    let mut alice = Client::owner(&still.node, "@alice").await;
    let mut bob = Client::owner(&still.node, "@bob").await;
    alice.says("update:ttr:10:public:p@alice 1", "data:0\n@alice@").await;
    bob.says("plookup:p@alice", "data:1\n@bob@").await;
    alice.says("update:public:p@alice 2", "data:1\n@alice@").await;
    still.pass(9, 5).await;
    bob.says("plookup:p@alice", "data:1\n@bob@").await;
    still.pass(1, -5).await;
    bob.says("plookup:p@alice", "data:2\n@bob@").await;
}

#[tokio::test]
async fn stale_copies_are_fetched_again() {
    let still = Still::new().await;
    let mut alice = Client::owner(&still.node, "@alice").await;
    let mut bob = Client::owner(&still.node, "@bob").await;
    for (id, name) in ["changed", "same", "gone"].into_iter().enumerate() {
        alice.says(&format!("update:ttr:10:public:{name}@alice 1"), &format!("data:{id}\n@alice@")).await;
        bob.says(&format!("plookup:{name}@alice"), "data:1\n@bob@").await;
    }
    alice.says("update:public:changed@alice 2", "data:3\n@alice@").await;
    alice.says("delete:public:gone@alice", "data:4\n@alice@").await;
    still.node.refresh_copies().await.unwrap();
    bob.says("llookup:cached:public:changed@alice", "data:1\n@bob@").await;
    still.pass(10, -7).await;
    still.finish(still.node.refresh_copies()).await.unwrap();
    bob.says("llookup:cached:public:changed@alice", "data:2\n@bob@").await;
    bob.says("llookup:cached:public:same@alice", "data:1\n@bob@").await;
    let gone = "error:AT0015-key not found : cached:public:gone@alice does not exist in keystore\n@bob@";
    bob.says("llookup:cached:public:gone@alice", gone).await;
    // Three copies, one replaced, one deleted: what was the same is no change.
    bob.says("stats:3", "data: [{\"id\":\"3\",\"name\":\"lastCommitID\",\"value\":\"4\"}]\n@bob@").await;
}

#[tokio::test]
async fn a_challenge_lives_for_a_minute() {
    let still = Still::new().await;
    for (seconds, hours, holds) in [(60, 2, true), (61, -4, false)] {
        let mut alice = Client::connect(&still.node).await;
        let challenge = alice.challenge("@alice").await;
        still.pass(seconds, hours).await;
        alice.write(&format!("cram:{}\n", cram_digest(SECRET, &challenge))).await;
        let answer = alice.until("\n").await;
        assert_eq!(answer == "data:success\n", holds, "{answer}");
    }
}

#[tokio::test]
async fn the_timers_sweep_and_tick() {
    let still = Still::new().await;
    let mut alice = Client::owner(&still.node, "@alice").await;
    alice.says("update:ttl:1000:x@alice v", "data:0\n@alice@").await;
    let (node, stop) = (Arc::clone(&still.node), CancellationToken::new());
    let (ran, mut runs) = tokio::sync::mpsc::unbounded_channel();
    let stopped = stop.clone();
    let timers = tokio::spawn(async move {
        let (node, ran) = (&node, &ran);
        let work = |job| async move {
            match job {
                Job::Sweep => node.sweep().await.unwrap(),
                Job::Ticker => node.monitors().tick(node.now()),
                Job::Adoption
                | Job::Clock
                | Job::Certificate
                | Job::Grant
                | Job::Refresh
                | Job::AccessLog => return,
            }
            ran.send(job).unwrap();
        };
        timers::run(&node.config, || node.now(), stopped, work).await;
    });
    let mut next = async |wanted| while runs.recv().await.unwrap() != wanted {};
    next(Job::Sweep).await;
    alice.says("llookup:x@alice", "data:v\n@alice@").await;
    let mut watcher = Client::owner(&still.node, "@alice").await;
    watcher.write("monitor\n").await;
    watcher.says("noop:0", "data:ok\n").await;
    still.pass(16, 3).await;
    assert!(watcher.until("\n").await.contains("\"id\":\"-1\""), "after 15 seconds");
    still.pass(165, -3).await;
    next(Job::Sweep).await;
    alice.says("llookup:x@alice", GONE).await;
    stop.cancel();
    timers.await.unwrap();
}
