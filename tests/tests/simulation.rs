//! The simulation of gateway, servers and directory: the same seed is the same history, and what undermines a
//! promise is seen. `tests/run simulation` lives through many more.

use atedge_tests::sim::{Sabotage, TROUBLES, Trouble, day, live};

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

#[test]
fn a_directory_that_is_of_no_use_for_a_day_keeps_nobody_from_whom_he_knows() {
    for trouble in TROUBLES {
        let lived = day(1, trouble, None).unwrap_or_else(|why| panic!("{}\n{}", why.what, why.trace));
        assert_eq!(lived.refused > 0, trouble != Trouble::Down, "{trouble:?}");
        assert!(lived.delivered > 300, "{trouble:?}");
    }
}

#[test]
fn who_believes_a_useless_directory_or_depends_on_it_is_found_out_within_a_day() {
    for (trouble, sabotage, seen) in [
        (Trouble::Down, Sabotage::NeedsDirectory, "still waits"),
        (Trouble::Lying, Sabotage::AnyRegistrar, "where it never was"),
        (Trouble::SetBack, Sabotage::OlderRecord, "behind record"),
        (Trouble::Stale, Sabotage::OlderRecord, "behind record"),
    ] {
        let what = day(1, trouble, Some(sabotage)).map_or_else(|why| why.what, |_| "nothing".to_owned());
        assert!(what.contains(seen), "{trouble:?}, {sabotage:?}: {what}");
    }
}

#[test]
fn who_is_left_alone_for_too_long_behind_an_outage_is_seen() {
    let broken = (0..20).find_map(|seed| live(seed, Some(Sabotage::RestsLong)).err());
    assert!(broken.is_some_and(|why| why.what.contains("is still next")));
}
