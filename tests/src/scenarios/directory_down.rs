//! A directory that is gone: who has been found before is found still.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, settle};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];
/// Sent in each phase.
const EACH: u64 = 40;

/// Traffic goes on without a directory, also over connections that are made meanwhile.
///
/// # Errors
/// One is lost, comes twice or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut federation = Federation::start(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
    let mut watch = Watch::start(federation.door(PAIR[1])?)?;
    let mut wire = federation.enter(PAIR[0])?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    floods[0].send(EACH, &mut wire)?;
    watch.all(&floods)?;
    federation.town.kill_directory()?;
    floods[0].send(EACH, &mut wire)?;
    watch.all(&floods)?;
    // All connections and all that is in memory go, too: what is remembered is on disk.
    for node in &mut federation.town.nodes {
        node.kill()?;
        node.start()?;
    }
    let mut wire = federation.enter(PAIR[0])?;
    let since = Instant::now();
    floods[0].send(EACH, &mut wire)?;
    watch.all(&floods)?;
    run.note("without_a_directory_ms", u64::try_from(since.elapsed().as_millis())?);
    federation.town.start_directory()?;
    floods[0].send(EACH, &mut wire)?;
    ensure!(floods[0].sent() == 4 * EACH, "the sender's server hung up");
    settle(run, &floods, &mut watch, federation.door(PAIR[1])?)
}
