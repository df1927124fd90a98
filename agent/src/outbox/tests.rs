//! The outbox as its users see it, on a real file in a temporary folder.

mod credential;
mod damage;
mod full;
mod model;
mod outside;
mod span;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use atedge_adapters::{Delivery, Point, Value};

use super::*;
use crate::payload::{Batch, Cause, ClockState, Gap, Seen};

pub(super) const HOUR_US: i64 = 3_600_000_000;
/// Some time after the release, in microseconds since 1970.
pub(super) const NOON_US: i64 = 1_800_000_000_000_000;

pub(super) fn at(wall_us: i64, state: ClockState) -> Stamp {
    Stamp { wall_us, mono_us: 0, state }
}

pub(super) fn now() -> Stamp {
    at(NOON_US, ClockState::Sync)
}

pub(super) fn reader(name: &str) -> AtSign {
    name.parse().unwrap()
}

pub(super) fn options(folder: &Path, readers: &[&str]) -> OutboxOptions {
    let policy = StreamPolicy {
        readers: readers.iter().map(|name| reader(name)).collect(),
        receipts: true,
        ..StreamPolicy::default()
    };
    let streams = BTreeMap::from([("process".parse().unwrap(), policy)]);
    OutboxOptions { durability: Durability::None, ..OutboxOptions::new(folder, streams) }
}

pub(super) fn capture(device: &str, value: i64) -> Capture {
    Capture {
        device: device.parse().unwrap(),
        stream: "process".parse().unwrap(),
        taken: now(),
        own_time_us: None,
        points: vec![Point { name: "v".parse().unwrap(), value: Value::Integer(value), unit: None }],
        device_id: None,
        delivery: None,
    }
}

pub(super) fn store(options: OutboxOptions) -> Store {
    super::open::open_store(options, now()).unwrap().0
}

/// Appends and gives the number; `None` for a repeat.
pub(super) fn append(store: &mut Store, capture: &Capture) -> Option<u64> {
    match store.group(|store| store.append(capture, true)).unwrap() {
        Appended::New { seq, .. } => Some(seq),
        Appended::Repeated | Appended::Dropped => None,
    }
}

pub(super) const ALL: BatchLimit = BatchLimit { records: 1000, bytes: 1 << 20 };

/// The values of what waits from `from` on, in the only lane of `device`.
pub(super) fn take(store: &mut Store, waiting: &Waiting, from: u64) -> Vec<(u64, i64)> {
    let parcel =
        store.group(|store| store.take(&waiting.key, &waiting.lane, from, waiting.last, ALL)).unwrap();
    let Some(parcel) = parcel else { return Vec::new() };
    let batch = Batch::from_json(parcel.json.as_bytes()).unwrap();
    assert_eq!(batch.lane, *waiting.lane);
    batch.records.iter().map(|record| (record.seq, super::sim::value(record))).collect()
}

#[test]
fn numbers_are_dense_per_device_and_boots_grow() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = store(options(folder.path(), &["@ops"]));
    assert_eq!(append(&mut first, &capture("a", 10)), Some(1));
    assert_eq!(append(&mut first, &capture("a", 11)), Some(2));
    assert_eq!(append(&mut first, &capture("b", 12)), Some(1));
    let boot = first.boot;
    drop(first);

    let mut second = store(options(folder.path(), &["@ops"]));
    assert!(second.boot > boot && second.boot.epoch() == boot.epoch() + 1);
    assert_eq!(append(&mut second, &capture("a", 13)), Some(1), "a new boot counts anew");
    let waiting = second.waiting().unwrap();
    assert_eq!(waiting.len(), 3);
    assert_eq!(take(&mut second, &waiting[0], 1), [(1, 10), (2, 11)]);
    assert_eq!(waiting[0].lane.boot, boot, "under the id it was captured with");
}

#[test]
fn a_group_that_fails_leaves_no_hole_in_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops"]));
    assert_eq!(append(&mut store, &capture("a", 1)), Some(1));
    let failed = store.group(|store| {
        store.append(&capture("a", 2), true)?;
        store.append(&capture("b", 3), true)?;
        Err::<(), _>(rusqlite::Error::InvalidQuery)
    });
    assert!(failed.is_err());
    assert_eq!(append(&mut store, &capture("a", 4)), Some(2));
    assert_eq!(append(&mut store, &capture("b", 5)), Some(1));
    let waiting = store.waiting().unwrap();
    assert_eq!(take(&mut store, &waiting[0], 1), [(1, 1), (2, 4)]);
}

#[test]
fn a_record_goes_when_every_reader_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = store(options(folder.path(), &["@ops", "@audit"]));
    for value in 0..4 {
        append(&mut first, &capture("a", value));
    }
    let waiting = first.waiting().unwrap();
    let (audit, ops) = (&waiting[0], &waiting[1]);
    let mut confirm = |reader: &Waiting, upto| {
        first.group(|store| store.confirm(&reader.key, upto)).unwrap();
        first.stat().unwrap().records
    };
    assert_eq!(confirm(ops, 4), 4);
    assert_eq!(confirm(audit, 2), 2);
    confirm(audit, 1);
    assert_eq!(take(&mut first, audit, 1), [(3, 2), (4, 3)], "a cursor never goes back");
    drop(first);

    // Without @audit in the configuration, nobody waits for the rest.
    let second = store(options(folder.path(), &["@ops"]));
    assert_eq!(second.stat().unwrap().records, 0);
    assert_eq!(second.waiting().unwrap(), []);
}

#[test]
fn a_stream_without_readers_keeps_its_records() {
    let folder = tempfile::tempdir().unwrap();
    append(&mut store(options(folder.path(), &["@ops"])), &capture("a", 1));
    let none = OutboxOptions { streams: BTreeMap::new(), ..options(folder.path(), &[]) };
    let stat = store(none).stat().unwrap();
    assert_eq!((stat.records, stat.readers), (1, vec![]));
    assert_eq!(store(options(folder.path(), &["@new"])).waiting().unwrap().len(), 1);
}

#[test]
fn a_delivery_is_repeated_only_with_dup_and_the_same_digest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut first = store(options(path, &["@ops"]));
    let delivered = |number, packet, dup, digest| Capture {
        delivery: Some(Delivery { session: "shop/dev1".into(), number, packet, dup, digest: [digest; 8] }),
        ..capture("a", 1)
    };
    assert!(append(&mut first, &delivered(10, 7, false, 1)).is_some());
    assert!(append(&mut first, &delivered(11, 8, false, 1)).is_some());
    drop(first);
    // Numbers begin anew with the process.
    let mut store = store(options(path, &["@ops"]));
    assert_eq!(append(&mut store, &delivered(1, 7, true, 1)), None, "after a kill the broker sends it again");
    assert_eq!(append(&mut store, &delivered(2, 7, true, 1)), None, "and once more");
    assert!(
        append(&mut store, &delivered(3, 7, true, 2)).is_some(),
        "another message under the same packet id"
    );
    assert!(append(&mut store, &delivered(4, 7, false, 2)).is_some(), "no DUP: the id was used anew");
    store.settle("shop/dev1", 3).unwrap();
    assert!(
        append(&mut store, &delivered(5, 8, true, 1)).is_some(),
        "what an earlier run took is settled too"
    );
    assert_eq!(append(&mut store, &delivered(6, 7, true, 2)), None, "4 was not settled");
    store.settle("shop/dev1", 6).unwrap();
    assert!(append(&mut store, &delivered(7, 7, true, 2)).is_some(), "it was settled");
    store.forget_session("shop/dev1").unwrap();
    assert!(append(&mut store, &delivered(8, 7, true, 2)).is_some(), "the session was lost");
    assert_eq!(store.stat().unwrap().repeats, 3);
}

#[test]
fn a_repeat_within_one_group_is_known_and_a_group_that_is_lost_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops"]));
    let delivered = |number, packet, dup, digest| Capture {
        delivery: Some(Delivery { session: "shop/dev1".into(), number, packet, dup, digest: [digest; 8] }),
        ..capture("a", 1)
    };
    let lost = store.group(|store| {
        store.append(&delivered(1, 7, false, 1), true)?;
        Err::<(), _>(rusqlite::Error::InvalidQuery)
    });
    assert!(lost.is_err());
    let of_one_group = store.group(|store| {
        [(2, 7, true, 1), (3, 8, false, 2), (4, 7, true, 1), (5, 8, true, 1)]
            .map(|(number, packet, dup, digest)| store.append(&delivered(number, packet, dup, digest), true))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
    });
    let is_new: Vec<bool> =
        of_one_group.unwrap().iter().map(|appended| matches!(appended, Appended::New { .. })).collect();
    assert_eq!(is_new, [true, true, false, true]);
    assert_eq!(append(&mut store, &delivered(6, 8, true, 1)), None, "the last under an identifier counts");
}

#[test]
fn an_id_of_the_device_is_taken_once_even_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let with = |device, id: &str| Capture { device_id: Some(id.into()), ..capture(device, 1) };
    let mut first = store(options(folder.path(), &["@ops"]));
    assert!(append(&mut first, &with("a", "17")).is_some());
    assert!(append(&mut first, &with("b", "17")).is_some(), "another device");
    drop(first);
    let mut second = store(options(folder.path(), &["@ops"]));
    assert_eq!(append(&mut second, &with("a", "17")), None);
    assert!(append(&mut second, &with("a", "18")).is_some());
}

#[test]
fn a_receipt_moves_the_cursor_to_the_first_thing_that_is_missing_and_still_here() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops"]));
    for value in 0..10 {
        append(&mut store, &capture("a", value));
    }
    let waiting = store.waiting().unwrap().remove(0);
    let receipt = |pairs: Vec<(u64, u64)>| Receipt::of(waiting.lane.boot, &Seen::from(pairs));
    let ops = reader("@ops");
    let of = |store: &mut Store, who: &AtSign, receipt: &Receipt| {
        store.group(|store| store.receipt(who, "a", "process", receipt)).unwrap()
    };

    assert_eq!(of(&mut store, &ops, &receipt(vec![(1, 4)])), None, "nothing was sent yet");
    take(&mut store, &waiting, 1);
    assert_eq!(of(&mut store, &reader("@eve"), &receipt(vec![(1, 4)])), None, "no reader of this stream");
    assert_eq!(of(&mut store, &ops, &receipt(vec![(1, 11)])), None, "more than was sent");
    let other = Receipt::of(Boot::new(1, 1), &Seen::from(vec![(1, 4)]));
    assert_eq!(of(&mut store, &ops, &other), None, "no boot of ours");

    let got = of(&mut store, &ops, &receipt(vec![(1, 4), (7, 9)])).unwrap();
    assert_eq!((got.confirmed, got.upto, got.missing), (4, 9, vec![(5, 6)]));
    assert_eq!(store.stat().unwrap().records, 6);
    store.db.execute("DELETE FROM span WHERE last IN (5, 6)", []).unwrap();
    let got = of(&mut store, &ops, &receipt(vec![(1, 4), (7, 9)])).unwrap();
    assert_eq!((got.confirmed, got.missing), (9, vec![]), "nobody has them: passed over");
    let got = of(&mut store, &ops, &receipt(vec![(1, 2)])).unwrap();
    assert_eq!((got.confirmed, got.missing), (9, vec![]), "an old receipt changes nothing");
    let got = of(&mut store, &ops, &receipt(vec![(1, 4), (7, 10)])).unwrap();
    assert_eq!((got.confirmed, got.missing), (10, vec![]), "what was passed over is not asked for again");
}

#[test]
fn a_batch_ends_where_it_is_full_or_the_clock_was_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops"]));
    let free = |wall_us, mono_us| Capture {
        taken: Stamp { wall_us, mono_us, state: ClockState::Free },
        ..capture("a", 1)
    };
    append(&mut store, &free(NOON_US, 0));
    append(&mut store, &free(NOON_US + 500_000, 500_100));
    append(&mut store, &free(NOON_US + HOUR_US, 900_000)); // somebody set the clock
    append(&mut store, &Capture { own_time_us: Some(5), ..free(NOON_US + HOUR_US, 950_000) });
    append(&mut store, &capture("a", 1));
    let waiting = store.waiting().unwrap().remove(0);
    let mut parcel = |from, limit| {
        store.group(|s| s.take(&waiting.key, &waiting.lane, from, waiting.last, limit)).unwrap().unwrap()
    };
    assert_eq!((parcel(1, ALL).first, parcel(1, ALL).last), (1, 2));
    assert_eq!(parcel(3, ALL).last, 3);
    let own = parcel(4, ALL);
    let own = Batch::from_json(own.json.as_bytes()).unwrap();
    assert_eq!(
        (own.clock, own.records[0].time_us),
        (ClockState::Sync, 5),
        "its device's own time is as right as ever"
    );
    assert_eq!(own.records.len(), 2, "and shares a batch with what needs no repair either");
    assert_eq!(parcel(1, BatchLimit { records: 1, ..ALL }).last, 1);
    assert_eq!(parcel(1, BatchLimit { bytes: 1, ..ALL }).last, 1, "one record goes whatever its size");
}

#[test]
fn times_are_set_right_once_the_clock_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops"]));
    let free = |mono_us| Capture {
        taken: Stamp { mono_us, ..at(NOON_US - HOUR_US, ClockState::Free) },
        ..capture("a", 1)
    };
    append(&mut store, &free(1_000_000));
    append(&mut store, &free(2_000_000));
    append(&mut store, &Capture { own_time_us: Some(5), ..free(3_000_000) });
    append(&mut store, &Capture { device: "b".parse().unwrap(), ..free(4_000_000) });
    let waiting = store.waiting().unwrap();
    let batch = |store: &mut Store, at: usize, from, to| {
        let Waiting { key, lane, .. } = &waiting[at];
        let parcel = store.group(|store| store.take(key, lane, from, to, ALL)).unwrap().unwrap();
        Batch::from_json(parcel.json.as_bytes()).unwrap()
    };
    let sent = batch(&mut store, 0, 1, 1);
    assert_eq!((sent.clock, sent.mono_us), (ClockState::Free, 1_000_000));

    let now = Stamp { mono_us: 10_000_000, ..at(NOON_US, ClockState::Sync) };
    store.group(|store| store.synchronised(now)).unwrap();
    let rest = batch(&mut store, 0, 2, 4);
    assert_eq!(rest.clock, ClockState::Sync);
    let times: Vec<i64> = rest.records.iter().map(|record| record.time_us).collect();
    assert_eq!(times, [NOON_US - 8_000_000, 5, NOON_US], "what had waited, the device's own, and the fix");
    let began = rest.records[2].as_timefix().unwrap();
    assert_eq!(began + sent.mono_of(&sent.records[0]), NOON_US - 9_000_000);
    let other = batch(&mut store, 1, 1, 9);
    assert_eq!(other.records.len(), 1, "nothing of it had gone: no fix is owed");
    assert_eq!(other.records[0].time_us, NOON_US - 6_000_000);
}

#[test]
fn only_times_that_can_be_believed_expire() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops"]));
    let day = 24 * HOUR_US;
    append(&mut store, &Capture { taken: at(NOON_US - 8 * day, ClockState::Sync), ..capture("old", 1) });
    append(&mut store, &Capture { taken: at(NOON_US - 8 * day, ClockState::Free), ..capture("free", 1) });
    append(&mut store, &Capture { own_time_us: Some(0), ..capture("new", 1) });
    // In the run that captured them the clock may jump as it likes: the time since its start tells.
    assert_eq!(store.group(|s| s.expire(at(NOON_US + 9 * day, ClockState::Sync))).unwrap().records, 0);
    drop(store);
    let mut store = super::tests::store(options(folder.path(), &["@ops"]));
    assert_eq!(store.group(|s| s.expire(at(NOON_US, ClockState::Free))).unwrap().records, 0);
    assert_eq!(store.group(|s| s.expire(now())).unwrap().records, 1);
    let stat = store.stat().unwrap();
    assert_eq!((stat.records, stat.expired), (2, 1));
    let waiting = store.waiting().unwrap().remove(0);
    assert_eq!(take(&mut store, &waiting, 1), [], "the sender learns that it is gone");
    append(&mut store, &capture("late", 1));
    let later = Stamp { mono_us: 8 * day as u64, ..at(NOON_US, ClockState::Free) };
    assert_eq!(
        store.group(|s| s.expire(later)).unwrap().records,
        2,
        "eight days have passed, whatever day it is"
    );
}

#[test]
fn keys_of_old_segments_go_when_nothing_needs_them() {
    let folder = tempfile::tempdir().unwrap();
    append(&mut store(options(folder.path(), &["@ops"])), &capture("a", 1));
    let mut store = store(options(folder.path(), &["@ops"]));
    let segments = |store: &Store| -> i64 {
        store.db.query_row("SELECT count(*) FROM segment", [], |row| row.get(0)).unwrap()
    };
    store.group(|s| s.expire(now())).unwrap();
    assert_eq!(segments(&store), 2);
    let waiting = store.waiting().unwrap().remove(0);
    store.confirm(&waiting.key, 1).unwrap();
    store.group(|s| s.expire(now())).unwrap();
    assert_eq!(segments(&store), 1);
}

#[test]
fn what_is_refused_for_good_is_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops"]));
    append(&mut store, &capture("a", 1));
    append(&mut store, &capture("a", 2));
    let waiting = store.waiting().unwrap().remove(0);
    let aside = store.group(|s| s.set_aside(&waiting.key, 1, 1, "AT0009 not allowed")).unwrap();
    assert_eq!(aside, 1);
    store.group(|s| s.confirm(&waiting.key, 1)).unwrap();
    let stat = store.stat().unwrap();
    assert_eq!((stat.records, stat.aside, stat.readers[0].unconfirmed), (1, 1, 1));
    store.group(|s| s.expire(now())).unwrap();
    assert_eq!(store.stat().unwrap().aside, 1);
    let week_us = 8 * 24 * HOUR_US;
    store.group(|s| s.expire(at(NOON_US + week_us, ClockState::Sync))).unwrap();
    assert_eq!(store.stat().unwrap().aside, 1, "the clock was only set");
    store.group(|s| s.expire(Stamp { mono_us: week_us as u64, ..now() })).unwrap();
    assert_eq!(store.stat().unwrap().aside, 0);
}

#[test]
fn a_command_begins_once() {
    let folder = tempfile::tempdir().unwrap();
    let new = |key: &str, idempotent, expires_ms| NewCommand {
        id: CommandId { caller: reader("@ops"), key: key.into() },
        request: "17".into(),
        device: "boiler".into(),
        idempotent,
        expires_ms,
        forget_ms: 10_000,
    };
    let first = store(options(folder.path(), &["@ops"]));
    assert_eq!(first.begin_command(&new("a", false, 1000)).unwrap(), Begun::Now);
    assert_eq!(first.begin_command(&new("a", false, 1000)).unwrap(), Begun::Running);
    first.end_command(&new("a", false, 1000).id, "done").unwrap();
    assert_eq!(first.begin_command(&new("a", false, 1000)).unwrap(), Begun::Ended("done".into()));
    assert_eq!(first.begin_command(&new("b", false, 2000)).unwrap(), Begun::Now);
    assert_eq!(first.begin_command(&new("c", true, 1000)).unwrap(), Begun::Now);
    assert_eq!(first.give_up_unfinished("unknown").unwrap(), [], "they run still");
    drop(first);

    let second = store(options(folder.path(), &["@ops"]));
    let unfinished = second.give_up_unfinished("unknown").unwrap();
    assert_eq!(unfinished.iter().map(|one| one.id.key.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(second.begin_command(&new("b", false, 2000)).unwrap(), Begun::Ended("unknown".into()));
    assert_eq!(second.begin_command(&new("c", true, 1000)).unwrap(), Begun::Now, "idempotent: again");

    second.forget_commands(9_999).unwrap();
    assert_eq!(second.begin_command(&new("a", false, 1000)).unwrap(), Begun::Ended("done".into()));
    second.forget_commands(10_000).unwrap();
    assert_eq!(
        second.begin_command(&new("a", false, 2000)).unwrap(),
        Begun::Forgotten,
        "a clock set back revives nothing"
    );
    assert_eq!(second.begin_command(&new("d", false, 2001)).unwrap(), Begun::Now);
}

#[tokio::test]
async fn a_full_outbox_holds_appends_back_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let full = OutboxOptions { max_bytes: 0, ..options(folder.path(), &["@ops"]) };
    let Opened { outbox, .. } = Outbox::open(full, now()).unwrap();
    let waiting = outbox.submit(Arc::new(capture("a", 1))).await.unwrap();
    // The thread has dealt with everything before this, and still answers.
    assert_eq!(outbox.stat().await.unwrap().records, 0);
    drop(outbox);
    assert!(matches!(waiting.await, Err(OutboxError::NotStored)), "never acknowledged");
}

#[tokio::test]
async fn who_sends_for_one_device_hears_of_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let apart = BTreeSet::from(["b".parse().unwrap()]);
    let options = OutboxOptions { apart, ..options(folder.path(), &["@ops"]) };
    let Opened { outbox, .. } = Outbox::open(options, now()).unwrap();
    let own = outbox.share(Share::Of("b".parse().unwrap()));
    for device in ["a", "b", "c"] {
        outbox.append(Arc::new(capture(device, 1))).await.unwrap();
    }
    // The thread has told of everything before this.
    outbox.stat().await.unwrap();
    let devices =
        |grown: Grown| grown.into_values().map(|(lane, _)| lane.device.to_string()).collect::<Vec<_>>();
    assert_eq!(devices(outbox.grown().await), ["a", "c"]);
    assert_eq!(devices(own.grown().await), ["b"]);
    let waiting = own.waiting().await.unwrap();
    assert_eq!(waiting.iter().map(|waiting| waiting.lane.device.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(outbox.waiting().await.unwrap().len(), 2);

    let lane = Arc::clone(&waiting[0].lane);
    own.take(waiting[0].key.clone(), Arc::clone(&lane), 1, 1, ALL).await.unwrap().unwrap();
    let mut seen = Seen::default();
    seen.insert(1);
    let receipt = Receipt::of(lane.boot, &seen);
    let taken = |outbox: Outbox| outbox_receipt(outbox, receipt.clone());
    assert!(taken(outbox.clone()).await.is_none(), "confirmed to another atSign than it came from");
    assert!(taken(own.clone()).await.is_some());

    own.set_heard_until(7).await.unwrap();
    assert_eq!((own.heard_until().await.unwrap(), outbox.heard_until().await.unwrap()), (Some(7), None));
}

async fn outbox_receipt(outbox: Outbox, receipt: Receipt) -> Option<Receipted> {
    let (device, stream) = ("b".parse().unwrap(), "process".parse().unwrap());
    outbox.receipt(reader("@ops"), device, stream, receipt).await.unwrap()
}

#[tokio::test]
async fn groups_are_told_to_the_sender_and_everything_is_written_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { outbox, thread, salvaged, .. } =
        Outbox::open(options(folder.path(), &["@ops"]), now()).unwrap();
    assert_eq!(salvaged, None);
    let mut on_the_way = Vec::new();
    for value in 0..100 {
        on_the_way.push(outbox.submit(Arc::new(capture("a", value))).await.unwrap());
    }
    let mut numbers = Vec::new();
    for append in on_the_way {
        match append.await.unwrap() {
            Appended::New { seq, .. } => numbers.push(seq),
            other @ (Appended::Repeated | Appended::Dropped) => panic!("{other:?}"),
        }
    }
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>(), "in the order of submission");
    assert_eq!(outbox.stat().await.unwrap().records, 100);
    let grown = outbox.grown().await;
    assert_eq!(grown.values().map(|(_, last)| *last).collect::<Vec<_>>(), [100]);
    let stat = stat_from_outside(folder.path()).unwrap();
    assert_eq!(stat.records, 100, "beside the running agent");
    let (stream, reader) = ("process".into(), "@ops".into());
    let backlog = Backlog {
        stream,
        reader,
        unconfirmed: 100,
        confirmed_by: ConfirmedBy::Receipt,
        lost: BTreeMap::new(),
    };
    assert_eq!(stat.readers, [backlog]);
    let in_use = Outbox::open(options(folder.path(), &["@ops"]), now()).err();
    assert!(matches!(in_use, Some(OutboxError::InUse(_))));
    drop(outbox);
    thread.join();
    assert_eq!(store(options(folder.path(), &["@ops"])).stat().unwrap().records, 100);
}
