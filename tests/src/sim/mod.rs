//! A gateway, two servers and a directory in a world of its own, where minutes take milliseconds: its time is
//! a number, its network, crashes and lies come from a seed, and the same seed is the same history.
//!
//! Everything that decides is real: the gateway's schedule; the servers' lanes, outlets, inlets, claims,
//! fences, roads and memory of records, over their real store; the directory's conversation. What only moves
//! bytes is not there. After ten minutes in which things go wrong all is well again, and what was promised
//! must have been kept. [`Sabotage`] takes away one thing on which a promise rests: then it must be seen.

mod agenda;
mod days;
mod directory;
mod faults;
mod gateway;
mod lookup;
mod many;
mod network;
mod people;
mod promises;
mod receiving;
mod sending;
mod server;
mod world;

use std::time::Duration;

pub use days::{TROUBLES, Trouble, day};
use faults::Fault;
pub use many::{run, run_days, run_sabotaged};
pub use promises::Broken;
use world::{Event, World};

/// How long things go wrong.
const ROUGH: Duration = Duration::from_secs(600);
/// Within which time all queues are empty when all is well again: a lost connection is noticed, a rest is over,
/// a stream that nobody answers is given up, and what a reader did not receipt is sent again.
const CALM: Duration = Duration::from_secs(300);
/// How long the servers do not reach each other behind that.
const OUTAGE: Duration = Duration::from_secs(300);
/// How long what is next in a queue may stay so when that is over, however long it was: the lane rests for 10 s
/// at most, perhaps twice because the road rests beside it, and reaching the other, being let in and its answer
/// take a few times the worst delay of the network each.
const RESTED: Duration = Duration::from_secs(45);
/// Within which time what is said to those who are known arrives without a directory.
const KNOWN: Duration = Duration::from_secs(60);

/// How long what is next in a queue may stay so when all is well. Whoever was told a lie, or asked a directory
/// that was set back, believes it until the true host has announced itself again (45 s) and what stood in
/// meanwhile is asked for anew (10 s); a stream that nobody answers is given up within 30 s of that, and a lane
/// rests for 10 s at most, perhaps twice because a road rests beside it.
const PROMPT: Duration = Duration::from_secs(105);

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
    /// Anybody's word is taken on who may serve whom.
    AnyRegistrar,
}

/// All of them.
pub const SABOTAGES: [Sabotage; 8] = [
    Sabotage::AnswersEarly,
    Sabotage::NoFence,
    Sabotage::OlderRecord,
    Sabotage::AnyKey,
    Sabotage::AnotherId,
    Sabotage::NeedsDirectory,
    Sabotage::RestsLong,
    Sabotage::AnyRegistrar,
];

/// What one history came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The same for the same history.
    pub mark: u64,
    /// How long it took until nothing waited any more.
    pub drained: Duration,
    /// The longest that anything was next in a queue of a server, when all was well again.
    pub longest_head: Duration,
    /// The same, behind an outage between the servers.
    pub longest_rest: Duration,
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
    outage(world)?;
    world.directory.is_up = false;
    for server in network::SERVERS {
        world.crash_server(server);
    }
    let now = world.now;
    world.run(now + Duration::from_secs(2))?;
    talk(world);
    drain(world, KNOWN)?;
    Ok(world.history(drained))
}

impl World {
    fn history(&self, drained: Duration) -> History {
        let promises = &self.promises;
        History {
            mark: self.trace.mark(),
            drained,
            longest_head: promises.longest_heads[0],
            longest_rest: promises.longest_heads[1],
            delivered: promises.delivered,
            refused: promises.refused,
            turned_away: promises.turned_away,
        }
    }
}

/// The servers do not reach each other for a while.
fn outage(world: &mut World) -> Result<(), Broken> {
    let [first, second] = network::SERVERS;
    world.fault(Fault::Block(first, second));
    world.fault(Fault::Block(second, first));
    talk(world);
    let now = world.now;
    world.run(now + OUTAGE)?;
    world.network.heal_all();
    world.prompt = RESTED;
    drain(world, CALM)?;
    world.prompt = PROMPT;
    Ok(())
}

fn talk(world: &mut World) {
    for person in 0..world.people.len() {
        world.say_words(person, 3);
    }
}

/// Waits until nothing waits.
fn drain(world: &mut World, within: Duration) -> Result<Duration, Broken> {
    let began = world.now;
    world.watch_heads();
    while !world.is_drained() {
        let took = world.now - began;
        if took >= within {
            return Err(Broken {
                what: format!("something still waits after {took:?}"),
                trace: String::new(),
            });
        }
        world.run(began + took + Duration::from_secs(1))?;
        world.check_heads();
    }
    match world.promises.broken.take() {
        Some(broken) => Err(broken),
        None => Ok(world.now - began),
    }
}
