//! A server whose address changes in the middle: as others see it, because a router forgot, or itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::federation::Federation;
use crate::flood::{Flood, Watch, settle};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];
/// Sent before each change, and again after it.
const EACH: u64 = 50;
/// How long nothing may come after a router forgot, over TLS.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// A stall, and nothing else.
///
/// # Errors
/// One is lost, comes twice or out of order, or nothing comes for too long.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let federation = Federation::start(run, &[&PAIR[..1], &PAIR[1..]])?;
    let (town, net) = (&federation.town, &federation.net);
    let mut watch = Watch::start(federation.door(PAIR[1])?)?;
    let mut wire = federation.enter(PAIR[0])?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    net.tell("server1<>server2 delay=20ms")?;
    let (one, two) = (net.host("server1")?, net.host("server2")?);
    let mut stalls = Vec::new();
    for last in [11, 12, 13] {
        floods[0].send(EACH, &mut wire)?;
        watch.more(&floods, 10)?;
        one.appear_as(one.other_address(last), two)?;
        let changed = Instant::now();
        floods[0].send(EACH, &mut wire)?;
        watch.all(&floods)?;
        stalls.push(watch.longest_silence(changed));
    }
    let millis = |stall: &Duration| u64::try_from(stall.as_millis());
    run.note("router_forgot_ms", stalls.iter().map(millis).collect::<Result<Vec<_>, _>>()?);
    ensure!(stalls.iter().all(|stall| *stall <= LONGEST_SILENCE), "nothing came for {stalls:?}");
    one.unfilter()?;
    // The sender moves. Who checks its proof asks the directory where it is.
    floods[0].send(EACH, &mut wire)?;
    watch.more(&floods, 10)?;
    one.move_to(one.other_address(3))?;
    let moved = Instant::now();
    let port = town.tenant(PAIR[0])?.address.port();
    town.relocate(PAIR[0], SocketAddr::from((one.other_address(3), port)))?;
    watch.all(&floods)?;
    run.note("sender_moved_ms", u64::try_from(watch.longest_silence(moved).as_millis())?);
    one.move_to(one.address())?;
    town.relocate(PAIR[0], SocketAddr::from((one.address(), port)))?;
    // The recipient moves, and the directory is told.
    let mut wire = federation.enter(PAIR[0])?;
    floods[0].send(EACH, &mut wire)?;
    watch.more(&floods, 10)?;
    two.move_to(two.other_address(3))?;
    let moved = Instant::now();
    let port = town.tenant(PAIR[1])?.address.port();
    town.relocate(PAIR[1], SocketAddr::from((two.other_address(3), port)))?;
    // Who watches at the old address sees nothing any more.
    let door = federation.door(PAIR[1])?.at(SocketAddr::from((two.other_address(3), port)));
    let mut watch = Watch::start(&door)?;
    watch.all(&floods)?;
    run.note("recipient_moved_all_ms", u64::try_from(moved.elapsed().as_millis())?);
    settle(run, &floods, &mut watch, &door)
}
