//! Notifications between two servers over a bad road: 3 % loss both ways, 80 ms there and back.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::federation::Federation;
use crate::flood::{Arrivals, Flood, Watch, percentile};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];

/// All arrive, once and in order.
///
/// # Errors
/// One is lost, comes twice or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let many = if run.long { 10_000 } else { 300 };
    let federation = Federation::start(run, &[&PAIR[..1], &PAIR[1..]])?;
    let mut watch = Watch::start(&federation, PAIR[1])?;
    federation.net.tell("server1<>server2 loss=3% delay=40ms")?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    let since = Instant::now();
    floods[0].send(many, &mut federation.enter(PAIR[0])?)?;
    ensure!(floods[0].sent() == many, "the sender's server hung up");
    let mut arrivals = Arrivals::default();
    arrivals.take(&floods, &mut watch)?;
    let took = since.elapsed();
    let held = floods[0].held(&mut federation.enter(PAIR[1])?)?;
    let latencies = arrivals.latencies(0, &floods[0]);
    run.note("sent", many);
    run.note("took_ms", u64::try_from(took.as_millis())?);
    run.note("p50_ms", u64::try_from(percentile(&latencies, 50).as_millis())?);
    run.note("p99_ms", u64::try_from(percentile(&latencies, 99).as_millis())?);
    run.note("twice", arrivals.twice(0));
    run.note("inversions", arrivals.inversions(0));
    run.note("packets_lost", federation.net.counter("server1>server2", "lost")?);
    ensure!(arrivals.twice(0) == 0, "{} came twice", arrivals.twice(0));
    ensure!(arrivals.inversions(0) == 0, "{} came out of order", arrivals.inversions(0));
    ensure!(held.into_iter().eq(0..many), "the recipient's server does not hold all in order");
    Ok(())
}
