//! A full queue: each way to make room does what its name says, and every loss is counted for whom it is one.

use std::time::Duration;

use atedge_adapters::report::Summary;

use super::*;
use crate::outbox::room::Room;

const SMALL: u64 = 1 << 20;

fn stream(name: &str) -> StreamName {
    name.parse().unwrap()
}

fn policy(priority: u8, full: &[WhenFull]) -> StreamPolicy {
    StreamPolicy {
        readers: [reader("@ops")].into(),
        priority: priority.try_into().unwrap(),
        full: full.to_vec(),
        ..StreamPolicy::default()
    }
}

fn small(folder: &Path, streams: &[(&str, StreamPolicy)]) -> Store {
    let streams = streams.iter().map(|(name, policy)| (stream(name), policy.clone())).collect();
    let options = OutboxOptions { durability: Durability::None, ..OutboxOptions::new(folder, streams) };
    store(OutboxOptions { max_bytes: SMALL, ..options })
}

fn captured(name: &str, value: i64, mono_us: u64) -> Capture {
    let taken = Stamp { mono_us, ..at(NOON_US + mono_us as i64, ClockState::Sync) };
    Capture { stream: stream(name), taken, ..capture("a", value) }
}

/// Appends as the thread does; what became of it.
fn push(store: &mut Store, capture: &Capture) -> (Room, Option<Appended>) {
    store
        .group(|store| match store.room_for(&capture.stream, capture.taken)? {
            Room::Blocked => Ok((Room::Blocked, None)),
            room @ (Room::Free | Room::None) => Ok((room, Some(store.append(capture, room == Room::Free)?))),
        })
        .unwrap()
}

/// Appends until nothing more comes in, or `most` records; how many came in.
fn fill(store: &mut Store, name: &str, most: u64) -> u64 {
    (0..most).take_while(|value| push(store, &captured(name, *value as i64, *value)).0 == Room::Free).count()
        as u64
}

fn lost(store: &Store, name: &str) -> BTreeMap<String, u64> {
    let readers = store.stat().unwrap().readers;
    readers.into_iter().find(|backlog| backlog.stream == name).unwrap().lost
}

/// What a reader is told: the records of a stream and its gaps, as many as there are.
fn told(store: &mut Store, name: &str) -> (u64, u64) {
    let (mut records, mut gaps) = (0, 0);
    for waiting in store.waiting().unwrap().into_iter().filter(|w| w.lane.stream.as_str() == name) {
        let mut from = waiting.upto + 1;
        while let Some(parcel) =
            store.group(|store| store.take(&waiting.key, &waiting.lane, from, waiting.last, ALL)).unwrap()
        {
            let batch = Batch::from_json(parcel.json.as_bytes()).unwrap();
            assert_eq!(parcel.records, batch.records.len());
            records += batch.records.len() as u64;
            gaps += batch.gaps.iter().map(|gap| gap.last - gap.first + 1).sum::<u64>();
            from = parcel.last + 1;
        }
    }
    (records, gaps)
}

#[test]
fn a_stream_that_blocks_loses_nothing_and_takes_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = small(folder.path(), &[("safe", policy(5, &[WhenFull::Block]))]);
    let kept = fill(&mut store, "safe", 100_000);
    assert!(kept > 1000 && kept < 100_000);
    assert_eq!(push(&mut store, &captured("safe", 0, 0)), (Room::Blocked, None));
    assert_eq!(told(&mut store, "safe"), (kept, 0));
    let waiting = store.waiting().unwrap().remove(0);
    store.group(|store| store.confirm(&waiting.key, kept / 2)).unwrap();
    assert_eq!(push(&mut store, &captured("safe", 0, 0)).0, Room::Free);
}

#[test]
fn the_oldest_go_and_their_gaps_sum_up_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = small(folder.path(), &[("log", policy(5, &[WhenFull::DropOldest]))]);
    let said = 12_000;
    assert_eq!(fill(&mut store, "log", said), said);
    let stat = store.stat().unwrap();
    assert!(stat.bytes <= SMALL + (64 << 10) && stat.dropped > 0);
    assert_eq!(lost(&store, "log"), BTreeMap::from([("full".into(), stat.dropped)]));
    assert_eq!(told(&mut store, "log"), (said - stat.dropped, stat.dropped));
    let gaps: i64 = store.db.query_row("SELECT count(*) FROM gap", [], |row| row.get(0)).unwrap();
    assert_eq!(gaps, 1, "merged with its neighbours");
}

#[test]
fn the_least_important_go_first_and_never_the_more_important() {
    let folder = tempfile::tempdir().unwrap();
    let drop = [WhenFull::DropOldest];
    let streams = [("alarm", policy(0, &drop)), ("log", policy(5, &drop)), ("debug", policy(9, &drop))];
    let mut store = small(folder.path(), &streams);
    fill(&mut store, "debug", 2_000);
    fill(&mut store, "log", 12_000);
    assert_eq!(lost(&store, "debug")["full"], 2_000, "all of it went before any of the log");
    let of_the_log = lost(&store, "log")["full"];
    // Debug now only ever takes the place of debug.
    fill(&mut store, "debug", 5_000);
    assert_eq!(lost(&store, "log")["full"], of_the_log);
    let of_debug = lost(&store, "debug")["full"];
    assert!(of_debug > 6_000);
    assert_eq!(told(&mut store, "debug"), (7_000 - of_debug, of_debug));
    assert_eq!(fill(&mut store, "alarm", 100), 100);
    assert!(lost(&store, "alarm").is_empty());
}

#[test]
fn what_must_not_be_lost_is_not_dropped_for_anything() {
    let folder = tempfile::tempdir().unwrap();
    let streams = [("alarm", policy(0, &[WhenFull::DropOldest])), ("safe", policy(9, &[WhenFull::Block]))];
    let mut store = small(folder.path(), &streams);
    let safe = fill(&mut store, "safe", 100_000);
    assert_eq!(push(&mut store, &captured("alarm", 1, 1)).0, Room::None, "the alarm itself is dropped");
    assert_eq!(told(&mut store, "safe"), (safe, 0));
}

#[test]
fn a_reserve_is_there_for_its_priority() {
    let folder = tempfile::tempdir().unwrap();
    let block = [WhenFull::Block];
    let mut store = small(folder.path(), &[("alarm", policy(0, &block)), ("log", policy(5, &block))]);
    store.options.reserve = BTreeMap::from([(Priority::FIRST, 256 << 10)]);
    fill(&mut store, "log", 100_000);
    assert!(store.stat().unwrap().bytes < SMALL - (192 << 10));
    assert_eq!(push(&mut store, &captured("log", 1, 1)).0, Room::Blocked);
    assert_eq!(fill(&mut store, "alarm", 1000), 1000);
}

#[test]
fn old_records_that_were_never_sent_become_one_per_window() {
    let folder = tempfile::tempdir().unwrap();
    let thin = Thin {
        after: std::time::Duration::from_secs(60),
        to: std::time::Duration::from_secs(10),
        with: vec![Summary::Mean, Summary::Max],
    };
    let policy = StreamPolicy { thin, ..policy(5, &[WhenFull::Thin, WhenFull::Block]) };
    let mut store = small(folder.path(), &[("log", policy)]);
    // Ten a second; the first hundred were sent.
    let mut value = 0;
    let mut say = |store: &mut Store| {
        value += 1;
        push(store, &captured("log", value as i64, value * 100_000)).0
    };
    for _ in 0..100 {
        say(&mut store);
    }
    let waiting = store.waiting().unwrap().remove(0);
    take(&mut store, &waiting, 1);
    let mut kept = 100;
    while store.stat().unwrap().thinned < 2000 {
        assert_eq!(say(&mut store), Room::Free, "there is room as long as there is something to thin");
        kept += 1;
    }
    let stat = store.stat().unwrap();
    assert_eq!(lost(&store, "log"), BTreeMap::from([("thinned".into(), stat.thinned)]));
    assert_eq!(told(&mut store, "log"), (kept - stat.thinned, stat.thinned));
    let sent: i64 = store
        .db
        .query_row("SELECT sum(last - first + 1) FROM span WHERE last <= 100", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sent, 100, "what was sent stays as it was");
    let waiting = store.waiting().unwrap().remove(0);
    let parcel =
        store.group(|s| s.take(&waiting.key, &waiting.lane, 101, waiting.last, ALL)).unwrap().unwrap();
    let batch = Batch::from_json(parcel.json.as_bytes()).unwrap();
    // A window of ten seconds: the numbers from 200 to 299 came at 20.0 to 29.9 s.
    let second = &batch.records[1];
    let points: Vec<_> = second.points.iter().map(|point| (point.name.as_str(), &point.value)).collect();
    assert_eq!(second.seq, 299);
    assert_eq!(points, [("v_mean", &Value::Float(249.5)), ("v_max", &Value::Float(299.0))]);
}

#[test]
fn a_silent_reader_is_passed_over_and_owed_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let hour = 3_600_000_000;
    let readers = [reader("@ops"), reader("@gone"), reader("@slow")].into();
    let held = StreamPolicy { readers, hold: std::time::Duration::from_secs(3600), ..policy(5, &[]) };
    let mut store = small(folder.path(), &[("log", held)]);
    for value in 0..10 {
        push(&mut store, &captured("log", value, value as u64 * hour / 5));
    }
    let flow = |store: &Store, name: &str| {
        store.waiting().unwrap().into_iter().find(|w| w.key.reader == reader(name)).unwrap()
    };
    let (ops, slow, gone) = (flow(&store, "@ops"), flow(&store, "@slow"), flow(&store, "@gone"));
    store.group(|s| s.confirm(&ops.key, 10)).unwrap();
    store.group(|s| s.confirm(&slow.key, 2)).unwrap();
    let now = Stamp { mono_us: 2 * hour, ..now() };
    let cleared = store.group(|s| s.expire(now)).unwrap();
    // Those of the first hour: at 0, 12, … 48 minutes; the one at 60 is not older.
    assert_eq!((cleared.records, cleared.passed_over), (0, 5));
    assert_eq!(store.stat().unwrap().records, 8, "the slow reader has still to get its own");
    assert_eq!(take(&mut store, &slow, 3).len(), 8);
    let parcel = store.group(|s| s.take(&gone.key, &gone.lane, 1, 10, ALL)).unwrap().unwrap();
    let batch = Batch::from_json(parcel.json.as_bytes()).unwrap();
    assert_eq!(batch.gaps, [Gap { first: 1, last: 5, cause: Cause::Silent }]);
    assert_eq!(batch.records.iter().map(|record| record.seq).collect::<Vec<_>>(), [6, 7, 8, 9, 10]);
    store.group(|s| s.confirm(&slow.key, 10)).unwrap();
    assert_eq!(store.stat().unwrap().records, 5, "and what only the silent one waits for goes up to its gap");
    store.group(|s| s.confirm(&gone.key, 10)).unwrap();
    assert_eq!(store.stat().unwrap().records, 0);
    let stat = store.stat().unwrap();
    let lost: Vec<_> =
        stat.readers.iter().map(|r| (r.reader.as_str(), r.lost.values().sum::<u64>())).collect();
    assert_eq!(lost, [("@gone", 5), ("@ops", 0), ("@slow", 0)]);
}

#[test]
fn a_stream_of_the_newest_keeps_what_was_sent_and_one_more() {
    let folder = tempfile::tempdir().unwrap();
    let readers = [reader("@fast"), reader("@away")].into();
    let newest = StreamPolicy { readers, keep: Keep::Latest, ..StreamPolicy::default() };
    let mut first = small(folder.path(), &[("state", newest.clone())]);
    assert_eq!(fill(&mut first, "state", 10), 10);
    let lost = |store: &Store| {
        let readers = store.stat().unwrap().readers.into_iter();
        readers.map(|backlog| backlog.lost.get("superseded").copied().unwrap_or(0)).collect::<Vec<_>>()
    };
    assert_eq!((first.stat().unwrap().records, lost(&first)), (1, vec![9, 9]));

    // What @fast was sent is confirmed or sent again; @away was never sent it, and gets the newest alone.
    let fast =
        first.waiting().unwrap().into_iter().find(|waiting| waiting.key.reader == reader("@fast")).unwrap();
    let parcel = first.group(|store| store.take(&fast.key, &fast.lane, 1, 10, ALL)).unwrap().unwrap();
    assert_eq!((parcel.records, parcel.last), (1, 10));
    assert_eq!(fill(&mut first, "state", 5), 5);
    assert_eq!((first.stat().unwrap().records, lost(&first)), (2, vec![14, 13]));
    drop(first);

    // The next run's first record takes the place of what the last run left unsent.
    let mut second = small(folder.path(), &[("state", newest)]);
    assert_eq!(fill(&mut second, "state", 1), 1);
    assert_eq!((second.stat().unwrap().records, lost(&second)), (2, vec![15, 14]));
    assert_eq!(told(&mut second, "state"), (3, 29), "the reader of each hears of all 16");
}

#[tokio::test]
async fn what_is_in_the_way_grows_old_while_one_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (after, to) = (Duration::from_secs(2), Duration::from_millis(1));
    let thin = Thin { after, to, with: vec![Summary::Max] };
    let policy = StreamPolicy { thin, ..policy(9, &[WhenFull::Thin, WhenFull::Block]) };
    let streams = BTreeMap::from([(stream("log"), policy)]);
    let options =
        OutboxOptions { durability: Durability::None, ..OutboxOptions::new(folder.path(), streams) };
    let outbox = Outbox::open(OutboxOptions { max_bytes: SMALL, ..options }, now()).unwrap().outbox;
    // They come so fast that nothing is old when there is no more room.
    let began = std::time::Instant::now();
    let all = async {
        for number in 0..12_000 {
            let mono_us = u64::try_from(began.elapsed().as_micros()).unwrap();
            outbox.append(Arc::new(captured("log", number, mono_us))).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("it waits for ever");
    assert!(outbox.stat().await.unwrap().thinned > 0);
}
