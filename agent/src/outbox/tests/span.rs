//! Records that one commit adds to a lane, which are one row.

use super::*;
use crate::outbox::store::number;

/// Appends values in one group.
fn together(store: &mut Store, values: std::ops::RangeInclusive<i64>) {
    let captures = values.map(|value| capture("a", value));
    let append = |store: &mut Store| {
        captures.map(|capture| store.append(&capture, true)).collect::<Result<Vec<_>, _>>()
    };
    store.group(append).unwrap();
}

fn rows(store: &Store) -> Vec<(u64, u64)> {
    let mut select = store.db.prepare("SELECT first, last FROM span ORDER BY id").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn what_comes_together_is_one_row_and_each_record_is_still_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops", "@audit"]));
    together(&mut store, 1..=5);
    together(&mut store, 6..=7);
    assert_eq!(rows(&store), [(1, 5), (6, 7)]);
    let waiting = store.waiting().unwrap();
    let (audit, ops) = (&waiting[0], &waiting[1]);
    let limit = BatchLimit { records: 3, ..ALL };
    let parcel = store.group(|s| s.take(&ops.key, &ops.lane, 1, 7, limit)).unwrap().unwrap();
    assert_eq!((parcel.first, parcel.last, parcel.records), (1, 3, 3));
    let parcel = store.group(|s| s.take(&ops.key, &ops.lane, 4, 7, limit)).unwrap().unwrap();
    assert_eq!((parcel.first, parcel.last, parcel.records), (4, 6, 3), "over the end of the row");

    store.group(|s| s.confirm(&ops.key, 7)).unwrap();
    store.group(|s| s.confirm(&audit.key, 3)).unwrap();
    assert_eq!((rows(&store), store.stat().unwrap().records), (vec![(4, 5), (6, 7)], 4));
    assert_eq!(take(&mut store, audit, 4), [(4, 4), (5, 5), (6, 6), (7, 7)]);
    store.group(|s| s.drop_records(audit.key.lane, 4, 4, Cause::Full)).unwrap();
    assert_eq!((rows(&store), store.stat().unwrap().records), (vec![(5, 5), (6, 7)], 3));
    store.group(|s| s.confirm(&audit.key, 7)).unwrap();
    assert_eq!(rows(&store), []);
}

#[test]
fn a_row_is_no_larger_than_a_page_unless_one_record_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops"]));
    let long = |bytes| Capture {
        points: vec![Point { name: "v".parse().unwrap(), value: Value::Text("x".repeat(bytes)), unit: None }],
        ..capture("a", 0)
    };
    let captures = [long(1_000), long(1_000), long(1_000), long(1_000), long(50_000), long(10)];
    store.group(|s| captures.iter().try_for_each(|capture| s.append(capture, true).map(drop))).unwrap();
    assert_eq!(rows(&store), [(1, 3), (4, 4), (5, 5), (6, 6)]);
    let longest: u64 = store
        .db
        .query_row("SELECT max(length(sealed)) FROM span WHERE last <> 5", [], |row| row.get(0))
        .unwrap();
    assert!(longest < 4_000, "{longest}");
    let waiting = store.waiting().unwrap().remove(0);
    let parcel = store.group(|s| s.take(&waiting.key, &waiting.lane, 1, 6, ALL)).unwrap().unwrap();
    assert_eq!(Batch::from_json(parcel.json.as_bytes()).unwrap().records.len(), 6);
}

#[test]
fn a_row_that_does_not_open_costs_what_is_in_it_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops", "@audit"]));
    together(&mut store, 1..=3);
    together(&mut store, 4..=6);
    together(&mut store, 7..=9);
    store.db.execute("UPDATE span SET sealed = zeroblob(400) WHERE last = 6", []).unwrap();
    let waiting = store.waiting().unwrap().remove(0);
    let got = store.group(|s| s.take(&waiting.key, &waiting.lane, 1, 9, ALL)).unwrap().unwrap();
    let batch = Batch::from_json(got.json.as_bytes()).unwrap();
    assert_eq!(batch.gaps, [Gap { first: 4, last: 6, cause: Cause::Damaged }]);
    assert_eq!(rows(&store), [(1, 3), (7, 9)]);
    let stat = store.stat().unwrap();
    assert_eq!((stat.damaged, stat.readers.iter().map(|reader| reader.lost["damaged"]).sum::<u64>()), (3, 6));
    assert_eq!(take(&mut store, &waiting, 1), [(1, 1), (2, 2), (3, 3), (7, 7), (8, 8), (9, 9)]);
}

#[test]
fn a_row_whose_numbers_are_damaged_takes_no_others_along() {
    for spoil in [
        "first = 99 WHERE last = 6",
        "first = 1 WHERE last = 6",
        "last = 40 WHERE last = 6",
        "last = 7 WHERE last = 6",
        "last = 9 WHERE last = 6",
        "first = 1, last = 8 WHERE last = 6",
        "first = 5, last = 1000000 WHERE last = 6",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut store = store(options(folder.path(), &["@ops"]));
        for values in [1..=3, 4..=6, 7..=9] {
            together(&mut store, values);
        }
        store.db.execute(&format!("UPDATE span SET {spoil}"), []).unwrap();
        together(&mut store, 10..=12);
        let waiting = store.waiting().unwrap().remove(0);
        let got: Vec<u64> = take(&mut store, &waiting, 1).iter().map(|(seq, _)| *seq).collect();
        // Asked again, it is as it was.
        let again: Vec<u64> = take(&mut store, &waiting, 1).iter().map(|(seq, _)| *seq).collect();
        assert_eq!(got, again, "{spoil}");
        let spared: Vec<u64> = (1..=12).filter(|seq| !(4..=6).contains(seq)).collect();
        assert!(got == spared || got == (1..=12).collect::<Vec<_>>(), "{spoil}: {got:?}");
        assert_eq!(got.len() as u64 + store.stat().unwrap().damaged, 12, "{spoil}");
        together(&mut store, 13..=13);
        let waiting = store.waiting().unwrap().remove(0);
        assert_eq!(take(&mut store, &waiting, 13), [(13, 13)], "{spoil}");
        store.group(|s| s.confirm(&waiting.key, 13)).unwrap();
        assert_eq!(store.waiting().unwrap(), [], "{spoil}");
    }
}

#[test]
fn a_clock_that_is_set_ends_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops"]));
    let free = Capture { taken: at(NOON_US - HOUR_US, ClockState::Free), ..capture("a", 1) };
    let captures = [free.clone(), free, capture("a", 2), capture("a", 3)];
    store.group(|s| captures.iter().try_for_each(|capture| s.append(capture, true).map(drop))).unwrap();
    assert_eq!(rows(&store), [(1, 2), (3, 4)]);
}

#[test]
fn the_newest_of_a_group_is_the_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), &["@ops"]);
    options.streams.values_mut().for_each(|policy| policy.keep = Keep::Latest);
    let mut store = store(options);
    together(&mut store, 1..=5);
    assert_eq!(rows(&store), [(5, 5)]);
    let waiting = store.waiting().unwrap().remove(0);
    assert_eq!(take(&mut store, &waiting, 1), [(5, 5)]);
    assert_eq!(store.stat().unwrap().readers[0].lost["superseded"], 4);
}

#[test]
fn with_much_to_do_what_was_confirmed_goes_later_and_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = store(options(folder.path(), &["@ops"]));
    together(&mut first, 1..=100);
    let waiting = first.waiting().unwrap().remove(0);
    first.is_busy = true;
    let mut upto = 0;
    while !rows(&first).is_empty() && upto < 100 {
        upto += 1;
        first.group(|s| s.confirm(&waiting.key, upto)).unwrap();
    }
    let left = first.stat().unwrap().records;
    assert!((1..100).contains(&left), "some went before the last was confirmed: {left}");
    assert_eq!(first.waiting().unwrap(), [], "the reader has all of it whatever is there");
    // A start in between finds what is left.
    drop(first);
    let again = store(options(folder.path(), &["@ops"]));
    assert_eq!((rows(&again), number(&again.db, "damaged").unwrap()), (vec![], None));
}
