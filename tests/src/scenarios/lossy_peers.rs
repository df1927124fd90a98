//! Notifications between two servers over bad roads: packets lost, late, doubled and out of order.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, percentile_ms, settle};
use crate::scenario::{Figures, Run};

const PAIR: [&str; 2] = ["@alice", "@bob"];

/// 3 % loss both ways, 80 ms there and back.
///
/// # Errors
/// One is lost, comes twice or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let many = if run.long { 10_000 } else { 1_000 };
    let federation = Federation::start(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
    over(run, &federation, many, "loss=3% delay=40ms")
}

/// The same as atServers always have: a round trip for each.
///
/// # Errors
/// One is lost, comes twice or out of order.
pub(super) fn run_classic(run: &mut Run) -> Result<()> {
    let many = if run.long { 10_000 } else { 150 };
    let federation = Federation::start(run, Way::Classic, &[&PAIR[..1], &PAIR[1..]])?;
    over(run, &federation, many, "loss=3% delay=40ms")
}

/// Little and heavy loss, with all else that can happen to packets.
///
/// # Errors
/// One is lost, comes twice or out of order.
pub(super) fn run_heavy(run: &mut Run) -> Result<()> {
    let many = if run.long { 2_000 } else { 300 };
    for loss in [1, 10, 30] {
        let folder = run.subfolder(&format!("loss{loss}"))?;
        let mut part = Run { folder, figures: Figures::new(), ..*run };
        let federation = Federation::start(&part, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
        let road = format!("loss={loss}% burst=2 delay=10ms jitter=10ms reorder=2% duplicate=2%");
        let done = over(&mut part, &federation, many, &road);
        run.note(&format!("loss_{loss}"), part.figures);
        done.with_context(|| road)?;
    }
    Ok(())
}

fn over(run: &mut Run, federation: &Federation, many: u64, road: &str) -> Result<()> {
    let mut watch = Watch::start(federation.door(PAIR[1])?)?;
    federation.net.tell(&format!("server1<>server2 {road}"))?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    let since = Instant::now();
    floods[0].send(many, &mut federation.enter(PAIR[0])?)?;
    ensure!(floods[0].sent() == many, "the sender's server hung up");
    settle(run, &floods, &mut watch, federation.door(PAIR[1])?)?;
    let latencies = watch.latencies(0, &floods[0]);
    run.note("took_ms", u64::try_from(since.elapsed().as_millis())?);
    run.note("p50_ms", percentile_ms(&latencies, 50));
    run.note("p99_ms", percentile_ms(&latencies, 99));
    run.note("link", federation.net.counters()?["server1>server2"].clone());
    Ok(())
}
