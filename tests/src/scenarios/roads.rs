//! The ways between two nodes side by side, over the same bad road: QUIC, the same over TCP, and as atServers
//! always have. For one pair of atSigns how much goes through, and for many pairs how long each waits.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, percentile_ms, settle};
use crate::scenario::{Figures, Run};

/// 3 % lost in either direction, 80 ms there and back.
const ROAD: &str = "server1<>server2 loss=3% delay=40ms";
/// A sender of the many says something so often.
const EVERY: Duration = Duration::from_millis(100);

/// The ways that are compared.
const WAYS: [&str; 3] = ["quic", "tcp", "classic"];

/// How much is sent over one way.
struct Load {
    /// By the one pair.
    alone: u64,
    /// How many other pairs there are, and how much each of them sends.
    pairs: usize,
    each: u64,
}

/// Everything arrives once and in order over every way, and QUIC is the quickest.
///
/// # Errors
/// One is lost, comes twice or out of order; in full length also where QUIC is behind.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut told = Vec::new();
    for way in WAYS {
        run.progress(way);
        let classic = way == "classic";
        let load = match (run.long, classic) {
            (true, false) => Load { alone: 10_000, pairs: 50, each: 200 },
            // One at a time, a round trip each: the rate is the same for fewer.
            (true, true) => Load { alone: 500, pairs: 50, each: 50 },
            (false, false) => Load { alone: 1_000, pairs: 8, each: 20 },
            (false, true) => Load { alone: 60, pairs: 8, each: 20 },
        };
        let figures = over(run, way, &load).with_context(|| way.to_owned())?;
        run.note(way, figures.clone());
        told.push(figures);
    }
    let of = |place: usize, what: &str| told[place][what].as_f64().unwrap_or(f64::NAN);
    for other in [1, 2].into_iter().filter(|_| run.long) {
        let (quic, than) = (of(0, "per_second"), of(other, "per_second"));
        ensure!(quic > than, "QUIC carries {quic} a second, {} {than}", WAYS[other]);
        let (quic, than) = (of(0, "worst_pair_p99_ms"), of(other, "worst_pair_p99_ms"));
        ensure!(quic < than, "the slowest pair waits {quic} ms over QUIC, over {} {than}", WAYS[other]);
    }
    Ok(())
}

fn over(run: &Run, way: &str, load: &Load) -> Result<Value> {
    let mut part =
        Run { folder: run.subfolder(way)?, long: run.long, seed: run.seed, figures: Figures::new() };
    let names =
        |letter: char| (0..=load.pairs).map(|number| format!("@{letter}{number}")).collect::<Vec<_>>();
    let (senders, recipients) = (names('s'), names('r'));
    let (ours, theirs): (Vec<&str>, Vec<&str>) =
        (senders.iter().map(String::as_str).collect(), recipients.iter().map(String::as_str).collect());
    let kind = if way == "classic" { Way::Classic } else { Way::Nodes };
    let federation = Federation::start(&part, kind, &[&ours, &theirs])?;
    if way == "tcp" {
        federation.net.host("server2")?.block_udp()?;
    }
    federation.net.tell(ROAD)?;

    let door = federation.door(theirs[0])?;
    let mut watch = Watch::start(door)?;
    let mut flood = [Flood::new(ours[0], theirs[0], 1)];
    let since = Instant::now();
    flood[0].send(load.alone, &mut federation.enter(ours[0])?)?;
    settle(&mut part, &flood, &mut watch, door)?;
    let took = since.elapsed();
    let alone = watch.latencies(0, &flood[0]);

    let (mut floods, mut watches) = (Vec::new(), Vec::new());
    for pair in 1..=load.pairs {
        floods.push(Flood::new(ours[pair], theirs[pair], 1));
        watches.push(Watch::start(federation.door(theirs[pair])?)?);
    }
    std::thread::scope(|scope| {
        let sending: Vec<_> = floods
            .iter_mut()
            .enumerate()
            .map(|(place, flood)| {
                let door = federation.door(ours[place + 1]);
                scope.spawn(move || paced(flood, load.each, &mut door?.enter()?))
            })
            .collect();
        for sender in sending {
            sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let mut slowest = Vec::new();
    for (place, (flood, mut watch)) in floods.into_iter().zip(watches).enumerate() {
        let flood = [flood];
        settle(&mut part, &flood, &mut watch, federation.door(theirs[place + 1])?)?;
        slowest.push(percentile_ms(&watch.latencies(0, &flood[0]), 99));
    }
    slowest.sort_unstable();
    Ok(json!({
        "sent": load.alone,
        "per_second": (load.alone as f64 / took.as_secs_f64()).round(),
        "p50_ms": percentile_ms(&alone, 50),
        "p99_ms": percentile_ms(&alone, 99),
        "pairs": load.pairs,
        "each": load.each,
        "median_pair_p99_ms": slowest.get(slowest.len() / 2),
        "worst_pair_p99_ms": slowest.last(),
    }))
}

/// One after the other, at a pace that any road carries.
fn paced(flood: &mut Flood, many: u64, wire: &mut crate::wire::Wire) -> Result<()> {
    let mut next = Instant::now();
    for _ in 0..many {
        let before = flood.sent();
        flood.send(1, wire)?;
        ensure!(flood.sent() == before + 1, "the sender's server hung up");
        next += EVERY;
        // The pace itself, not a wait for anything.
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}
