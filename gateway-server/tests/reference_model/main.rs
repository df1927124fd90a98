//! Random histories of several identities on several tenants of one node, against a small model of an
//! atServer: every answer is compared, whole.
//!
//! `ATEDGE_MODEL_STEPS` sets the number of steps of the long form, `ATEDGE_MODEL_SEED` another seed.

#![allow(clippy::unwrap_used, reason = "a test stops where it stands")]
#![allow(clippy::wildcard_enum_match_arm, reason = "rules speak of all others")]

mod model;
mod play;
mod steps;
#[path = "../wire/mod.rs"]
mod wire;

use model::Flaw;
use steps::{Random, Step};

/// Steps where nothing else is asked for.
const STEPS: usize = 100_000;
/// Histories that are played side by side; each is one node's life.
const HISTORIES: usize = 4;
/// Steps within which a flawed model is found out.
const SOON: usize = 20_000;

fn number(variable: &str) -> Option<usize> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// Plays a history; on a difference, looks for a short one and tells it.
fn agrees(seed: u64, steps: &[Step]) {
    if let Some(found) = play::first_difference(steps, None) {
        let short = play::shortest(&steps[..=found.place], None);
        let what = play::first_difference(&short, None).unwrap_or(found).what;
        panic!("seed {seed}:\n{}\n{what}", play::told(&short));
    }
}

#[test]
fn every_answer_is_the_models() {
    let steps = number("ATEDGE_MODEL_STEPS").unwrap_or(STEPS) / HISTORIES;
    let seed = number("ATEDGE_MODEL_SEED").unwrap_or(1) as u64;
    std::thread::scope(|scope| {
        for history in 0..HISTORIES as u64 {
            let seed = seed * HISTORIES as u64 + history;
            scope.spawn(move || agrees(seed, &Random(seed).history(steps)));
        }
    });
}

#[test]
fn a_wrong_rule_is_found_and_told_shortly() {
    let flaws = [
        Flaw::ForgetsMetadata,
        Flaw::SkipsIdleDeletes,
        Flaw::LivesTooLong,
        Flaw::KeepsCopies,
        Flaw::ListsForeignNamespaces,
    ];
    for flaw in flaws {
        let steps = Random(7).history(SOON);
        let found = play::first_difference(&steps, Some(flaw));
        let found = found.unwrap_or_else(|| panic!("{flaw:?} was not found in {SOON} steps"));
        if flaw == Flaw::SkipsIdleDeletes {
            let short = play::shortest(&steps[..=found.place], Some(flaw));
            assert!(short.len() <= 3, "{flaw:?} is told in {} steps:\n{}", short.len(), play::told(&short));
        }
    }
}
