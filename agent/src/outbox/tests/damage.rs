//! Files that the disk or somebody else has spoilt.

use super::*;
use crate::outbox::open::open_store;

fn filled(folder: &Path) {
    let mut store = store(options(folder, &["@ops"]));
    for device in ["a", "b", "c"] {
        for value in 0..200 {
            append(&mut store, &capture(device, value));
        }
    }
}

fn reopened(folder: &Path) -> (Store, Option<Salvaged>) {
    open_store(options(folder, &["@ops"]), now()).unwrap()
}

#[test]
fn nothing_of_a_reading_is_on_disk_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let canary = "a canary that sings of 62.1";
    let Capture { device, stream, .. } = capture("a", 1);
    let value = Value::Text(canary.into());
    let points = vec![Point { name: "v".parse().unwrap(), value, unit: None }];
    let sung = Capture { device, stream, points, ..capture("a", 1) };
    let mut store = store(options(folder.path(), &["@ops"]));
    append(&mut store, &sung);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(canary.len()).any(|window| window == canary.as_bytes()));
    }
    let waiting = store.waiting().unwrap().remove(0);
    let parcel = store.group(|s| s.take(&waiting.key, &waiting.lane, 1, 1, ALL)).unwrap().unwrap();
    assert!(parcel.json.contains(canary));
}

#[test]
fn rubbish_is_moved_away_and_the_epoch_still_grows() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE), [0x5a; 10_000]).unwrap();
    let (store, salvaged) = reopened(folder.path());
    let salvaged = salvaged.unwrap();
    assert_eq!(salvaged.records, 0);
    assert_eq!(std::fs::read(salvaged.moved_to).unwrap(), [0x5a; 10_000]);
    assert!(store.boot.epoch() > 1_800_000_000, "above any epoch that was lost");
}

#[test]
fn a_torn_page_costs_the_records_on_it_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let path = folder.path().join(FILE);
    // Spoil a page in the middle of those that hold records: the leaves of tables.
    let mut bytes = std::fs::read(&path).unwrap();
    let leaves: Vec<usize> = (0..bytes.len() / 4096).filter(|page| bytes[page * 4096] == 0x0d).collect();
    let leaf = leaves[leaves.len() / 2];
    bytes[leaf * 4096..leaf * 4096 + 8].fill(0xff);
    std::fs::write(&path, bytes).unwrap();

    // The first to step on it finds out, and the next start mends it.
    let mut broken = store(options(folder.path(), &["@ops"]));
    let epoch = broken.boot.epoch();
    let read: Result<Vec<_>, _> = broken
        .waiting()
        .unwrap()
        .iter()
        .map(|waiting| broken.group(|s| s.take(&waiting.key, &waiting.lane, 1, waiting.last, ALL)))
        .collect();
    assert!(crate::outbox::store::is_damage(&read.unwrap_err()));
    drop(broken);
    crate::outbox::salvage::mark(&path);
    let (mut mended, salvaged) = reopened(folder.path());
    let salvaged = salvaged.unwrap();
    assert!(salvaged.records > 500 && salvaged.records < 600, "{salvaged:?}");
    assert_eq!(salvaged.lanes, 3);
    assert!(mended.boot.epoch() > epoch);
    let waiting = mended.waiting().unwrap();
    let read: usize = waiting.iter().map(|waiting| take(&mut mended, waiting, 1).len()).sum();
    assert_eq!(read as u64, salvaged.records, "and each of them opens");
    drop(mended);
    assert_eq!(reopened(folder.path()).1, None, "mended once");
}

#[test]
fn columns_whose_names_are_damaged_cost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let path = folder.path().join(FILE);
    let db = rusqlite::Connection::open(&path).unwrap();
    let records: u64 = db.query_row("SELECT sum(last - first + 1) FROM span", [], |row| row.get(0)).unwrap();
    db.execute_batch("ALTER TABLE span RENAME mono_us TO mono_ts; ALTER TABLE lane RENAME next TO nex4")
        .unwrap();
    drop(db);
    crate::outbox::salvage::mark(&path);
    assert_eq!(reopened(folder.path()).1.unwrap().records, records);
}

#[test]
fn a_record_that_does_not_open_is_counted_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(options(folder.path(), &["@ops"]));
    for value in 1..=3 {
        append(&mut store, &capture("a", value));
    }
    store.db.execute("UPDATE span SET sealed = zeroblob(40) WHERE last = 2", []).unwrap();
    let waiting = store.waiting().unwrap().remove(0);
    assert_eq!(take(&mut store, &waiting, 1), [(1, 1), (3, 3)]);
    assert_eq!(store.stat().unwrap().damaged, 1);
}

#[test]
fn without_its_seal_key_the_queue_is_put_by_and_a_new_one_begun() {
    let folder = tempfile::tempdir().unwrap();
    for spoil in [
        |path: &Path| std::fs::remove_file(path).unwrap(),
        |path: &Path| std::fs::write(path, b"short").unwrap(),
    ] {
        append(&mut store(options(folder.path(), &["@ops"])), &capture("a", 1));
        spoil(&folder.path().join("seal.key"));
        let (mut store, salvaged) = reopened(folder.path());
        assert_eq!(salvaged.unwrap().records, 0);
        assert_eq!(append(&mut store, &capture("a", 1)), Some(1));
        drop(store);
        assert_eq!(reopened(folder.path()).1, None);
    }
}

#[test]
fn a_file_of_a_newer_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path());
    let path = folder.path().join(FILE);
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = open_store(options(folder.path(), &["@ops"]), now()).err().unwrap();
    assert!(matches!(refused, OutboxError::Version { version: 99, .. }));
    assert_eq!(
        std::fs::read_dir(folder.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("damaged"))
            .count(),
        0
    );
}

#[tokio::test]
async fn what_leads_the_thread_astray_is_mended_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { outbox, thread, .. } = Outbox::open(options(folder.path(), &["@ops"]), now()).unwrap();
    for value in 0..10 {
        outbox.append(Arc::new(capture("a", value))).await.unwrap();
    }
    let answer: Result<(), _> = outbox.call(|_| panic!("a number beyond all numbers")).await;
    assert!(matches!(answer, Err(OutboxError::NotStored)));
    outbox.failed().cancelled().await;
    drop(outbox);
    thread.join();
    let (mended, salvaged) = reopened(folder.path());
    assert_eq!(salvaged.unwrap().records, 10);
    assert_eq!(mended.stat().unwrap().records, 10);
}

#[test]
fn a_queue_that_is_damaged_time_and_again_does_not_fill_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let mut moved = Vec::new();
    for round in 1..=11 {
        append(&mut store(options(folder.path(), &["@ops"])), &capture("a", round));
        if round == 11 {
            // Not to be deleted as a file: that is said, and hinders nothing.
            std::fs::remove_file(&moved[2]).unwrap();
            std::fs::create_dir(&moved[2]).unwrap();
        }
        crate::outbox::salvage::mark(&path);
        let (_, salvaged) = reopened(folder.path());
        let salvaged = salvaged.unwrap();
        assert_eq!(salvaged.records, u64::try_from(round).unwrap(), "and nothing is lost");
        moved.push(salvaged.moved_to);
    }
    let (oldest, newest) = moved.split_at(3);
    assert!(oldest[..2].iter().all(|file| !file.exists()), "{oldest:?}");
    assert!(oldest[2].is_dir());
    assert!(newest.iter().all(|file| file.exists()), "{newest:?}");
}
