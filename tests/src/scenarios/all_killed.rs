//! Everything between a device and its reader is killed at moments that the seed decides, several at a time:
//! agent, broker, both servers and the directory. Nothing that the agent acknowledged is lost, and no command
//! is carried out twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread::{ScopedJoinHandle, scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::crash::{Accounts, account, await_arrivals};
use crate::broker::{Broker, RECEIVE_MAXIMUM};
use crate::commander::{Order, Outcomes, Told};
use crate::gateway::{CLIENT, GATEWAY, Gateway, READER, Reader, mqtt_tables};
use crate::killing::{Fault, Part, overlaps};
use crate::plant::readings;
use crate::process::{PATIENCE, program, sabotaged_agent};
use crate::publisher::Publisher;
use crate::random::Random;
use crate::scenario::Run;
use crate::town::{Setup, Town};

/// Readings that the devices publish at once, and how often they do in a round.
const BURST: u64 = 20;
const BURSTS: u32 = 4;
/// Kills fall within this time from the beginning of a round.
const ROUND: Duration = Duration::from_millis(600);
/// Who was killed is started again within this time.
const DOWN: Duration = Duration::from_secs(1);
/// Who is killed.
const PARTS: [&str; 5] = ["agent", "broker", "server1", "server2", "directory"];
/// What the gateway's device can be told to do. Each command has a topic of its own, since the broker's log
/// does not show payloads.
const COMMAND: &str = "[command.\"lamp.switch\"]\nallow = [\"@ops\"]\nargs = { n = { type = \"i64\", min = 0, max = \
                       1000000 } }\ndo = { publish = { topic = \"lamp/{n}\", payload = \"{n}\" } }\nadapter = \
                       \"shop\"\nexpires = \"1m\"\nsigned = false\n";

/// All as built.
///
/// # Errors
/// A reading is lost, comes twice or out of order; or a command is carried out twice, or otherwise than its
/// commander is told.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let rounds = if run.long { 1_000 } else { 20 };
    let agent = program("atedge-agent")?.to_str().context("a path in UTF-8")?.to_owned();
    let Storm { accounts, outcomes, restarts } = storm(run, rounds, vec![agent], Agent::AsBuilt)?;
    let (plain, own) = (accounts.of("plain"), accounts.of("own"));
    ensure!(plain.lost + own.lost == 0, "acknowledged readings were lost");
    ensure!(plain.duplicates_after_dedup + own.duplicates_after_dedup == 0, "ids were given twice as new");
    ensure!(plain.inversions + own.inversions == 0, "readings arrived out of order");
    // An agent is sent again what it had not acknowledged, and a broker what that had not.
    let bound = RECEIVE_MAXIMUM.max(BURST) * restarts;
    ensure!(plain.captured_again <= bound, "captured again {} times, over {bound}", plain.captured_again);
    ensure!(own.captured_again == 0, "captured again in spite of the device's own id");
    ensure!(outcomes.twice == 0, "commands were carried out twice");
    ensure!(outcomes.not_done + outcomes.not_failed == 0, "commanders were told what is not so");
    ensure!(outcomes.done > 0, "no command was done");
    Ok(())
}

/// An agent that acknowledges before the commit must be found out.
///
/// # Errors
/// No reading was lost, or there is no such agent.
pub(super) fn run_sabotaged(run: &mut Run) -> Result<()> {
    let Storm { accounts, .. } = storm(run, 12, sabotaged_agent()?, Agent::Sabotaged)?;
    let lost = accounts.of("plain").lost + accounts.of("own").lost;
    ensure!(lost > 0, "the sabotage was not noticed: no reading was lost");
    Ok(())
}

/// What came of it.
struct Storm {
    accounts: Accounts,
    outcomes: Outcomes,
    /// How often agent or broker were killed.
    restarts: u64,
}

/// Which agent is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agent {
    /// As often as the others.
    AsBuilt,
    /// In every round, while readings come: chance must not hide what it does.
    Sabotaged,
}

fn storm(run: &mut Run, rounds: u64, program: Vec<String>, agent: Agent) -> Result<Storm> {
    // Nothing may expire before it is counted.
    let tables = "[notifications]\nttln = \"24h\"\n";
    let setup = Setup { tables, registrar: true, shared_ports: true, ..Setup::default() };
    let mut town = Town::with(&run.folder, &[&[GATEWAY], &[READER]], &setup)?;
    town.onboard(GATEWAY)?;
    town.onboard(READER)?;
    let mut broker = Broker::start(&run.folder, CLIENT)?;
    let tables = mqtt_tables(&broker.address) + COMMAND;
    let mut gateway = Gateway::with_program(program, &town, &tables)?;
    let mut reader = Reader::start(&town)?;
    gateway.start()?;
    broker.until("the agent's subscription", |view| view.subscribed)?;
    let since = Instant::now();
    ensure!(order(&town, 0)?.follow()?.0 == Told::Done, "a command was not done in peace");
    let on_its_way = since.elapsed();
    let mut told = BTreeMap::from([(topic(0), Told::Done)]);
    let mut nodes = std::mem::take(&mut town.nodes);
    let mut random = run.random();
    let mut devices = Devices { broker: broker.address, published: 0 };
    let (mut kills, mut overlapping, mut asked_again) = ([0; PARTS.len()], 0, 0);
    let mut slowest = Duration::ZERO;
    for round in 1..=rounds {
        let mut faults = PARTS.map(|_| Fault::draw(&mut random, ROUND, DOWN));
        let first = random.time(ROUND);
        match (agent, &mut faults[0]) {
            (Agent::AsBuilt, None) => {}
            // While that command is on its way.
            (Agent::AsBuilt, Some(fault)) => fault.after = first + random.time(on_its_way),
            (Agent::Sabotaged, fault) => *fault = Some(Fault::certain(&mut random, ROUND / 2, DOWN)),
        }
        let second = (random.below(2) == 0).then(|| random.time(ROUND));
        let mut orders = Vec::new();
        for moment in [Some(first), second].into_iter().flatten() {
            let n = told.len() + orders.len();
            orders.push((topic(n), moment, order(&town, n)?));
        }
        let [near, far] = nodes.as_mut_slice() else { bail!("there are two servers") };
        let parts: [&mut dyn Part; PARTS.len()] = [&mut gateway, &mut broker, near, far, &mut town];
        let since = Instant::now();
        let downs = scope(|scope| {
            let faults = parts.into_iter().zip(faults);
            let strike = |(part, fault): (_, Option<Fault>)| {
                fault.map(|fault| scope.spawn(move || fault.strike(part)))
            };
            let struck: Vec<_> = faults.map(strike).collect();
            let follow = |(topic, moment, order): (_, _, Order)| {
                let following = move || {
                    sleep(moment);
                    order.follow()
                };
                (topic, scope.spawn(following))
            };
            let sent: Vec<_> = orders.into_iter().map(follow).collect();
            devices.speak(&mut random)?;
            for (topic, following) in sent {
                let (outcome, times) = joined(following)?;
                asked_again += times - 1;
                told.insert(topic, outcome);
            }
            struck.into_iter().map(|struck| struck.map(joined).transpose()).collect::<Result<Vec<_>>>()
        });
        let downs = downs.with_context(|| format!("round {round}"))?;
        slowest = slowest.max(since.elapsed());
        kills.iter_mut().zip(&downs).for_each(|(kills, down)| *kills += u64::from(down.is_some()));
        overlapping += overlaps(&downs);
        broker.until("the agent's subscription", |view| view.subscribed)?;
        if round % 10 == 0 {
            run.progress(&format!("{round} of {rounds} rounds"));
        }
    }
    devices.publish_last(&mut broker)?;
    run.note("rounds", rounds);
    run.note("kills", PARTS.into_iter().zip(kills).collect::<Value>());
    run.note("overlapping_kills", overlapping);
    run.note("published", devices.published);
    let outcomes = Outcomes::of(&told, &broker.view.published);
    run.note("commands", told.len());
    run.note("one_in_peace_ms", u64::try_from(on_its_way.as_millis())?);
    run.note("asked_again", asked_again);
    run.note("slowest_round_ms", u64::try_from(slowest.as_millis())?);
    run.note("outcomes", outcomes.figures());
    await_arrivals(&mut reader, &broker.view, &gateway)?;
    let accounts = account(run, &broker.view, &reader.arrivals)?;
    for node in &nodes {
        node.check_store()?;
    }
    Ok(Storm { accounts, outcomes, restarts: kills[0] + kills[1] })
}

fn order(town: &Town, n: usize) -> Result<Order> {
    Order::new(town, "lamp.switch", &format!("n={n}"), &format!("key-{n}"))
}

/// What the gateway publishes to when it carries out a command.
fn topic(n: usize) -> String {
    format!("lamp/{n}")
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Devices that publish again what a broker that is gone has not acknowledged.
struct Devices {
    broker: SocketAddr,
    published: u64,
}

impl Devices {
    /// The bursts of a round.
    fn speak(&mut self, random: &mut Random) -> Result<()> {
        for _ in 0..BURSTS {
            self.publish()?;
            sleep(random.time(ROUND / BURSTS));
        }
        Ok(())
    }

    /// One burst; gives its topics.
    fn publish(&mut self) -> Result<Vec<String>> {
        let messages = readings(self.published..self.published + BURST);
        self.published += BURST;
        let since = Instant::now();
        let publish = || Publisher::connect(self.broker, "devices")?.publish(&messages);
        while let Err(error) = publish() {
            ensure!(since.elapsed() < PATIENCE, "the broker does not come back: {error:#}");
            sleep(Duration::from_millis(50));
        }
        Ok(messages.into_iter().map(|(topic, _)| topic).collect())
    }

    /// Waits until the agent has acknowledged a last burst, and so all that came before it.
    fn publish_last(&mut self, broker: &mut Broker) -> Result<()> {
        let before = broker.view.acknowledged().len();
        let last = self.publish()?;
        broker.until("the last acknowledgements", |view| {
            last.iter().all(|topic| view.acknowledged()[before..].contains(topic))
        })
    }
}
