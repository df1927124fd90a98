//! The scenarios: many histories, on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::{Broken, History, SABOTAGES, Sabotage, TROUBLES, Trouble, day, live};
use crate::random::Random;
use crate::scenario::Run;

/// Histories in which a sabotage must be seen.
const SABOTAGED: usize = 300;

/// Many seeds, none of which breaks a promise.
///
/// # Errors
/// One does, or a seed is not the same twice.
pub fn run(run: &mut Run) -> Result<()> {
    let seeds = seeds(run.random(), if run.long { 10_000 } else { 1_000 });
    let count = seeds.len() as u64;
    let histories = all_of(run, &seeds, |seed| live(*seed, None))?;
    let delivered = note(run, &histories);
    ensure!(delivered > count * 100, "only {delivered} notifications: nothing much was tried");
    let marks = [live(seeds[0], None), live(seeds[0], None)]
        .map(|lived| lived.map(|history| history.mark).unwrap_or_default());
    run.note("mark", format!("{:016x}", marks[0]));
    ensure!(marks[0] == marks[1], "the same seed was another history");
    Ok(())
}

/// Days on which the directory is down, lies, was set back or is behind the times.
///
/// # Errors
/// A promise was not kept.
pub fn run_days(run: &mut Run) -> Result<()> {
    let seeds = seeds(run.random(), if run.long { 250 } else { 10 });
    let days: Vec<(Trouble, u64)> =
        TROUBLES.into_iter().flat_map(|trouble| seeds.iter().map(move |seed| (trouble, *seed))).collect();
    let histories = all_of(run, &days, |(trouble, seed)| day(*seed, *trouble, None))?;
    note(run, &histories);
    for ((trouble, seed), lived) in days.iter().zip(&histories) {
        let is_told_lies = *trouble != Trouble::Down;
        ensure!(lived.refused > 0 || !is_told_lies, "seed {seed}, {trouble:?}: no record was refused");
    }
    Ok(())
}

/// The twin: each sabotage is seen within a few hundred histories. In full length, in how many of them.
///
/// # Errors
/// One is not.
pub fn run_sabotaged(run: &mut Run) -> Result<()> {
    let seeds = seeds(run.random(), SABOTAGED);
    let is_long = run.long;
    for sabotage in SABOTAGES {
        let seen = seen(sabotage, &seeds, is_long);
        let Some((first, what)) = seen.first() else { bail!("{sabotage:?} was not seen") };
        run.progress(&format!("{sabotage:?}, in history {}: {what}", first + 1));
        let figure = if is_long { seen.len() } else { first + 1 };
        run.note(&format!("{sabotage:?}"), figure);
    }
    Ok(())
}

/// In which histories a sabotage is seen, and how: in all that are tried, or until the first.
fn seen(sabotage: Sabotage, seeds: &[u64], is_long: bool) -> Vec<(usize, String)> {
    let seen = Mutex::new(Vec::new());
    on_all_cores(seeds, |place, seed| {
        if let Err(broken) = live(*seed, Some(sabotage)) {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push((place, broken.what));
            return is_long;
        }
        true
    });
    let mut seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    seen.sort();
    seen
}

fn seeds(mut random: Random, count: usize) -> Vec<u64> {
    (0..count).map(|_| random.below(1 << 48)).collect()
}

/// What each came to. The first that breaks a promise is the error.
fn all_of<S: Sync + std::fmt::Debug>(
    run: &Run,
    seeds: &[S],
    life: impl Fn(&S) -> Result<History, Broken> + Sync,
) -> Result<Vec<History>> {
    let lived = Mutex::new(Vec::new());
    let broken = Mutex::new(None);
    on_all_cores(seeds, |place, seed| match life(seed) {
        Ok(history) => {
            lived.lock().unwrap_or_else(PoisonError::into_inner).push((place, history));
            true
        }
        Err(why) => {
            *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some((place, why));
            false
        }
    });
    if let Some((place, Broken { what, trace })) = broken.into_inner().unwrap_or_else(PoisonError::into_inner)
    {
        let file = run.folder.join("history.log");
        std::fs::write(&file, trace)?;
        bail!("seed {:?}: {what}; how it came to this is in {}", seeds[place], file.display());
    }
    let mut lived = lived.into_inner().unwrap_or_else(PoisonError::into_inner);
    lived.sort_by_key(|(place, _)| *place);
    Ok(lived.into_iter().map(|(_, history)| history).collect())
}

/// Does something with each, until that says `false`.
fn on_all_cores<S: Sync>(seeds: &[S], act: impl Fn(usize, &S) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = seeds.get(place) else { break };
                    if !act(place, seed) {
                        next.store(seeds.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

/// Notes what all came to together; gives how much was delivered.
fn note(run: &mut Run, histories: &[History]) -> u64 {
    let sum = |of: fn(&History) -> u64| histories.iter().map(of).sum::<u64>();
    let longest = |of: fn(&History) -> Duration| histories.iter().map(of).max().unwrap_or_default().as_secs();
    let delivered = sum(|history| history.delivered);
    run.note("histories", histories.len() as u64);
    run.note("delivered", delivered);
    run.note("records_refused", sum(|history| history.refused));
    run.note("streams_turned_away", sum(|history| history.turned_away));
    run.note("slowest_drain_s", longest(|history| history.drained));
    run.note("longest_head_s", longest(|history| history.longest_head));
    run.note("longest_rest_s", longest(|history| history.longest_rest));
    delivered
}
