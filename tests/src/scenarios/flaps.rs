//! A server whose cable falls out again and again.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, settle};
use crate::process::Process;
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];
/// What a server's memory may grow by.
const GROWTH_KIB: u64 = 2 * 1024;

/// All that is sent arrives, and no flap leaves anything behind.
///
/// # Errors
/// One is lost, comes twice or out of order; or descriptors or memory grow.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let (flaps, longest) = if run.long { (1_000, 3_000) } else { (50, 400) };
    let federation = Federation::start(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
    let mut random = run.random();
    let mut watch = Watch::start(federation.door(PAIR[1])?)?;
    let mut wire = federation.enter(PAIR[0])?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    let mut before = [(0, 0); 2];
    for flap in 0..flaps {
        if flap == flaps / 5 {
            // What is kept for good is there by now.
            watch.all(&floods)?;
            before = state(&federation)?;
        }
        floods[0].send(2, &mut wire)?;
        // Random moments of being there and not, not waits for anything.
        std::thread::sleep(Duration::from_millis(random.below(longest / 2)));
        federation.net.tell("server2<>server1 cut")?;
        std::thread::sleep(Duration::from_millis(random.below(longest / 2)));
        federation.net.tell("server2<>server1 heal")?;
    }
    watch.all(&floods)?;
    // Before all that was received is asked for, which takes memory of its own.
    let after = state(&federation)?;
    settle(run, &floods, &mut watch, federation.door(PAIR[1])?)?;
    run.note("flaps", flaps);
    for (place, name) in ["sender", "recipient"].into_iter().enumerate() {
        let ((descriptors, kib), (descriptors_before, kib_before)) = (after[place], before[place]);
        run.note(&format!("{name}_descriptors"), descriptors);
        run.note(&format!("{name}_more_descriptors"), descriptors.saturating_sub(descriptors_before));
        run.note(&format!("{name}_more_kib"), kib.saturating_sub(kib_before));
        ensure!(descriptors <= descriptors_before + 2, "the {name}'s server keeps descriptors");
        ensure!(kib <= kib_before + GROWTH_KIB, "the {name}'s server grew by {} KiB", kib - kib_before);
    }
    Ok(())
}

/// Descriptors and resident KiB of both servers.
fn state(federation: &Federation) -> Result<[(usize, u64); 2]> {
    let of = |process: &Process| {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.id()))?.count();
        Ok::<_, anyhow::Error>((descriptors, process.resident_kib()?))
    };
    let nodes = &federation.town.nodes;
    Ok([of(nodes[0].process()?)?, of(nodes[1].process()?)?])
}
