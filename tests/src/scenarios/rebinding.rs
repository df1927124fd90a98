//! A server whose address changes in the middle: as others see it, because a router forgot, or itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::federation::{Door, Federation, Way};
use crate::flood::{Flood, Watch, settle};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];
/// Sent before each change, and again after it.
const EACH: u64 = 30;
/// There and back.
const ROUND: Duration = Duration::from_millis(100);
/// What a busy machine may add.
const BUSY: Duration = Duration::from_millis(500);
/// How long nothing may come when a connection has to be made anew.
const ANEW: Duration = Duration::from_secs(5);

/// A connection between nodes goes on.
///
/// # Errors
/// One is lost, comes twice or out of order, or too late.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let federation = Federation::start(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]])?;
    let mut course = Course::new(&federation)?;
    let door = federation.door(PAIR[0])?;
    // So that the connection is there, and what it can carry is known.
    for _ in 0..3 {
        course.send(door)?;
    }
    let quiet = course.latest()?;
    run.note("quiet_ms", millis(quiet)?);
    let bar = quiet + ROUND + BUSY;
    let mut latest = Vec::new();
    for last in [11, 12, 13] {
        course.send(door)?;
        federation.net.show("server1", "server2", last)?;
        course.send(door)?;
        latest.push(course.latest()?);
    }
    let all = latest.iter().map(|latest| millis(*latest)).collect::<Result<Vec<_>>>()?;
    run.note("router_forgot_ms", all);
    ensure!(latest.iter().all(|latest| *latest <= bar), "too late when a router forgot: {latest:?}");
    federation.net.tell("server1>server2 as itself")?;
    // Whom it sends to need not be told, and no directory.
    let moved = course.sender_moves()?;
    course.send(&moved)?;
    let latest = course.latest()?;
    run.note("sender_moved_ms", millis(latest)?);
    ensure!(latest <= bar, "one took {latest:?} after the sender had moved");
    settle(run, &course.floods, &mut course.watch, federation.door(PAIR[1])?)
}

/// Connections of old are made anew.
///
/// # Errors
/// One is lost, comes twice or out of order, or nothing comes for too long.
pub(super) fn run_classic(run: &mut Run) -> Result<()> {
    let federation = Federation::start(run, Way::Classic, &[&PAIR[..1], &PAIR[1..]])?;
    let mut course = Course::new(&federation)?;
    let door = federation.door(PAIR[0])?;
    let mut silences = Vec::new();
    for last in [11, 12, 13] {
        course.send(door)?;
        federation.net.show("server1", "server2", last)?;
        let since = Instant::now();
        course.watch.all(&course.floods)?;
        silences.push(course.watch.longest_silence(since));
    }
    let all = silences.iter().map(|silence| millis(*silence)).collect::<Result<Vec<_>>>()?;
    run.note("router_forgot_ms", all);
    ensure!(silences.iter().all(|silence| *silence <= ANEW), "nothing came for {silences:?}");
    federation.net.tell("server1>server2 as itself")?;
    // Who checks the sender's proof asks the directory where it is.
    let moved = course.sender_moves()?;
    let since = Instant::now();
    federation.town.relocate(PAIR[0], moved.address())?;
    course.watch.all(&course.floods)?;
    run.note("sender_moved_ms", millis(since.elapsed())?);
    // The recipient moves, and the directory is told.
    course.send(&moved)?;
    let two = federation.net.host("server2")?;
    two.move_to(two.other_address(3))?;
    let since = Instant::now();
    let port = federation.town.tenant(PAIR[1])?.address.port();
    let door = federation.door(PAIR[1])?.at(SocketAddr::from((two.other_address(3), port)));
    federation.town.relocate(PAIR[1], door.address())?;
    // Who watches at the old address sees nothing any more.
    let mut watch = Watch::start(&door)?;
    watch.all(&course.floods)?;
    run.note("recipient_moved_ms", millis(since.elapsed())?);
    settle(run, &course.floods, &mut watch, &door)
}

/// A flood whose sender's address changes again and again.
struct Course<'a> {
    federation: &'a Federation,
    watch: Watch,
    floods: [Flood; 1],
    /// How many had been sent before the last ones.
    before: u64,
}

impl<'a> Course<'a> {
    fn new(federation: &'a Federation) -> Result<Self> {
        let watch = Watch::start(federation.door(PAIR[1])?)?;
        federation.net.tell(&format!("server1<>server2 delay={}ms", ROUND.as_millis() / 2))?;
        Ok(Self { federation, watch, floods: [Flood::new(PAIR[0], PAIR[1], 1)], before: 0 })
    }

    /// Sends some; the first of all that are on their way arrives.
    fn send(&mut self, door: &Door) -> Result<()> {
        self.before = self.floods[0].sent();
        self.floods[0].send(EACH, &mut door.enter()?)?;
        ensure!(self.floods[0].sent() == self.before + EACH, "the sender's server hung up");
        self.watch.more(&self.floods, 1)
    }

    /// Waits until all have come; how long the slowest of the last ones took.
    fn latest(&mut self) -> Result<Duration> {
        self.watch.all(&self.floods)?;
        self.watch.latencies_from(0, &self.floods[0], self.before).last().copied().context("some came")
    }

    /// The sender's server moves in the middle; gives where it is now.
    fn sender_moves(&mut self) -> Result<Door> {
        let door = self.federation.door(PAIR[0])?;
        self.send(door)?;
        let one = self.federation.net.host("server1")?;
        one.move_to(one.other_address(3))?;
        Ok(door.at(SocketAddr::from((one.other_address(3), door.address().port()))))
    }
}

fn millis(duration: Duration) -> Result<u64> {
    Ok(u64::try_from(duration.as_millis())?)
}
