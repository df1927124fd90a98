//! What a person does to the queue.

use super::*;

fn which(device: &str) -> Which {
    Which { device: Some(device.parse().unwrap()), ..Which::default() }
}

#[test]
fn what_waits_is_listed_copied_out_and_taken_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = store(options(folder.path(), &["@ops"]));
    for value in 0..5 {
        append(&mut first, &capture("a", value));
        append(&mut first, &capture("b", value));
    }
    // The agent runs, and is looked at all the same.
    let listed = list(folder.path(), &which("a")).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].records, listed[0].first, listed[0].last, listed[0].gaps),
        (5, Some(1), Some(5), 0)
    );
    let mut values = Vec::new();
    let take = |batch: Batch| values.push(crate::outbox::sim::value(&batch.records[0]));
    assert_eq!(export(folder.path(), &which("b"), take).unwrap(), 0);
    assert_eq!(values, [0, 1, 2, 3, 4]);
    drop(first);

    let young = Which { before_us: Some(NOON_US), ..Which::default() };
    assert_eq!(purge(folder.path(), &young, now()).unwrap(), 0, "all was captured at noon");
    assert_eq!(purge(folder.path(), &which("a"), now()).unwrap(), 5);
    let mut second = store(options(folder.path(), &["@ops"]));
    assert_eq!(second.stat().unwrap().records, 5);
    assert_eq!(second.stat().unwrap().readers[0].lost, BTreeMap::from([("purged".into(), 5)]));
    let waiting = second.waiting().unwrap().remove(0);
    let parcel = second.group(|s| s.take(&waiting.key, &waiting.lane, 1, 5, ALL)).unwrap().unwrap();
    let batch = Batch::from_json(parcel.json.as_bytes()).unwrap();
    assert_eq!(batch.gaps, [Gap { first: 1, last: 5, cause: Cause::Purged }]);
}

#[tokio::test]
async fn nothing_is_taken_out_under_a_running_agent() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Outbox::open(options(folder.path(), &["@ops"]), now()).unwrap();
    let error = purge(folder.path(), &Which::default(), now()).unwrap_err();
    assert!(matches!(error, OutboxError::InUse(_)), "{error}");
    assert!(error.to_string().contains("is another agent running?"));
    drop(opened);
    let nowhere = tempfile::tempdir().unwrap();
    assert!(matches!(list(nowhere.path(), &Which::default()), Err(OutboxError::Open { .. })));
    assert!(matches!(purge(nowhere.path(), &Which::default(), now()), Err(OutboxError::Folder { .. })));
}
