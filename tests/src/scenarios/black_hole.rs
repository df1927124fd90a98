//! A road on which long packets vanish, and nobody is told: a tunnel whose router keeps silent.

use anyhow::{Result, ensure};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, percentile_ms, settle};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];
/// The longest packet that passes: the least that IPv6 allows.
const MTU: u16 = 1280;
/// Sent in each phase.
const EACH: u64 = 200;

/// Nodes find what passes, whether the road was narrow from the start or becomes so.
///
/// # Errors
/// One is lost, comes twice or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut federation = Federation::start(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
    let mut watch = Watch::start(federation.door(PAIR[1])?)?;
    let mut wire = federation.enter(PAIR[0])?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    federation.net.tell("server1<>server2 delay=10ms")?;
    // Wide at first, so that long packets are sent.
    floods[0].send(EACH, &mut wire)?;
    watch.all(&floods)?;
    for (name, restart) in [("narrowed", false), ("narrow_from_the_start", true)] {
        federation.net.tell(&format!("server1<>server2 mtu={MTU}"))?;
        if restart {
            federation.town.nodes[1].kill()?;
            federation.town.nodes[1].start()?;
        }
        let first = floods[0].sent();
        floods[0].send(EACH, &mut wire)?;
        watch.all(&floods)?;
        run.note(&format!("{name}_p99_ms"), percentile_ms(&watch.latencies_from(0, &floods[0], first), 99));
    }
    let vanished = federation.net.counter("server1>server2", "too_long")?;
    run.note("vanished", vanished);
    ensure!(vanished > 0, "no long packet was ever sent");
    settle(run, &floods, &mut watch, federation.door(PAIR[1])?)
}
