//! Moves an atSign to and fro between two servers, and kills one or the other at random moments meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::federation::{Door, Federation, Way};
use crate::flood::Flood;
use crate::process::{PATIENCE, run as run_to_end};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];
/// What the sender offers in each round.
const OFFERED: u64 = 100;
/// Records that move along, and the bytes of each.
const RECORDS: usize = 200;
const RECORD: usize = 4_000;
/// A road on which each step takes its time, so that kills fall into all of them: the copying two seconds, a
/// word a tenth.
const ROADS: [&str; 3] = [
    "server1<>server2 delay=50ms rate=500000",
    "server1<>directory delay=50ms",
    "server2<>directory delay=50ms",
];
/// A kill falls somewhere in this time from when the move was asked for.
const KILL_WITHIN_MS: u64 = 6_000;

/// Exactly one server has the atSign in the end, with all that was acknowledged.
///
/// # Errors
/// None has it, or both; or something is lost, comes twice, or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let rounds = if run.long { 100 } else { 8 };
    let mut federation = Federation::start(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
    let mut random = run.random();
    let (alice, bob) = (federation.door(PAIR[0])?.clone(), federation.door(PAIR[1])?.clone());
    let mut wire = alice.enter()?;
    for number in 0..RECORDS {
        wire.ask_data(&format!("update:public:r{number}.test@alice {}", "x".repeat(RECORD)))?;
    }
    drop(wire);
    for road in ROADS {
        federation.net.tell(road)?;
    }
    let mut flood = Flood::new(PAIR[1], PAIR[0], 1);
    let (mut home, mut commit) = (0, 0);
    let (mut moved, mut stayed, mut killed) = (0_u64, 0_u64, 0_u64);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let away = 1 - home;
        let nodes = &mut federation.town.nodes;
        let mut moving = nodes[home].moving(PAIR[0], nodes[away].address())?;
        // Every third round goes undisturbed.
        let victim = [None, Some(home), Some(away)][random.place(3)];
        let moment = Duration::from_millis(random.below(KILL_WITHIN_MS));
        let (flood, sender, folder) = (&mut flood, &bob, &run.folder);
        let began = Instant::now();
        let is_done = std::thread::scope(|scope| {
            let ending = scope.spawn(move || run_to_end("tenant-move", &mut moving, folder));
            // A sender whose server is killed begins again in the next round.
            let sending = scope.spawn(move || flood.send(OFFERED, &mut sender.enter()?));
            if let Some(victim) = victim {
                // The fault itself, not a wait for anything: a random moment.
                std::thread::sleep(moment);
                nodes[victim].kill()?;
                nodes[victim].start()?;
            }
            let ended = ending.join().map_err(|_| anyhow::anyhow!("the command panicked"))??;
            let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
            if victim != Some(1) {
                sent?;
            }
            anyhow::Ok(ended.status.success())
        })?;
        killed += u64::from(victim.is_some());
        ensure!(is_done || victim.is_some(), "round {round}: it did not move, and nobody was killed");
        if is_done {
            moved += 1;
            if victim.is_none() {
                slowest = slowest.max(began.elapsed());
            }
        } else {
            stayed += 1;
        }
        let expected = if is_done { away } else { home };
        let addresses: Vec<SocketAddr> = federation.town.nodes.iter().map(|node| node.address()).collect();
        home = the_only_one(&alice, &addresses)?;
        ensure!(
            home == expected,
            "round {round}: the command said {is_done}, and server {} has it",
            home + 1
        );
        let mut wire = alice.at(addresses[home]).enter()?;
        let last = commit;
        commit = wire.ask_data(&format!("update:public:round.test@alice {round}"))?.parse::<i64>()?;
        ensure!(commit > last, "commit {commit} after {last}");
        if (round + 1) % 5 == 0 {
            run.progress(&format!("{} of {rounds} rounds", round + 1));
        }
    }
    run.note("moved", moved);
    run.note("stayed", stayed);
    run.note("kills", killed);
    run.note("slowest_undisturbed_ms", u64::try_from(slowest.as_millis())?);
    ensure!(moved > 0, "it never moved");
    flood.send(OFFERED, &mut bob.enter()?)?;
    let mut wire = alice.at(federation.town.nodes[home].address()).enter()?;
    let since = Instant::now();
    let held = loop {
        let held = flood.held(&mut wire)?;
        if held.len() as u64 >= flood.sent() {
            break held;
        }
        ensure!(since.elapsed() < PATIENCE, "{} of {} have come", held.len(), flood.sent());
        std::thread::sleep(Duration::from_millis(200));
    };
    let expected: Vec<u64> = (0..flood.sent()).collect();
    ensure!(held == expected, "what has come is not each once, in order");
    run.note("notifications", flood.sent());
    let last = wire.ask_data("llookup:public:round.test@alice")?;
    ensure!(last == (rounds - 1).to_string(), "the newest record says {last}");
    for number in 0..RECORDS {
        let value = wire.ask_data(&format!("llookup:public:r{number}.test@alice"))?;
        ensure!(value.len() == RECORD, "record {number} is not what it was");
    }
    for node in &federation.town.nodes {
        node.check_store()?;
    }
    Ok(())
}

/// Which of the servers has the atSign: exactly one of them, in the end.
fn the_only_one(door: &Door, addresses: &[SocketAddr]) -> Result<usize> {
    let since = Instant::now();
    loop {
        let serving: Vec<usize> =
            (0..addresses.len()).filter(|place| door.at(addresses[*place]).enter().is_ok()).collect();
        ensure!(serving.len() < 2, "both servers have it");
        if let Some(only) = serving.first() {
            return Ok(*only);
        }
        ensure!(since.elapsed() < PATIENCE, "no server has it");
        std::thread::sleep(Duration::from_millis(100));
    }
}
