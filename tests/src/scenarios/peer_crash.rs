//! Kills the server of the sender or that of the recipient at random moments under load.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, settle};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];
/// What the sender offers between two kills.
const OFFERED: u64 = 60;

/// What was acknowledged arrives, whoever is killed.
///
/// # Errors
/// One is lost, comes twice or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let kills = if run.long { 200 } else { 20 };
    let mut federation = Federation::start(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
    let mut random = run.random();
    let mut watch = Watch::start(federation.door(PAIR[1])?)?;
    federation.net.tell("server1<>server2 delay=2ms")?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    let mut killed = [0_u64; 2];
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        let victim = random.place(2);
        let moment = Duration::from_micros(random.below(300_000));
        let door = federation.door(PAIR[0])?.clone();
        let flood = &mut floods[0];
        let nodes = &mut federation.town.nodes;
        std::thread::scope(|scope| {
            // A sender whose server is killed begins again in the next round.
            let sending = scope.spawn(move || flood.send(OFFERED, &mut door.enter()?));
            // The fault itself, not a wait for anything: a random moment.
            std::thread::sleep(moment);
            let done = nodes[victim].kill();
            let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
            if victim == 1 {
                sent?;
            }
            done
        })?;
        let since = Instant::now();
        federation.town.nodes[victim].start()?;
        slowest = slowest.max(since.elapsed());
        killed[victim] += 1;
        if (kill + 1) % 10 == 0 {
            run.progress(&format!("{} of {kills} kills", kill + 1));
        }
    }
    let before = floods[0].sent();
    floods[0].send(OFFERED, &mut federation.enter(PAIR[0])?)?;
    ensure!(floods[0].sent() == before + OFFERED, "the sender's server hung up");
    run.note("kills_of_the_sender", killed[0]);
    run.note("kills_of_the_recipient", killed[1]);
    run.note("slowest_start_ms", u64::try_from(slowest.as_millis())?);
    let since = Instant::now();
    settle(run, &floods, &mut watch, federation.door(PAIR[1])?)?;
    run.note("drained_ms", u64::try_from(since.elapsed().as_millis())?);
    for node in &federation.town.nodes {
        node.check_store()?;
    }
    Ok(())
}
