//! Nothing that was acknowledged is lost: readings through a real broker while the agent and the server
//! are killed at moments that the seed decides.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::broker::{Broker, RECEIVE_MAXIMUM, View};
use crate::gateway::{CLIENT, Gateway, Reader, gateway_town, mqtt_tables};
use crate::ledger::{Account, Arrival};
use crate::process::PATIENCE;
use crate::publisher::Publisher;
use crate::random::Random;
use crate::scenario::Run;
use crate::town::Town;

/// Readings that are published between two kills.
const ROUND: u64 = 60;
/// How long the reader may be silent before what is missing counts as lost: over twice the pause after
/// which an agent sends again what no receipt has confirmed. The sabotaged twin always waits this long once.
const SILENCE: Duration = Duration::from_secs(75);

struct Kills {
    agent: u64,
    server: u64,
}

/// The agent as built: nothing lost, nothing twice, all in order.
///
/// # Errors
/// Any of that is not so.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let kills = if run.long { Kills { agent: 900, server: 100 } } else { Kills { agent: 32, server: 12 } };
    let town = gateway_town(&run.folder)?;
    let broker = Broker::start(&run.folder, CLIENT)?;
    let gateway = Gateway::new(&town, &mqtt_tables(&broker.address))?;
    let account = storm(run, town, broker, gateway, &kills)?;
    let (plain, own) = (account.of("plain"), account.of("own"));
    ensure!(plain.lost + own.lost == 0, "acknowledged readings were lost");
    ensure!(plain.duplicates_after_dedup + own.duplicates_after_dedup == 0, "ids were given twice as new");
    ensure!(plain.inversions + own.inversions == 0, "readings arrived out of order");
    let bound = RECEIVE_MAXIMUM * kills.agent;
    ensure!(plain.captured_again <= bound, "captured again {} times, over {bound}", plain.captured_again);
    ensure!(own.captured_again == 0, "captured again in spite of the device's own id");
    Ok(())
}

/// An agent that acknowledges before the commit must be found out.
///
/// # Errors
/// No reading was lost, or there is no such agent.
pub(super) fn run_sabotaged(run: &mut Run) -> Result<()> {
    let kills = Kills { agent: 12, server: 0 };
    let program = crate::process::sabotaged("atedge-agent")?;
    let town = gateway_town(&run.folder)?;
    let broker = Broker::start(&run.folder, CLIENT)?;
    let gateway = Gateway::with_program(vec![program], &town, &mqtt_tables(&broker.address))?;
    let account = storm(run, town, broker, gateway, &kills)?;
    let lost = account.of("plain").lost + account.of("own").lost;
    ensure!(lost > 0, "the sabotage was not noticed: no reading was lost");
    Ok(())
}

/// What came of each route.
pub(super) struct Accounts(pub(super) BTreeMap<&'static str, Account>);

impl Accounts {
    pub(super) fn of(&self, route: &str) -> &Account {
        &self.0[route]
    }
}

fn storm(
    run: &mut Run,
    mut town: Town,
    mut broker: Broker,
    mut gateway: Gateway,
    kills: &Kills,
) -> Result<Accounts> {
    let mut random = run.random();
    let mut order: Vec<bool> = (0..kills.agent + kills.server).map(|kill| kill < kills.agent).collect();
    for place in (1..order.len()).rev() {
        order.swap(place, random.place(place + 1));
    }
    let mut reader = Reader::start(&town)?;
    let mut devices = Publisher::connect(broker.address, "devices")?;
    gateway.start()?;
    broker.until("the agent's subscription", |view| view.subscribed)?;
    let mut published = 0;
    publish(&mut devices, &mut published, ROUND)?;
    broker.until("acknowledgements in peace", |view| view.acknowledged().len() as u64 >= published)?;
    await_arrivals(&mut reader, &broker.view)?;
    for (round, is_agent) in order.iter().enumerate() {
        publish(&mut devices, &mut published, ROUND)?;
        let more = random.place(usize::try_from(ROUND)?);
        // What an earlier kill left behind comes as well, so there is always enough to wait for.
        if random.below(2) == 0 {
            let seen = broker.view.acknowledged().len();
            broker.until("acknowledgements", |view| view.acknowledged().len() >= seen + more)?;
        } else {
            let seen = reader.arrivals.len();
            let came = reader.until(PATIENCE, |arrivals| arrivals.len() > seen + more)?;
            ensure!(came, "nothing arrives any more after {round} kills");
        }
        std::thread::sleep(instant(&mut random));
        if *is_agent {
            gateway.kill()?;
            gateway.start()?;
        } else {
            town.nodes[0].kill()?;
            town.nodes[0].start()?;
        }
        if round % 10 == 9 {
            run.progress(&format!("{} of {} kills", round + 1, order.len()));
        }
    }
    broker.until("all acknowledgements", |view| view.acknowledged().len() as u64 >= published)?;
    run.note("agent_kills", kills.agent);
    run.note("server_kills", kills.server);
    run.note("published", published);
    run.note("redelivered_by_broker", broker.view.redelivered);
    await_arrivals(&mut reader, &broker.view)?;
    account(run, &broker.view, &reader.arrivals)
}

/// Within a few milliseconds of an acknowledgement or an arrival, so that kills also fall between two steps of the agent. This is the fault
/// itself, not a wait for anything.
fn instant(random: &mut Random) -> Duration {
    Duration::from_micros(random.below(5_000))
}

/// Publishes `many` readings, every other on the route with the device's own id, over four devices.
pub(super) fn publish(devices: &mut Publisher, published: &mut u64, many: u64) -> Result<()> {
    let messages = readings(*published..*published + many);
    *published += many;
    devices.publish(&messages)
}

/// Readings with these numbers: topics and payloads.
pub(super) fn readings(numbers: Range<u64>) -> Vec<(String, String)> {
    let reading = |n| {
        let route = if n % 2 == 0 { "plain" } else { "own" };
        let topic = format!("{route}/{route}{}/{n}", n / 2 % 4);
        (topic, format!("{{\"n\":{n},\"seq\":{n}}}"))
    };
    numbers.map(reading).collect()
}

/// Waits until every acknowledged reading has arrived, or nothing more comes.
pub(super) fn await_arrivals(reader: &mut Reader, view: &View) -> Result<()> {
    reader.until_all(SILENCE, numbers(view, "")?)?;
    Ok(())
}

fn numbers(view: &View, route: &str) -> Result<BTreeSet<u64>> {
    let of_route = view.acknowledged().iter().filter(|topic| topic.starts_with(route));
    of_route
        .map(|topic| {
            let n = topic.rsplit('/').next().and_then(|n| n.parse().ok());
            n.with_context(|| format!("not one of our topics: {topic}"))
        })
        .collect()
}

pub(super) fn account(run: &mut Run, view: &View, arrivals: &[Arrival]) -> Result<Accounts> {
    let mut accounts = BTreeMap::new();
    for route in ["plain", "own"] {
        let of_route: Vec<Arrival> =
            arrivals.iter().filter(|arrival| arrival.device.starts_with(route)).cloned().collect();
        let account = Account::of(&numbers(view, route)?, &of_route);
        run.note(
            route,
            serde_json::json!({
                "acknowledged": account.acknowledged, "arrived": account.arrived, "lost": account.lost,
                "captured_again": account.captured_again, "raw_duplicates": account.raw_duplicates,
                "duplicates_after_dedup": account.duplicates_after_dedup, "inversions": account.inversions,
            }),
        );
        accounts.insert(route, account);
    }
    if accounts.values().all(|account| account.acknowledged == 0) {
        bail!("the broker saw no acknowledgement");
    }
    Ok(Accounts(accounts))
}
