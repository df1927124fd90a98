//! A firewall that lets no UDP through: before two nodes have spoken, and in the middle.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, percentile_ms, settle};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];
/// Sent in each phase.
const EACH: u64 = 100;

/// The same goes over TCP, and soon.
///
/// # Errors
/// One is lost, comes twice or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let federation = Federation::start(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
    let mut watch = Watch::start(federation.door(PAIR[1])?)?;
    let mut wire = federation.enter(PAIR[0])?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    federation.net.tell("server1<>server2 delay=20ms")?;
    let two = federation.net.host("server2")?;
    // In the middle.
    floods[0].send(EACH, &mut wire)?;
    watch.more(&floods, 1)?;
    two.block_udp()?;
    let blocked = Instant::now();
    floods[0].send(EACH, &mut wire)?;
    watch.all(&floods)?;
    run.note("blocked_in_the_middle_ms", u64::try_from(blocked.elapsed().as_millis())?);
    // Over TCP by now.
    let first = floods[0].sent();
    floods[0].send(EACH, &mut wire)?;
    watch.all(&floods)?;
    run.note("over_tcp_p99_ms", percentile_ms(&watch.latencies_from(0, &floods[0], first), 99));
    // From the start: the next life of a server knows nothing of UDP.
    let mut federation = federation;
    federation.town.nodes[0].kill()?;
    federation.town.nodes[0].start()?;
    let started = Instant::now();
    floods[0].send(EACH, &mut federation.enter(PAIR[0])?)?;
    watch.all(&floods)?;
    run.note("blocked_from_the_start_ms", u64::try_from(started.elapsed().as_millis())?);
    ensure!(floods[0].sent() == 4 * EACH, "the sender's server hung up");
    settle(run, &floods, &mut watch, federation.door(PAIR[1])?)
}
