//! Two servers that cannot reach each other for a while, both ways or one way only.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, settle};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];
/// Sent in each phase: before, during, after.
const EACH: u64 = 40;

/// What was sent before, during and after a partition arrives once it is over.
///
/// # Errors
/// One is lost, comes twice or out of order.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let partition = Duration::from_secs(if run.long { 60 } else { 10 });
    let federation = Federation::start(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
    let mut watch = Watch::start(federation.door(PAIR[1])?)?;
    let mut wire = federation.enter(PAIR[0])?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    federation.net.tell("server1<>server2 delay=5ms")?;
    for (name, cut) in
        [("both", "server1<>server2"), ("there", "server1>server2"), ("back", "server2>server1")]
    {
        floods[0].send(EACH, &mut wire)?;
        // In the middle of it.
        watch.more(&floods, 5)?;
        federation.net.tell(&format!("{cut} cut"))?;
        floods[0].send(EACH, &mut wire)?;
        // The fault itself, not a wait for anything.
        std::thread::sleep(partition);
        federation.net.tell(&format!("{cut} heal"))?;
        let healed = Instant::now();
        floods[0].send(EACH, &mut wire)?;
        watch.all(&floods).with_context(|| format!("after a partition, {name}"))?;
        let first = watch.first_after(healed).context("something came after it")?;
        run.note(&format!("{name}_first_ms"), u64::try_from((first - healed).as_millis())?);
        run.note(&format!("{name}_all_ms"), u64::try_from(healed.elapsed().as_millis())?);
        ensure!(floods[0].sent().is_multiple_of(EACH), "the sender's server hung up");
    }
    run.note("partition_ms", u64::try_from(partition.as_millis())?);
    settle(run, &floods, &mut watch, federation.door(PAIR[1])?)
}
