//! Files that are damaged, and disks that fail.

use super::*;

#[tokio::test]
async fn a_damaged_shard_takes_only_its_own_tenants_down_and_they_are_still_known() {
    for wound in ["missing", "empty", "noise", "misplaced"] {
        let at = At::over(APART).await;
        at.update("a@alice", "v", Metadata::default(), 1).await;
        let (alice, bob) = (atsign("@alice"), atsign("@bob"));
        let file = at.store.shards[at.store.shard_of(&alice)].file.path().to_owned();
        let other = at.store.shards[at.store.shard_of(&bob)].file.path().to_owned();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let at = at.hurt(&name, |file| match wound {
            "missing" => std::fs::remove_file(file).unwrap(),
            "empty" => std::fs::write(file, "").unwrap(),
            "noise" => std::fs::write(file, [0x5a; 8192]).unwrap(),
            _ => {
                std::fs::copy(&other, file).unwrap();
            }
        });
        let mut hosted: Vec<_> =
            at.store.tenants().await.unwrap().into_iter().map(|tenant| tenant.atsign).collect();
        hosted.sort();
        assert_eq!(hosted, [alice.clone(), bob.clone()], "{wound}");
        let read = at.store.record(&alice, &key("a@alice")).await;
        assert!(matches!(&read, Err(StoreError::Damaged(what)) if what.contains(&name)), "{wound}: {read:?}");
        let write = Write { edits: Vec::new(), notification: None, now: now(1) };
        let write = Store::write(&at.store, &alice, write).await;
        assert!(matches!(write, Err(StoreError::Damaged(_))), "{wound}: {write:?}");
        assert_eq!(at.store.last_commit(&bob).await.unwrap(), -1, "{wound}: others go on");
        at.store.send(notification("n", "@bob", "@alice"), now(1)).await.unwrap();
        assert!(at.store.expire(now(2)).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn a_value_that_is_not_what_was_written_is_never_given() {
    for table in ["record", "notification"] {
        let at = At::over(APART).await;
        at.update("a@alice", "v", Metadata::default(), 1).await;
        at.store.receive(notification("n", "@carol", "@alice"), now(1)).await.unwrap();
        let change = move |group: &mut Group<'_>| {
            group.sql.execute(&format!("UPDATE {table} SET value = 'w'"), [])?;
            Ok(())
        };
        at.store.write(&atsign("@alice"), 0, change).await.unwrap();
        let read = match table {
            "record" => at.store.record(&atsign("@alice"), &key("a@alice")).await.map(drop),
            _ => at.store.notification(&atsign("@alice"), "n").await.map(drop),
        };
        assert!(matches!(read, Err(StoreError::Damaged(_))), "{table}: {read:?}");
        assert!(at.store.last_commit(&atsign("@alice")).await.is_err(), "the shard is out of service");
        assert_eq!(at.store.last_commit(&atsign("@bob")).await.unwrap(), -1);
    }
}

#[tokio::test]
async fn an_index_that_lies_is_found_by_the_look_at_all_pages() {
    let at = At::over(APART).await;
    at.update("a@alice", "v", Metadata::default(), 1).await;
    let name = format!("server-{}.db", at.store.shard_of(&atsign("@alice")));
    let mut at = at.hurt(&name, |file| {
        // The key stands in the table, in the index, and in the log with its own: the second is changed.
        let mut bytes = std::fs::read(file).unwrap();
        let places: Vec<_> =
            bytes.windows(7).enumerate().filter(|(_, at)| at == b"a@alice").map(|(at, _)| at).collect();
        bytes[places[1]] = b'b';
        std::fs::write(file, bytes).unwrap();
    });
    at.store.look_for_damage().unwrap();
    while at.store.shards.iter().all(|shard| shard.file.sound().is_ok()) {
        tokio::task::yield_now().await;
    }
    assert!(matches!(at.store.last_commit(&atsign("@alice")).await, Err(StoreError::Damaged(_))));
    assert_eq!(at.store.last_commit(&atsign("@bob")).await.unwrap(), -1);
}

#[tokio::test]
async fn after_the_disk_has_failed_nothing_is_answered_before_all_is_there_again() {
    let fail = |_: &mut Group<'_>| -> rusqlite::Result<()> {
        let fsync = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        Err(rusqlite::Error::SqliteFailure(fsync, None))
    };
    let at = At::new().await;
    let alice = atsign("@alice");
    at.update("a@alice", "v", Metadata::default(), 1).await;
    assert!(matches!(at.store.write(&alice, 0, fail).await, Err(StoreError::Failed(_))));
    assert_eq!(at.update("b@alice", "v", Metadata::default(), 1).await, 1, "it heals by itself");
    assert!(matches!(at.store.write(&alice, 0, fail).await, Err(StoreError::Failed(_))));
    // A disk that has forgotten what it had promised.
    let other = Connection::open(at.folder.path().join("server.db")).unwrap();
    other.execute("DELETE FROM commit_log WHERE id = 1", []).unwrap();
    let edits = vec![update("c@alice", "v", Metadata::default())];
    let write = Write { edits, notification: None, now: now(1) };
    let write = Store::write(&at.store, &alice, write).await;
    assert!(matches!(&write, Err(StoreError::Damaged(what)) if what.contains("acknowledged")), "{write:?}");
}
