//! Two servers over a satellite: 64 kbit/s each way and 800 ms there and back.

use anyhow::{Result, ensure};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, percentile_ms, settle};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];

/// A backlog drains, and the road is used for little else.
///
/// # Errors
/// One is lost, comes twice or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let many = if run.long { 1_000 } else { 200 };
    let federation = Federation::start(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
    let mut watch = Watch::start(federation.door(PAIR[1])?)?;
    federation.net.tell("server1<>server2 rate=8000 delay=400ms queue=32000")?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    floods[0].send(many, &mut federation.enter(PAIR[0])?)?;
    ensure!(floods[0].sent() == many, "the sender's server hung up");
    settle(run, &floods, &mut watch, federation.door(PAIR[1])?)?;
    let latencies = watch.latencies(0, &floods[0]);
    let bytes = federation.net.counter("server1>server2", "bytes")?;
    run.note("drained_ms", percentile_ms(&latencies, 100));
    run.note("bytes_each", bytes / many);
    Ok(())
}
