mod damage;
mod tenants;

use std::path::Path;
use std::sync::Mutex;

use at_protocol::verb::{Operation, Priority, Strategy};
use at_protocol::{AtKey, Metadata, Timestamp};
use tempfile::TempDir;

use super::super::notification::tests::notification;
use super::super::*;
use super::*;

/// Remembers what was told, in words.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Watcher for Told {
    fn committed(&self, what: Committed) {
        self.0.lock().unwrap().push(match what {
            Committed::Changed { commit, operation, .. } => format!("{operation} {commit}"),
            Committed::Received { notification } => format!("received {}", notification.id),
            Committed::Queued { from, to } => format!("queued {from} {to}"),
        });
    }
}

struct At {
    store: SqliteStore,
    told: Arc<Told>,
    folder: TempDir,
}

impl At {
    async fn new() -> Self {
        Self::over(1).await
    }

    async fn over(shards: usize) -> Self {
        let at = Self::open(TempDir::new().unwrap(), Some(shards));
        for name in ["@alice", "@bob"] {
            let tenant = Tenant { atsign: atsign(name), listen: None };
            assert!(at.store.add_tenant(tenant, Vec::new(), now(0)).await.unwrap());
        }
        at
    }

    fn open(folder: TempDir, shards: Option<usize>) -> Self {
        Self::with_quota(folder, shards, Quota::default())
    }

    fn with_quota(folder: TempDir, shards: Option<usize>, quota: Quota) -> Self {
        let told = Arc::new(Told::default());
        let path = folder.path().join("server.db");
        let store = SqliteStore::open(&path, shards, 1024 * 1024, quota, told.clone()).unwrap();
        Self { store, told, folder }
    }

    fn again(self) -> Self {
        let Self { store, folder, .. } = self;
        drop(store);
        Self::open(folder, None)
    }

    /// Stops the store, does something to a shard's file, and starts it again.
    fn hurt(self, name: &str, hurt: impl FnOnce(&Path)) -> Self {
        let Self { store, folder, .. } = self;
        drop(store);
        hurt(&folder.path().join(name));
        Self::open(folder, None)
    }

    async fn write(&self, edits: Vec<Edit>, at: i64) -> Result<Vec<i64>, Refused> {
        let write = Write { edits, notification: None, now: now(at) };
        Store::write(&self.store, &atsign("@alice"), write).await.unwrap()
    }

    async fn update(&self, key: &str, value: &str, metadata: Metadata, at: i64) -> i64 {
        self.write(vec![update(key, value, metadata)], at).await.unwrap()[0]
    }

    async fn keys(&self, prefix: &str, at: i64) -> Vec<String> {
        let page = KeyPage { prefix: prefix.to_owned(), after: None, limit: 100, now: now(at) };
        self.store.keys(&atsign("@alice"), page).await.unwrap()
    }

    async fn next(&self) -> Option<String> {
        let next = self
            .store
            .waiting(&atsign("@alice"), &atsign("@carol"), Reached::default(), 1)
            .await
            .unwrap()
            .pop();
        next.map(|notification| notification.id)
    }

    async fn received(&self, by: &str) -> Vec<(String, i64)> {
        let found = self.store.received_after(&atsign(by), 0, 100, now(0)).await.unwrap();
        found.into_iter().map(|one| (one.id, one.created.as_millis())).collect()
    }
}

fn atsign(text: &str) -> AtSign {
    text.parse().unwrap()
}

fn key(text: &str) -> AtKey {
    text.parse().unwrap()
}

fn now(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn update(key_text: &str, value: &str, metadata: Metadata) -> Edit {
    Edit::Update { key: key(key_text), value: value.to_owned(), metadata }
}

#[tokio::test]
async fn commits_count_up_by_one_and_each_key_has_its_newest() {
    let at = At::new().await;
    assert_eq!(at.store.last_commit(&atsign("@alice")).await.unwrap(), -1);
    for (place, name) in ["a@alice", "b@alice", "a@alice"].into_iter().enumerate() {
        assert_eq!(at.update(name, "v", Metadata::default(), 1).await, i64::try_from(place).unwrap());
    }
    assert_eq!(at.update("public:_hidden@alice", "v", Metadata::default(), 1).await, -1);
    assert_eq!(at.write(vec![Edit::Delete { key: key("b@alice") }], 1).await, Ok(vec![3]));
    assert_eq!(at.write(vec![Edit::Delete { key: key("never@alice") }], 1).await, Ok(vec![4]));
    let at = at.again();
    assert_eq!(at.update("c@alice", "v", Metadata::default(), 1).await, 5);
    let log = at.store.commits_after(&atsign("@alice"), -1, 100).await.unwrap();
    let log: Vec<_> = log
        .iter()
        .map(|one| (one.id, one.key.to_string(), one.operation.to_string(), one.record.is_some()))
        .collect();
    let expected = [(2, "a", '*', true), (3, "b", '-', false), (4, "never", '-', false), (5, "c", '*', true)];
    assert_eq!(
        log,
        expected.map(|(id, name, letter, has)| (id, format!("{name}@alice"), letter.to_string(), has))
    );
    let newest = at.store.commits_before(&atsign("@alice"), 5, 2).await.unwrap();
    assert_eq!(newest.iter().map(|one| one.id).collect::<Vec<_>>(), [4, 3]);
    assert_eq!(at.store.last_commit(&atsign("@bob")).await.unwrap(), -1, "tenants count apart");
}

#[tokio::test]
async fn an_update_goes_over_what_was_there_and_an_immutable_record_stays() {
    let at = At::new().await;
    at.update("a@alice", "1", Metadata { encoding: Some("base64".into()), ..Metadata::default() }, 1).await;
    at.update("a@alice", "2", Metadata::default(), 2).await;
    let record = at.store.record(&atsign("@alice"), &key("a@alice")).await.unwrap().unwrap();
    assert_eq!((record.value.as_str(), record.version, record.created), ("2", 1, now(1)));
    assert_eq!(record.metadata.encoding.as_deref(), Some("base64"));
    let replaced = Edit::Replace { key: key("a@alice"), value: "3".into(), metadata: Metadata::default() };
    at.write(vec![replaced], 3).await.unwrap();
    let record = at.store.record(&atsign("@alice"), &key("a@alice")).await.unwrap().unwrap();
    assert_eq!((record.version, record.metadata.encoding), (0, None));

    at.update("i@alice", "1", Metadata { immutable: Some(true), ..Metadata::default() }, 1).await;
    let both = vec![update("n@alice", "1", Metadata::default()), update("i@alice", "2", Metadata::default())];
    assert_eq!(at.write(both, 2).await, Err(Refused::Immutable(key("i@alice"))));
    let nothing = at.store.record(&atsign("@alice"), &key("n@alice")).await.unwrap();
    assert_eq!(nothing, None, "all of a request or none");
    assert_eq!(at.store.record(&atsign("@bob"), &key("i@alice")).await.unwrap(), None, "tenants are apart");
}

#[tokio::test]
async fn what_is_not_committed_leaves_no_trace_and_no_id_is_given_twice() {
    let at = At::new().await;
    let quietly = |edit| Edit::But(How { uncommitted: true, ..How::default() }, Box::new(edit));
    at.update("a@alice", "1", Metadata::default(), 1).await;
    at.update("b@alice", "1", Metadata::default(), 1).await;
    let unsaid = quietly(update("b@alice", "2", Metadata::default()));
    assert_eq!(at.write(vec![unsaid], 2).await, Ok(vec![-1]));
    let record = at.store.record(&atsign("@alice"), &key("b@alice")).await.unwrap().unwrap();
    assert_eq!(record.value, "2");
    assert_eq!(at.store.last_commit(&atsign("@alice")).await.unwrap(), 0, "its entry is gone");
    let at = at.again();
    assert_eq!(at.update("c@alice", "1", Metadata::default(), 3).await, 2, "1 was given before");
    assert_eq!(at.write(vec![Edit::Delete { key: key("c@alice") }], 4).await, Ok(vec![3]));
    assert_eq!(at.write(vec![quietly(Edit::Delete { key: key("c@alice") })], 5).await, Ok(vec![-1]));
    let at = at.again();
    assert_eq!(at.update("d@alice", "1", Metadata::default(), 6).await, 4);
    let log = at.store.commits_after(&atsign("@alice"), -1, 10).await.unwrap();
    assert_eq!(log.iter().map(|commit| commit.id).collect::<Vec<_>>(), [0, 4]);
    assert!(at.told.0.lock().unwrap().iter().all(|told| told != "update -1"));
}

#[tokio::test]
async fn descriptions_renamings_and_force_leave_their_mark() {
    let at = At::new().await;
    let described = |key_text: &str| Edit::Describe {
        key: key(key_text),
        metadata: Metadata { ttr: Some(5), ..Metadata::default() },
    };
    assert_eq!(at.write(vec![described("a@alice")], 1).await, Err(Refused::Missing(key("a@alice"))));
    at.update("a@alice", "1", Metadata { ttl: Some(5), ..Metadata::default() }, 1).await;
    assert_eq!(at.write(vec![described("a@alice")], 2).await, Ok(vec![1]));
    assert_eq!(at.write(vec![described("a@alice")], 99).await, Err(Refused::Missing(key("a@alice"))));
    let rename = |from: &str, to: &str| Edit::Rename { from: key(from), to: key(to) };
    assert_eq!(at.write(vec![rename("none@alice", "z@alice")], 3).await, Ok(vec![-1]));
    assert_eq!(at.write(vec![rename("a@alice", "z@alice")], 3).await, Ok(vec![3]));
    at.update("i@alice", "1", Metadata { immutable: Some(true), ..Metadata::default() }, 4).await;
    let delete = || Edit::Delete { key: key("i@alice") };
    assert_eq!(at.write(vec![delete()], 5).await, Err(Refused::Immutable(key("i@alice"))));
    let how = How { force: true, at: Some(now(1234)), ..How::default() };
    assert_eq!(at.write(vec![Edit::But(how, Box::new(delete()))], 5).await, Ok(vec![5]));
    let log = at.store.commits_after(&atsign("@alice"), -1, 10).await.unwrap();
    let log: Vec<_> = log
        .iter()
        .map(|one| format!("{} {}{} {}", one.id, one.operation, one.key, one.time.as_millis()))
        .collect();
    assert_eq!(log, ["2 -a@alice 3", "3 *z@alice 3", "5 -i@alice 1234"]);
}

#[tokio::test]
async fn copies_want_to_be_fetched_when_their_time_has_come() {
    let at = At::new().await;
    let with = |ttr| Metadata { ttr: Some(ttr), ..Metadata::default() };
    at.update("cached:@alice:a@bob", "1", with(2), 0).await;
    at.update("cached:public:b@bob", "1", with(2), 0).await;
    at.update("cached:public:c@bob", "1", with(9), 0).await;
    at.update("cached:public:d@bob", "1", with(-1), 0).await;
    at.update("own@alice", "1", with(1), 0).await;
    let stale = async |after: &str, limit, at_ms| {
        let found = at.store.stale_copies(&atsign("@alice"), after, limit, now(at_ms)).await.unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(stale("", 10, 1999).await.is_empty());
    assert_eq!(stale("", 10, 2000).await, ["cached:@alice:a@bob", "cached:public:b@bob"]);
    assert_eq!(stale("", 1, 2000).await, ["cached:@alice:a@bob"]);
    assert_eq!(stale("cached:@alice:a@bob", 10, 9000).await, ["cached:public:b@bob", "cached:public:c@bob"]);
}

#[tokio::test]
async fn keys_come_in_order_by_prefix_while_their_records_live() {
    let at = At::new().await;
    for name in ["@bob:y@alice", "@bob:x@alice", "@bobby:z@alice", "public:p@alice"] {
        at.update(name, "v", Metadata::default(), 1).await;
    }
    at.update("@bob:late@alice", "v", Metadata { ttb: Some(100), ..Metadata::default() }, 1).await;
    at.update("@bob:brief@alice", "v", Metadata { ttl: Some(10), ..Metadata::default() }, 1).await;
    assert_eq!(at.keys("@bob:", 5).await, ["@bob:brief@alice", "@bob:x@alice", "@bob:y@alice"]);
    assert_eq!(at.keys("@bob:", 101).await, ["@bob:late@alice", "@bob:x@alice", "@bob:y@alice"]);
    let page = KeyPage { prefix: String::new(), after: Some("@bob:y@alice".into()), limit: 1, now: now(5) };
    assert_eq!(at.store.keys(&atsign("@alice"), page).await.unwrap(), ["@bobby:z@alice"]);

    assert!(!at.store.expire(now(50)).await.unwrap().is_none());
    assert!(at.store.expire(now(50)).await.unwrap().is_none());
    assert_eq!(at.store.record(&atsign("@alice"), &key("@bob:brief@alice")).await.unwrap(), None);
    let log = at.store.commits_before(&atsign("@alice"), i64::MAX, 1).await.unwrap();
    let last = (log[0].key.to_string(), log[0].operation);
    assert_eq!(last, ("@bob:brief@alice".to_owned(), Change::Whole), "the log does not hear of it");
}

#[tokio::test]
async fn what_goes_to_a_neighbour_is_delivered_with_its_queueing() {
    let at = At::new().await;
    let mut sent = notification("n1", "@alice", "@bob");
    sent.metadata.ttr = Some(-1);
    sent.metadata.ccd = Some(true);
    assert_eq!(at.store.send(sent.clone(), now(10)).await.unwrap(), Taken::New);
    let there = at.store.notification(&atsign("@bob"), "n1").await.unwrap().unwrap();
    let here = at.store.notification(&atsign("@alice"), "n1").await.unwrap().unwrap();
    assert_eq!((there.kind, here.kind, here.status), (Kind::Received, Kind::Sent, Status::Delivered));
    let cached = key("cached:@bob:temp.edge@alice");
    assert_eq!(at.store.record(&atsign("@bob"), &cached).await.unwrap().unwrap().value, "v");
    assert_eq!(*at.told.0.lock().unwrap(), ["update 0", "received n1"], "the copy, then the push");

    sent.operation = Operation::Delete;
    sent.value = None;
    at.store.send(sent, now(11)).await.unwrap();
    assert_eq!(at.store.record(&atsign("@bob"), &cached).await.unwrap(), None);
    assert_eq!(at.received("@bob").await, [("n1".to_owned(), 11)], "the same id takes its place");
}

#[tokio::test]
async fn moments_grow_strictly_also_when_the_clock_does_not() {
    let at = At::new().await;
    for (id, moment) in [("a", 10), ("b", 10), ("c", 5)] {
        at.store.receive(notification(id, "@carol", "@bob"), now(moment)).await.unwrap();
    }
    let ids = [("a", 10), ("b", 11), ("c", 12)].map(|(id, moment)| (id.to_owned(), moment));
    assert_eq!(at.received("@bob").await, ids);
    let at = at.again();
    assert_eq!(at.store.last_notified(&atsign("@bob")).await.unwrap(), 12);
    at.store.receive(notification("d", "@carol", "@bob"), now(1)).await.unwrap();
    assert_eq!(at.received("@bob").await[3], ("d".to_owned(), 13));
}

#[tokio::test]
async fn who_gets_the_number_of_one_that_was_swept_goes_on_from_its_own() {
    let at = At::new().await;
    let tenant = |name: &str| Tenant { atsign: atsign(name), listen: None };
    for (name, moment) in [("@first", 1000), ("@second", 5)] {
        assert!(at.store.add_tenant(tenant(name), Vec::new(), now(1)).await.unwrap());
        at.store.receive(notification("a", "@carol", name), now(moment)).await.unwrap();
        assert_eq!(at.store.last_notified(&atsign(name)).await.unwrap(), moment);
        at.store.remove_tenant(&atsign(name)).await.unwrap();
        while !at.store.expire(now(2000)).await.unwrap().is_none() {}
    }
}

#[tokio::test]
async fn unique_ids_are_taken_once_even_when_removed() {
    let at = At::new().await;
    for id in ["ae1-b-1-1", "other"] {
        let again = if id == "other" { Taken::New } else { Taken::Repeated };
        assert_eq!(at.store.receive(notification(id, "@carol", "@bob"), now(1)).await.unwrap(), Taken::New);
        assert_eq!(at.store.receive(notification(id, "@carol", "@bob"), now(1)).await.unwrap(), again);
        at.store.remove_notification(&atsign("@bob"), id).await.unwrap();
        assert_eq!(at.store.notification(&atsign("@bob"), id).await.unwrap(), None);
        assert_eq!(at.store.receive(notification(id, "@carol", "@bob"), now(2)).await.unwrap(), again);
    }
    // Of another sender the same id is another id.
    let other = notification("ae1-b-1-1", "@dave", "@bob");
    assert_eq!(at.store.receive(other, now(3)).await.unwrap(), Taken::New);
    // Once its time is over, the tombstone goes as well.
    at.store.expire(now(1_000_000_000)).await.unwrap();
    let late = notification("ae1-b-1-1", "@carol", "@bob");
    assert_eq!(at.store.receive(late, now(1_000_000_001)).await.unwrap(), Taken::New);
}

#[tokio::test]
async fn a_queue_keeps_order_and_priority_over_a_restart() {
    let at = At::new().await;
    for (id, priority) in [("a", Priority::Low), ("b", Priority::High), ("c", Priority::Low)] {
        let sent = super::super::Notification { priority, ..notification(id, "@alice", "@carol") };
        at.store.send(sent, now(1)).await.unwrap();
    }
    assert_eq!(at.told.0.lock().unwrap()[0], "queued @alice @carol");
    let at = at.again();
    assert_eq!(at.store.waiting_pairs().await.unwrap(), [(atsign("@alice"), atsign("@carol"))]);
    for (id, outcome) in [("b", Outcome::Retrying), ("b", Outcome::Delivered), ("a", Outcome::Errored)] {
        assert_eq!(at.next().await.as_deref(), Some(id));
        let head = at.store.notification(&atsign("@alice"), id).await.unwrap().unwrap();
        at.store.settle(&atsign("@alice"), vec![head.settled(outcome)]).await.unwrap();
    }
    let settled = at.store.notification(&atsign("@alice"), "b").await.unwrap().unwrap();
    assert_eq!((settled.status, settled.attempts), (Status::Delivered, 1));
    // What replaced a notification on its way is not settled by the answer to the old one.
    let old = at.store.notification(&atsign("@alice"), "c").await.unwrap().unwrap();
    at.store.send(notification("c", "@alice", "@carol"), now(2)).await.unwrap();
    at.store.settle(&atsign("@alice"), vec![old.settled(Outcome::Delivered)]).await.unwrap();
    assert_eq!(at.next().await.as_deref(), Some("c"));
    // A recipient who has moved here gets what waits before anything newer.
    let carol = Tenant { atsign: atsign("@carol"), listen: None };
    at.store.add_tenant(carol, Vec::new(), now(3)).await.unwrap();
    at.store.send(notification("d", "@alice", "@carol"), now(3)).await.unwrap();
    assert_eq!(at.received("@carol").await, []);
    while let Some(next) =
        at.store.waiting(&atsign("@alice"), &atsign("@carol"), Reached::default(), 1).await.unwrap().pop()
    {
        assert!(at.store.hand_over(&next, now(4)).await.unwrap());
    }
    let ids: Vec<_> = at.received("@carol").await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["c", "d"]);
}

#[tokio::test]
async fn the_latest_of_a_notifier_supersedes_what_waits() {
    let at = At::new().await;
    for (id, notifier, strategy) in [
        ("a", "x", Strategy::Latest),
        ("b", "y", Strategy::Latest),
        ("c", "x", Strategy::All),
        ("d", "x", Strategy::Latest),
    ] {
        let sent = super::super::Notification {
            strategy,
            notifier: notifier.to_owned(),
            ..notification(id, "@alice", "@carol")
        };
        at.store.send(sent, now(1)).await.unwrap();
    }
    for id in ["b", "c", "d"] {
        assert_eq!(at.next().await.as_deref(), Some(id));
        let head = at.store.notification(&atsign("@alice"), id).await.unwrap().unwrap();
        at.store.settle(&atsign("@alice"), vec![head.settled(Outcome::Delivered)]).await.unwrap();
    }
    assert_eq!(at.next().await, None);
}

#[tokio::test]
async fn many_writers_at_once_all_get_their_answer_and_nothing_is_lost() {
    let at = At::new().await;
    let store = Arc::new(at.store);
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..300 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let edits = vec![update(&format!("k{number}@alice"), "v", Metadata::default())];
            let write = Write { edits, notification: None, now: now(1) };
            Store::write(store.as_ref(), &atsign("@alice"), write).await.unwrap().unwrap()[0]
        });
    }
    let mut ids = writers.join_all().await;
    ids.sort_unstable();
    assert_eq!(ids, (0..300).collect::<Vec<_>>());
    let told: Vec<_> = (0..300).map(|id| format!("update {id}")).collect();
    assert_eq!(*at.told.0.lock().unwrap(), told, "told in the order of the commits");
}

#[tokio::test]
async fn a_store_in_memory_does_the_same() {
    let store = SqliteStore::in_memory(Quota::default(), Arc::new(Told::default())).unwrap();
    let tenant = Tenant { atsign: atsign("@alice"), listen: Some("127.0.0.1:6465".parse().unwrap()) };
    assert!(store.add_tenant(tenant.clone(), Vec::new(), now(1)).await.unwrap());
    assert!(!store.add_tenant(tenant.clone(), Vec::new(), now(1)).await.unwrap());
    assert_eq!(store.tenants().await.unwrap(), [tenant]);
    store.send(notification("n", "@alice", "@alice"), now(1)).await.unwrap();
    assert_eq!(store.tallies(&atsign("@alice")).await.unwrap().len(), 1);
    assert!(store.size().await.unwrap() > 0);
}

/// @alice and @bob live in different ones of so many shards.
const APART: usize = 4;

#[tokio::test]
async fn what_goes_to_another_shard_is_queued_and_handed_over() {
    let at = At::over(APART).await;
    assert_ne!(at.store.shard_of(&atsign("@alice")), at.store.shard_of(&atsign("@bob")));
    for id in ["ae1-b-1-1", "other"] {
        at.store.send(notification(id, "@alice", "@bob"), now(1)).await.unwrap();
    }
    assert_eq!(at.received("@bob").await, []);
    assert_eq!(at.store.waiting_pairs().await.unwrap(), [(atsign("@alice"), atsign("@bob"))]);
    let mut ids = Vec::new();
    while let Some(next) =
        at.store.waiting(&atsign("@alice"), &atsign("@bob"), Reached::default(), 1).await.unwrap().pop()
    {
        // A crash between the two halves repeats the first.
        at.store.receive(next.clone(), now(2)).await.unwrap();
        assert!(at.store.hand_over(&next, now(3)).await.unwrap());
        ids.push(next.id);
    }
    assert_eq!(ids, ["ae1-b-1-1", "other"]);
    let received = at.received("@bob").await;
    assert_eq!(received, [("ae1-b-1-1".to_owned(), 2), ("other".to_owned(), 4)], "each is there once");
    let told = at.told.0.lock().unwrap().join(", ");
    assert_eq!(
        told,
        "queued @alice @bob, queued @alice @bob, received ae1-b-1-1, received other, received other"
    );
}

#[tokio::test]
async fn what_is_handed_over_to_one_that_has_left_goes_on_waiting() {
    for shards in [1, APART] {
        let at = At::over(shards).await;
        let (alice, bob) = (atsign("@alice"), atsign("@bob"));
        at.store.freeze(&bob);
        at.store.send(notification("n", "@alice", "@bob"), now(1)).await.unwrap();
        let next = at.store.waiting(&alice, &bob, Reached::default(), 1).await.unwrap().pop().unwrap();
        assert!(!at.store.hand_over(&next, now(2)).await.unwrap(), "about to leave");
        assert!(at.store.remove_tenant(&bob).await.unwrap());
        at.store.thaw(&bob);
        assert!(!at.store.hand_over(&next, now(2)).await.unwrap(), "gone");
        assert_eq!(at.store.waiting(&alice, &bob, Reached::default(), 1).await.unwrap(), [next]);
    }
}

#[tokio::test]
async fn one_request_that_fails_fails_alone() {
    let at = At::new().await;
    let (alice, bob) = (atsign("@alice"), atsign("@bob"));
    let good = |name: &str| {
        let edits = vec![update(name, "v", Metadata::default())];
        Store::write(&at.store, &alice, Write { edits, notification: None, now: now(1) })
    };
    let poison = at.store.write(&bob, 0, |group| {
        group.announce(Committed::Queued { from: atsign("@bob"), to: atsign("@bob") });
        group.sql.execute("INSERT INTO record (tenant, key) VALUES (1, 'half')", [])
    });
    // A first one keeps the writer busy, so that the others share a group.
    let (released, held) = std::sync::mpsc::channel::<()>();
    let busy = at.store.write(&alice, 0, move |_| Ok(held.recv().is_ok()));
    let (busy, first, poisoned, second, ()) =
        tokio::join!(busy, good("a@alice"), poison, good("b@alice"), async { released.send(()).unwrap() });
    assert!(busy.unwrap());
    assert_eq!((first.unwrap(), second.unwrap()), (Ok(vec![0]), Ok(vec![1])));
    assert!(matches!(poisoned, Err(StoreError::Failed(_))));
    assert_eq!(*at.told.0.lock().unwrap(), ["update 0", "update 1"]);
}

#[tokio::test]
async fn the_newest_time_is_kept_to_the_second() {
    let at = At::new().await;
    assert_eq!(at.store.newest().await.unwrap(), now(0), "nothing has happened");
    at.update("a@alice", "v", Metadata::default(), 5_000).await;
    at.update("a@alice", "v", Metadata::default(), 5_900).await;
    at.update("a@alice", "v", Metadata::default(), 100).await;
    let at = at.again();
    assert_eq!(at.store.newest().await.unwrap(), now(6_000));
    at.store.receive(notification("n", "@carol", "@bob"), now(9_000)).await.unwrap();
    assert_eq!(at.again().store.newest().await.unwrap(), now(10_000));
}

fn plain(key_text: &str, value: &str) -> Edit {
    update(key_text, value, Metadata::default())
}

#[tokio::test]
async fn a_query_is_planned_once_whatever_its_limit() {
    let at = At::new().await;
    let reader = at.store.shards[0].file.open_reader().unwrap();
    let mut query = reader.prepare("SELECT key FROM record WHERE tenant = 1 ORDER BY key LIMIT ?1").unwrap();
    for limit in 1..5 {
        assert!(query.query([limit]).unwrap().next().unwrap().is_none());
    }
    assert_eq!(query.get_status(rusqlite::StatementStatus::RePrepare), 0);
}
