//! Quotas, and tenants that come and go.

use at_protocol::crypto::Ed25519Secret;
use zeroize::Zeroizing;

use super::super::super::Row;
use super::*;

#[tokio::test]
async fn a_quota_stops_growth_and_nothing_else() {
    let at = At::new().await;
    let At { store, folder, .. } = at;
    drop(store);
    let at = At::with_quota(folder, None, Quota { keys: 2, bytes: 40 });
    at.write(vec![plain("a@alice", "1"), plain("b@alice", "1")], 1).await.unwrap();
    assert_eq!(at.store.usage(&atsign("@alice")).await.unwrap(), Usage { keys: 2, bytes: 16 });
    assert_eq!(at.write(vec![plain("c@alice", "1")], 1).await, Err(Refused::Keys { most: 2 }));
    let long = "x".repeat(25);
    assert_eq!(at.write(vec![plain("a@alice", &long)], 1).await, Ok(vec![2]), "exactly full");
    assert_eq!(at.write(vec![plain("b@alice", "12")], 1).await, Err(Refused::Bytes { most: 40 }));
    // What takes no more, what the server needs, and what goes are never refused.
    at.write(vec![plain("b@alice", "2"), plain("privatekey:at_secret_deleted", "true")], 1).await.unwrap();
    at.write(vec![Edit::Delete { key: key("a@alice") }, plain("c@alice", "1")], 1).await.unwrap();
    let bob = Write { edits: vec![plain("a@bob", &long)], notification: None, now: now(1) };
    assert_eq!(Store::write(&at.store, &atsign("@bob"), bob).await.unwrap(), Ok(vec![0]), "tenants apart");
    // A copy of somebody's record that does not fit is not kept; the notification comes all the same.
    let mut sent = notification("n1", "@carol", "@bob");
    sent.metadata.ttr = Some(-1);
    at.store.receive(sent, now(2)).await.unwrap();
    assert_eq!(at.received("@bob").await.len(), 1);
    let usage = at.store.usage(&atsign("@bob")).await.unwrap();
    assert_eq!(at.again().store.usage(&atsign("@bob")).await.unwrap(), usage);
}

#[tokio::test]
async fn a_tenant_that_is_removed_leaves_nothing_to_the_next() {
    let at = At::over(APART).await;
    let alice = Tenant { atsign: atsign("@alice"), listen: None };
    at.update("a@alice", "v", Metadata::default(), 1).await;
    at.store.send(notification("n", "@alice", "@carol"), now(1)).await.unwrap();
    assert!(at.store.remove_tenant(&alice.atsign).await.unwrap());
    assert!(!at.store.remove_tenant(&alice.atsign).await.unwrap());
    assert_eq!(at.store.tenants().await.unwrap().len(), 1);
    assert_eq!(at.write(vec![plain("a@alice", "v")], 1).await, Ok(Vec::new()), "nobody is there");
    assert!(at.store.add_tenant(alice.clone(), Vec::new(), now(2)).await.unwrap());
    assert_eq!(at.keys("", 2).await, Vec::<String>::new());
    assert_eq!(at.store.waiting(&alice.atsign, &atsign("@carol"), Reached::default(), 1).await.unwrap(), []);
    assert_eq!(at.update("b@alice", "v", Metadata::default(), 2).await, 0);
    while !at.store.expire(now(2)).await.unwrap().is_none() {}
    assert_eq!(at.keys("", 2).await, ["b@alice"]);
    let rows = at.store.read_of(&alice.atsign, |sql, _| {
        let count = "SELECT (SELECT count(*) FROM record), (SELECT count(*) FROM commit_log),
             (SELECT count(*) FROM notification), (SELECT count(*) FROM removed)";
        sql.query_row(count, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, i64>(3)?]))
    });
    assert_eq!(rows.await.unwrap(), [1, 1, 0, 0]);
}

#[tokio::test]
async fn a_tenant_moves_to_another_store_with_its_commit_ids() {
    let at = At::over(APART).await;
    let alice = atsign("@alice");
    at.update("a@alice", "1", Metadata { ttl: Some(1000), ..Metadata::default() }, 1).await;
    at.update("b@alice", "2", Metadata::default(), 1).await;
    at.write(vec![Edit::Delete { key: key("a@alice") }], 2).await.unwrap();
    at.store.send(notification("n", "@alice", "@carol"), now(3)).await.unwrap();
    let (give, rows) = std::sync::mpsc::channel();
    at.store.export(&alice, Box::new(move |row| give.send(row).is_ok())).await.unwrap();
    let rows: Vec<Row> = rows.into_iter().collect();

    let other = At::open(TempDir::new().unwrap(), Some(1));
    let copy = |rows: &[Row]| -> Rows {
        let rows: Vec<_> =
            rows.iter().map(|row| Row { table: row.table.clone(), columns: row.columns.clone() }).collect();
        Box::new(rows.into_iter().map(Ok))
    };
    let tenant = Tenant { atsign: alice.clone(), listen: None };
    let half: Rows = Box::new(copy(&rows).chain([Err("line 7 is cut".to_owned())]));
    let cut = other.store.import(tenant.clone(), half, now(4)).await;
    assert!(matches!(&cut, Err(StoreError::Failed(what)) if what.contains("line 7 is cut")), "{cut:?}");
    assert_eq!(other.store.tenants().await.unwrap(), [], "all or nothing");
    assert!(other.store.import(tenant.clone(), copy(&rows), now(4)).await.unwrap());
    assert!(!other.store.import(tenant, copy(&rows), now(4)).await.unwrap());
    for at in [&at, &other] {
        assert_eq!(at.store.last_commit(&alice).await.unwrap(), 2);
        assert_eq!(at.next().await.as_deref(), Some("n"));
        assert_eq!(at.store.usage(&alice).await.unwrap(), Usage { keys: 1, bytes: 8 });
    }
    let log = at.store.commits_after(&alice, -1, 9).await.unwrap();
    assert_eq!(other.store.commits_after(&alice, -1, 9).await.unwrap(), log);
    let mut foreign = copy(&rows[..1]).next().unwrap().unwrap();
    foreign.columns.insert("x) --".to_owned(), 1.into());
    let bob = Tenant { atsign: atsign("@bob"), listen: None };
    assert!(other.store.import(bob, Box::new([Ok(foreign)].into_iter()), now(4)).await.is_err());
}

#[tokio::test]
async fn for_a_frozen_tenant_nothing_is_written_and_nothing_is_lost() {
    let at = At::over(1).await;
    let (alice, bob) = (atsign("@alice"), atsign("@bob"));
    at.update("a@alice", "1", Metadata::default(), 1).await;
    at.store.freeze(&alice);
    at.store.reconcile().await.unwrap();
    let refused = Store::write(
        &at.store,
        &alice,
        Write { edits: vec![plain("a@alice", "2")], notification: None, now: now(2) },
    );
    assert!(matches!(refused.await, Err(StoreError::Moving)));
    let received = at.store.receive(notification("n1", "@carol", "@alice"), now(2)).await;
    assert!(matches!(received, Err(StoreError::Moving)));
    let all = at.store.receive_all(&alice, vec![notification("n2", "@carol", "@alice")], now(2)).await;
    assert!(matches!(all, Err(StoreError::Moving)));
    // From another tenant of the same shard it waits, like what goes to another server.
    at.store.send(notification("n3", "@bob", "@alice"), now(2)).await.unwrap();
    let waiting = at.store.waiting(&bob, &alice, Reached::default(), 9).await.unwrap();
    assert_eq!(waiting.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["n3"]);
    assert!(!at.store.hand_over(&waiting[0], now(2)).await.unwrap());
    let still = at.store.waiting(&bob, &alice, Reached::default(), 9).await.unwrap();
    assert_eq!(still, waiting, "a delivery that had begun comes too late");
    assert_eq!(at.store.usage(&alice).await.unwrap().keys, 1, "it is read as before");
    at.store.thaw(&alice);
    assert_eq!(at.update("a@alice", "3", Metadata::default(), 3).await, 1);
    at.store.freeze(&alice);
    assert!(at.store.remove_tenant(&alice).await.unwrap(), "it may go");
}

#[tokio::test]
async fn what_arrives_is_nobodys_until_it_settles_in() {
    let at = At::over(APART).await;
    let alice = atsign("@alice");
    at.update("a@alice", "1", Metadata::default(), 1).await;
    at.store.send(notification("n", "@alice", "@carol"), now(3)).await.unwrap();
    let (give, rows) = std::sync::mpsc::channel();
    at.store.export(&alice, Box::new(move |row| give.send(row).is_ok())).await.unwrap();
    let rows: Vec<Row> = rows.into_iter().collect();
    let copy = || rows.iter().map(|row| Row { table: row.table.clone(), columns: row.columns.clone() });

    let from = Ed25519Secret::from_seed(&Zeroizing::new([1; 32])).public();
    let (copying, stored) =
        (Arrival::Copying { from: from.clone() }, Arrival::Stored { from, since: now(4) });
    assert!(!at.store.arrive(&alice, copying.clone()).await.unwrap(), "it is hosted here");
    let there = At::open(TempDir::new().unwrap(), Some(APART));
    let store = &there.store;
    assert!(
        !store.add_rows(&alice, copy().collect()).await.unwrap()
            && !store.settle_in(&alice, now(4)).await.unwrap()
    );
    // A first attempt is given up in the middle.
    assert!(store.arrive(&alice, copying.clone()).await.unwrap());
    assert!(store.add_rows(&alice, copy().take(1).collect()).await.unwrap());
    assert!(store.arrive(&alice, copying.clone()).await.unwrap());
    assert!(store.add_rows(&alice, copy().collect()).await.unwrap());
    assert!(store.set_arrival(&alice, stored.clone()).await.unwrap());
    assert_eq!(store.arrivals().await.unwrap(), [(alice.clone(), stored)]);
    assert_eq!(store.tenants().await.unwrap(), []);
    assert_eq!(there.keys("", 4).await, Vec::<String>::new());
    store.receive(notification("m", "@carol", "@alice"), now(4)).await.unwrap();
    while !store.expire(now(4)).await.unwrap().is_none() {}
    // A tenant that comes meanwhile has another number.
    assert!(
        store.add_tenant(Tenant { atsign: atsign("@bob"), listen: None }, Vec::new(), now(4)).await.unwrap()
    );

    let there = there.again();
    let store = &there.store;
    assert!(
        store.settle_in(&alice, now(5)).await.unwrap() && !store.settle_in(&alice, now(5)).await.unwrap()
    );
    assert_eq!(store.arrivals().await.unwrap(), []);
    assert_eq!(there.keys("", 5).await, ["a@alice"]);
    assert_eq!(store.last_commit(&alice).await.unwrap(), 0);
    assert_eq!(there.next().await.as_deref(), Some("n"), "its queue came with it");
    assert_eq!(there.received("@alice").await, [], "nothing came while it was nobody's");
    assert_eq!(store.usage(&alice).await.unwrap(), Usage { keys: 1, bytes: 8 });

    // One that is given up leaves nothing.
    let carol = atsign("@carol");
    assert!(store.arrive(&carol, copying).await.unwrap());
    store.drop_arrival(&carol).await.unwrap();
    assert!(!store.settle_in(&carol, now(5)).await.unwrap());
    let left = Departure::Refused { why: "no room".to_owned() };
    store.set_departure(&carol, Some(left.clone())).await.unwrap();
    assert_eq!(store.departures().await.unwrap(), [(carol.clone(), left)]);
    store.set_departure(&carol, None).await.unwrap();
    assert_eq!(store.departures().await.unwrap(), []);
}
