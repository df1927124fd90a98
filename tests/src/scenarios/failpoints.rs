//! The agent dies at each named place on the road of a reading, again and again, under the load of every kind of
//! device: nothing that was acknowledged or committed is lost, nothing is read twice or out of order.
//!
//! The places come from the agent's own list, and each has to be reached.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use atedge_agent::failpoint::Failpoint;
use clap::ValueEnum as _;
use rustix::process::Signal;

use super::clock::set_by;
use super::crash::{SHORT_SILENCE, Scene};
use crate::broker::Broker;
use crate::gateway::{CLIENT, Gateway, READER, gateway_town, mqtt_tables};
use crate::plant::{Plant, number};
use crate::process::{PATIENCE, Process, failing_agent, sabotaged_agent};
use crate::queue::Listener;
use crate::random::Random;
use crate::scenario::Run;

/// Places that a full queue leads by.
const FULL: [Failpoint; 2] = [Failpoint::RecordsDropped, Failpoint::GapWritten];
/// The one that a clock leads by which is set.
const CLOCK: Failpoint = Failpoint::TimefixWritten;
/// Those that a damaged queue leads by.
const DAMAGE: [Failpoint; 4] =
    [Failpoint::DamageNoted, Failpoint::Quarantined, Failpoint::Salvaged, Failpoint::Replaced];
/// Those that an agent comes by once in a while, or once at its start.
const RARE: [Failpoint; 8] = [
    Failpoint::SegmentMade,
    Failpoint::EpochKept,
    Failpoint::CheckpointBefore,
    Failpoint::CheckpointAfter,
    Failpoint::HeardBefore,
    Failpoint::HeardAfter,
    Failpoint::SettleBefore,
    Failpoint::SettleAfter,
];
/// Elsewhere it dies when it comes by for the first time, and then for one of so many.
const PASSES: u64 = 12;

/// All places.
///
/// # Errors
/// One is never reached, or a promise is broken.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let times = if run.long { 50 } else { 2 };
    let mut random = run.random();
    let mut scene = Scene::set(run, vec![failing_agent()?], "")?;
    scene.gateway.kill()?;
    let road: Vec<Failpoint> =
        Failpoint::value_variants().iter().copied().filter(|point| !FULL.contains(point)).collect();
    let mut deaths = 1;
    for point in &road {
        for time in 0..times {
            die(&mut scene, *point, time, &mut random).with_context(|| format!("at {}", name(*point)))?;
            deaths += 1;
        }
        if run.long {
            scene.gateway.start()?;
            scene.catch_up()?;
            scene.gateway.kill()?;
            deaths += 1;
        }
        run.progress(name(*point).as_str());
    }
    scene.gateway.start()?;
    run.note("failpoints", road.len() + FULL.len());
    run.note("times_each", times);
    scene.end(run)?.judge(deaths)?;
    full(run, times)
}

/// An agent that acknowledges before the commit must be found out.
///
/// # Errors
/// No reading was lost, or there is no such agent.
pub(super) fn run_sabotaged(run: &mut Run) -> Result<()> {
    let mut random = run.random();
    let mut scene = Scene::set(run, sabotaged_agent()?, "")?;
    scene.silence = SHORT_SILENCE;
    scene.gateway.kill()?;
    for time in 1..=6 {
        die(&mut scene, Failpoint::CommitBefore, time, &mut random)?;
    }
    scene.gateway.start()?;
    let lost = scene.end(run)?.accounts.lost();
    ensure!(lost > 0, "the sabotage was not noticed: no reading was lost");
    Ok(())
}

/// The agent's name of a place.
fn name(point: Failpoint) -> String {
    point.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Has the agent, which does not run, die at `point`; the first time as soon as it comes by.
fn die(scene: &mut Scene, point: Failpoint, time: u64, random: &mut Random) -> Result<()> {
    let often = time > 0 && !RARE.contains(&point) && point != CLOCK && !DAMAGE.contains(&point);
    let pass = if often { 1 + random.below(PASSES) } else { 1 };
    if DAMAGE.contains(&point) && scene.gateway.state().join("outbox.db").exists() {
        // What an agent leaves that found its queue damaged. It is not, so nothing of it may be lost.
        std::fs::write(scene.gateway.state().join("outbox.damaged"), "")?;
    }
    let agent = if point == CLOCK {
        let clock = scene.town.folder.join("clock");
        std::fs::write(&clock, "@1970-01-01 00:00:30\n")?;
        let behind = scene.gateway.log()?.len();
        let agent = scene.gateway.start_to_fail(&name(point), pass, &set_by(&clock)?)?;
        scene.gateway.until_logged(behind, "is not set")?;
        std::fs::write(&clock, "+0\n")?;
        agent
    } else {
        scene.gateway.start_to_fail(&name(point), pass, &[])?
    };
    await_death(agent)?;
    scene.note_committed()
}

/// It has to end by itself, as one does that aborts.
fn await_death(mut agent: Process) -> Result<()> {
    let status = agent.end().context("it never came by")?;
    ensure!(status.signal() == Some(Signal::ABORT.as_raw()), "it ended with {status}");
    Ok(())
}

/// Where the queue is full and there is no way out, what is lost is counted all the same, each once.
fn full(run: &mut Run, times: u64) -> Result<()> {
    let mut town = gateway_town(&run.subfolder("full")?)?;
    let mut broker = Broker::start(&town.folder, CLIENT)?;
    let settings = "[outbox]\nmax = \"1MiB\"\nmin_free = \"0%\"\nfull = [\"drop-oldest\"]\n";
    let mut gateway =
        Gateway::with_program(vec![failing_agent()?], &town, &(mqtt_tables(&broker.address) + settings))?;
    gateway.start()?;
    broker.until("the agent's subscription", |view| view.subscribed)?;
    town.nodes[0].kill()?;
    gateway.kill()?;
    let mut plant = Plant::start()?;
    plant.publish(broker.address);
    let mut random = run.random();
    for point in FULL {
        for _ in 0..times {
            let agent = gateway.start_to_fail(&name(point), 1 + random.below(PASSES), &[])?;
            await_death(agent).with_context(|| format!("at {}", name(point)))?;
        }
    }
    gateway.start()?;
    let (published, _) = plant.stop()?;
    broker.until("all acknowledgements", |view| view.acknowledged().len() as u64 >= published)?;
    town.nodes[0].start()?;
    let mut reader = Listener::start(&town, READER)?;
    let until = std::time::Instant::now() + PATIENCE;
    while gateway.unconfirmed()? > 0 {
        ensure!(std::time::Instant::now() < until, "the reader never confirmed all");
        reader.until(Duration::from_millis(200), |_| false)?;
    }
    reader.until(Duration::from_millis(500), |_| false)?;
    let numbers = |line: &serde_json::Value| line["points"]["n"].as_f64().map(|n| n as u64);
    let arrived: BTreeSet<u64> = reader.records["process"].iter().filter_map(numbers).collect();
    let acknowledged =
        broker.view.acknowledged().iter().map(|topic| number(topic)).collect::<Result<BTreeSet<u64>>>()?;
    let missing = acknowledged.difference(&arrived).count() as u64;
    let lost = reader.lost.get("process").map_or(0, |causes| causes.values().sum::<u64>());
    run.note("full_missing", missing);
    run.note("full_lost", lost);
    // A number may be told to be lost of which the reading came again, under another: its device's broker repeated it.
    let again = crate::broker::RECEIVE_MAXIMUM * (FULL.len() as u64 * times + 1);
    if missing == 0 {
        bail!("nothing was lost: the queue was never full");
    }
    ensure!(
        missing <= lost && lost <= missing + again,
        "{missing} are missing, and {lost} are told to be lost"
    );
    Ok(())
}
