//! The simulation of gateway, servers and directory: the same seed is the same history, and what undermines a
//! promise is seen. `tests/run simulation` lives through many more.

use atedge_tests::sim::{Sabotage, live};

#[test]
fn the_same_seed_is_the_same_history_and_breaks_no_promise() {
    let once = live(1, None).unwrap_or_else(|why| panic!("{}\n{}", why.what, why.trace));
    assert_eq!(live(1, None).unwrap(), once);
    assert_ne!(live(2, None).unwrap().mark, once.mark);
}

#[test]
fn what_undermines_a_promise_is_seen() {
    let broken = (0..20).find_map(|seed| live(seed, Some(Sabotage::AnyKey)).err());
    assert!(broken.is_some_and(|why| why.what.contains("does not host it")));
}
