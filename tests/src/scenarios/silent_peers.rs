//! Servers that accept and never answer, and such as vanish without a word.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::federation::{Federation, Way};
use crate::flood::{Flood, Watch, percentile_ms, settle};
use crate::scenario::Run;

const PAIR: [&str; 2] = ["@alice", "@bob"];
/// Served by somebody who says nothing.
const SILENT: &str = "@mute";
const SINK: &str = "sink";
const SINK_PORT: u16 = 6464;
/// Who asks a server that does not answer is told so within this: what connecting may take, and an answer.
const LONGEST_QUESTION: Duration = Duration::from_secs(30);

/// Nobody waits for such a server but those who want something of it, and they are told.
///
/// # Errors
/// Something between others is held up, lost, comes twice or out of order; or a question hangs.
pub(super) fn run(run: &mut Run) -> Result<()> {
    // The fifth host of the network.
    let silent = SocketAddr::from(([10, 77, 5, 2], SINK_PORT));
    let federation =
        Federation::with(run, Way::Nodes, &[&PAIR[..1], &PAIR[1..]], &[SINK], &[(SILENT, silent)])?;
    let host = federation.net.host(SINK)?;
    ensure!(host.address() == silent.ip(), "the sink is {}", host.address());
    // The kernel accepts; nobody reads.
    let listener = host.inside(|| Ok(TcpListener::bind(silent)?))?;
    let mut watch = Watch::start(federation.door(PAIR[1])?)?;
    let mut wire = federation.enter(PAIR[0])?;
    // Much waits for the silent one, from the same sender.
    let mut unheard = Flood::new(PAIR[0], SILENT, 2);
    unheard.send(200, &mut wire)?;
    let mut floods = [Flood::new(PAIR[0], PAIR[1], 1)];
    floods[0].send(100, &mut wire)?;
    watch.all(&floods)?;
    let beside = watch.latencies(0, &floods[0]);
    run.note("p99_beside_silence_ms", percentile_ms(&beside, 99));
    // A question is answered with an error.
    run.note("silent_ms", question(&federation, SILENT)?);
    // Half-open: the other end goes while nobody can say so, and comes back knowing nothing.
    drop(listener);
    let mut federation = federation;
    federation.net.tell("server1<>server2 cut")?;
    floods[0].send(10, &mut wire)?;
    federation.town.nodes[1].kill()?;
    federation.town.nodes[1].start()?;
    federation.net.tell("server1<>server2 heal")?;
    let healed = Instant::now();
    watch.all(&floods)?;
    run.note("half_open_ms", u64::try_from(healed.elapsed().as_millis())?);
    // Gone without a word.
    federation.net.tell("server1<>server2 cut")?;
    run.note("vanished_ms", question(&federation, PAIR[1])?);
    federation.net.tell("server1<>server2 heal")?;
    settle(run, &floods, &mut watch, federation.door(PAIR[1])?)
}

/// How long a question about another atSign's record takes that cannot be answered, in milliseconds.
fn question(federation: &Federation, of: &str) -> Result<u64> {
    let mut wire = federation.enter(PAIR[0])?;
    let since = Instant::now();
    let answer = wire.ask(&format!("lookup:phone{of}"))?;
    let took = since.elapsed();
    ensure!(answer.starts_with("error:"), "{of} was answered {answer:.200}");
    ensure!(took <= LONGEST_QUESTION, "{of} was asked for {took:?}");
    u64::try_from(took.as_millis()).context("an hour at most")
}
