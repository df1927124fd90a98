//! A credential takes over from the key file under a queue that waits.

use super::*;
use crate::outbox::open::open_store;
use crate::seal::SealError;
use crate::seal::tests::pass;

#[test]
fn what_waits_is_kept_whenever_the_taking_over_is_cut_short() {
    let folder = tempfile::tempdir().unwrap();
    let mut with = options(folder.path(), &["@ops"]);
    append(&mut store(with.clone()), &capture("a", 1));
    let values = |store: &mut Store| {
        let waiting = store.waiting().unwrap();
        waiting.iter().flat_map(|waiting| take(store, waiting, 1)).map(|(_, value)| value).collect::<Vec<_>>()
    };
    pass(&mut with.seal, 7);
    // Each of these starts is cut off before the key file is let go of.
    for value in 2..4 {
        let mut store = store(with.clone());
        append(&mut store, &capture("a", value));
        assert_eq!(values(&mut store), (1..=value).collect::<Vec<_>>());
    }
    let mut last = store(with.clone());
    last.segments.seal_key().settle().unwrap();
    assert_eq!(values(&mut last), [1, 2, 3]);
    drop(last);
    assert!(!folder.path().join("seal.key").exists());
    assert_eq!(
        values(&mut store(with.clone())),
        [1, 2, 3],
        "what the key file had sealed is readable without it"
    );
}

#[test]
fn without_its_credential_the_queue_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut with = options(folder.path(), &["@ops"]);
    pass(&mut with.seal, 7);
    let mut first = store(with.clone());
    append(&mut first, &capture("a", 1));
    first.segments.seal_key().settle().unwrap();
    drop(first);
    let refused = |options: &OutboxOptions| open_store(options.clone(), now()).err().unwrap();
    let mut without = with.clone();
    without.seal.credentials = None;
    assert!(matches!(refused(&without), OutboxError::Seal(SealError::NotPassed(_))));
    pass(&mut with.seal, 8);
    assert!(matches!(refused(&with), OutboxError::Seal(SealError::Another(_))));
    pass(&mut with.seal, 7);
    // What tells which credential it was is damaged: the queue itself still does.
    std::fs::write(folder.path().join("seal.check"), "bent").unwrap();
    let (mut store, salvaged) = open_store(with, now()).unwrap();
    assert_eq!(salvaged, None);
    let waiting = store.waiting().unwrap().remove(0);
    assert_eq!(take(&mut store, &waiting, 1), [(1, 1)]);
}
