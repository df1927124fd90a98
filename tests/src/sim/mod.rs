//! A gateway, two servers and a directory in a world of its own, where minutes take milliseconds: its time is
//! a number, its network, crashes and lies come from a seed, and the same seed is the same history.
//!
//! Everything that decides is real: the gateway's schedule; the servers' lanes, outlets, inlets, claims,
//! fences, roads and memory of records, over their real store; the directory's conversation. What only moves
//! bytes is not there. After ten minutes in which things go wrong all is well again, and what was promised
//! must have been kept. [`Sabotage`] takes away one thing on which a promise rests: then it must be seen.

mod agenda;
mod directory;
mod faults;
mod gateway;
mod lookup;
mod network;
mod people;
mod promises;
mod receiving;
mod sending;
mod server;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::random::Random;
use crate::scenario::Run;
use faults::Fault;
pub use promises::Broken;
use world::{Event, World};

/// How long things go wrong.
const ROUGH: Duration = Duration::from_secs(600);
/// Within which time all queues are empty when all is well again: a lost connection is noticed, a rest is over,
/// a stream that nobody answers is given up, and what a reader did not receipt is sent again.
const CALM: Duration = Duration::from_secs(300);
/// Within which time what is said to those who are known arrives without a directory.
const KNOWN: Duration = Duration::from_secs(60);

/// Histories in which a sabotage must be seen.
const SABOTAGED: u64 = 300;

/// What is taken away, so that a promise cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Servers answer before they have committed.
    AnswersEarly,
    /// A newer stream does not wait for the older one.
    NoFence,
    /// Records with lower numbers are believed.
    OlderRecord,
    /// Nodes speak for whom they like.
    AnyKey,
    /// What was not answered is said again under another id.
    AnotherId,
    /// Nobody is found while the directory does not answer.
    NeedsDirectory,
    /// Who was not reached is left alone for minutes.
    RestsLong,
}

/// All of them.
pub const SABOTAGES: [Sabotage; 7] = [
    Sabotage::AnswersEarly,
    Sabotage::NoFence,
    Sabotage::OlderRecord,
    Sabotage::AnyKey,
    Sabotage::AnotherId,
    Sabotage::NeedsDirectory,
    Sabotage::RestsLong,
];

/// What one history came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The same for the same history.
    pub mark: u64,
    /// How long it took until nothing waited any more.
    pub drained: Duration,
    /// Notifications that were taken by their recipients' servers.
    pub delivered: u64,
    /// Records that were not believed.
    pub refused: u64,
    /// Streams that were turned away.
    pub turned_away: u64,
}

/// Lives through the history of a seed.
///
/// # Errors
/// A promise was not kept.
pub fn live(seed: u64, sabotage: Option<Sabotage>) -> Result<History, Broken> {
    let mut world = World::new(seed, sabotage);
    let lived = through(&mut world);
    lived.map_err(|broken| Broken { trace: world.trace.last_lines(), ..broken })
}

fn through(world: &mut World) -> Result<History, Broken> {
    world.plan(Duration::from_secs(5), Event::Fault(Fault::Next));
    world.run(ROUGH)?;
    world.is_talkative = false;
    world.calm();
    let drained = drain(world, CALM)?;
    // Everybody learns where everybody is; then there is no directory, and even the servers begin anew.
    talk(world);
    drain(world, CALM)?;
    world.directory.is_up = false;
    for server in network::SERVERS {
        world.crash_server(server);
    }
    let now = world.now;
    world.run(now + Duration::from_secs(2))?;
    talk(world);
    drain(world, KNOWN)?;
    let promises = &world.promises;
    Ok(History {
        mark: world.trace.mark(),
        drained,
        delivered: promises.delivered,
        refused: promises.refused,
        turned_away: promises.turned_away,
    })
}

fn talk(world: &mut World) {
    for person in 0..world.people.len() {
        world.say_words(person, 3);
    }
}

/// Waits until nothing waits.
fn drain(world: &mut World, within: Duration) -> Result<Duration, Broken> {
    let began = world.now;
    while !world.is_drained() {
        let took = world.now - began;
        if took >= within {
            return Err(Broken {
                what: format!("something still waits after {took:?}"),
                trace: String::new(),
            });
        }
        world.run(began + took + Duration::from_secs(1))?;
    }
    match world.promises.broken.take() {
        Some(broken) => Err(broken),
        None => Ok(world.now - began),
    }
}

/// The twin: each sabotage is seen within a few hundred histories.
///
/// # Errors
/// One is not.
pub fn run_sabotaged(run: &mut Run) -> Result<()> {
    let mut seeds = run.random();
    for sabotage in SABOTAGES {
        let broken = (1..=SABOTAGED).find_map(|tried| {
            let broken = live(seeds.below(1 << 48), Some(sabotage)).err()?;
            Some((tried, broken.what))
        });
        let (tried, what) = broken.with_context(|| format!("{sabotage:?} was not seen"))?;
        run.progress(&format!("{sabotage:?}, after {tried}: {what}"));
        run.note(&format!("{sabotage:?}"), tried);
    }
    Ok(())
}

/// The scenario: many seeds, none of which breaks a promise.
///
/// # Errors
/// One does, or a seed is not the same twice.
pub fn run(run: &mut Run) -> Result<()> {
    let count = if run.long { 10_000 } else { 1_000 };
    let mut seeds = Random::new(run.seed);
    let seeds: Vec<u64> = (0..count).map(|_| seeds.below(1 << 48)).collect();
    let (next, refused, turned_away, delivered) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let slowest = Mutex::new(Duration::ZERO);
    let broken: Mutex<Option<(u64, Broken)>> = Mutex::new(None);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(seed) = usize::try_from(next.fetch_add(1, Ordering::Relaxed))
                    .ok()
                    .and_then(|place| seeds.get(place))
                {
                    match live(*seed, None) {
                        Ok(history) => {
                            refused.fetch_add(history.refused, Ordering::Relaxed);
                            turned_away.fetch_add(history.turned_away, Ordering::Relaxed);
                            delivered.fetch_add(history.delivered, Ordering::Relaxed);
                            let mut slowest = slowest.lock().unwrap_or_else(PoisonError::into_inner);
                            *slowest = slowest.max(history.drained);
                        }
                        Err(why) => {
                            *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some((*seed, why));
                            next.store(u64::MAX >> 1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    if let Some((seed, Broken { what, trace })) = broken.into_inner().unwrap_or_else(PoisonError::into_inner)
    {
        let file = run.folder.join("history.log");
        std::fs::write(&file, trace)?;
        bail!("seed {seed}: {what}; how it came to this is in {}", file.display());
    }
    let delivered = delivered.into_inner();
    run.note("seeds", count);
    run.note("delivered", delivered);
    run.note("records_refused", refused.into_inner());
    run.note("streams_turned_away", turned_away.into_inner());
    let slowest = slowest.into_inner().unwrap_or_else(PoisonError::into_inner);
    run.note("slowest_drain_s", slowest.as_secs());
    ensure!(delivered > count * 100, "only {delivered} notifications: nothing much was tried");
    let (once, again) = (live(seeds[0], None), live(seeds[0], None));
    let marks = [once, again].map(|lived| lived.map(|history| history.mark).unwrap_or_default());
    run.note("mark", format!("{:016x}", marks[0]));
    ensure!(marks[0] == marks[1], "the same seed was another history");
    Ok(())
}
