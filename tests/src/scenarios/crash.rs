//! Nothing that was acknowledged or committed is lost: readings through a real broker, from a serial line and from a
//! Modbus unit, while the agent and the server are killed at moments that the seed decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::broker::{Broker, RECEIVE_MAXIMUM, View};
use crate::gateway::{CLIENT, Gateway, Reader, gateway_town, mqtt_tables};
use crate::ledger::{Account, Arrival, Committed};
use crate::plant::{ASKED, Plant, number};
use crate::process::{PATIENCE, program, sabotaged_agent};
use crate::scenario::Run;
use crate::town::Town;

/// The agent is killed within this time after it was ready.
const AFTER: std::ops::Range<u64> = 5_000..500_000;
/// Kills without a pause. Then all that is acknowledged has to arrive, or what waits would only grow.
const BREATH: usize = 25;
/// How long nothing may come while the reader has not confirmed all: over twice the pause after which an agent sends
/// again what no receipt has confirmed.
const SILENCE: Duration = Duration::from_secs(75);
/// The same where the server was never killed, so that nothing has to be sent again.
pub(super) const SHORT_SILENCE: Duration = Duration::from_secs(10);
/// How long what was printed may take to be read.
const PRINTED: Duration = Duration::from_secs(1);

struct Kills {
    agent: u64,
    server: u64,
}

/// The agent as built: nothing lost, nothing twice, all in order.
///
/// # Errors
/// Any of that is not so.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let kills = if run.long { Kills { agent: 1_000, server: 100 } } else { Kills { agent: 50, server: 10 } };
    let agent = program("atedge-agent")?.display().to_string();
    let mut scene = Scene::set(run, vec![agent], "")?;
    storm(run, &mut scene, &kills)?;
    run.note("agent_kills", kills.agent);
    run.note("server_kills", kills.server);
    scene.end(run)?.judge(kills.agent)
}

/// An agent that acknowledges before the commit must be found out.
///
/// # Errors
/// No reading was lost, or there is no such agent.
pub(super) fn run_sabotaged(run: &mut Run) -> Result<()> {
    let kills = Kills { agent: 12, server: 0 };
    let mut scene = Scene::set(run, sabotaged_agent()?, "")?;
    scene.silence = SHORT_SILENCE;
    storm(run, &mut scene, &kills)?;
    let lost = scene.end(run)?.accounts.lost();
    ensure!(lost > 0, "the sabotage was not noticed: no reading was lost");
    Ok(())
}

/// What came of each route.
pub(super) struct Accounts(pub(super) BTreeMap<&'static str, Account>);

impl Accounts {
    pub(super) fn of(&self, route: &str) -> &Account {
        &self.0[route]
    }

    /// Acknowledged readings that never arrived.
    pub(super) fn lost(&self) -> u64 {
        self.0.values().map(|account| account.lost).sum()
    }
}

fn storm(run: &Run, scene: &mut Scene, kills: &Kills) -> Result<()> {
    let mut random = run.random();
    let mut order: Vec<bool> = (0..kills.agent + kills.server).map(|kill| kill < kills.agent).collect();
    for place in (1..order.len()).rev() {
        order.swap(place, random.place(place + 1));
    }
    for (round, is_agent) in order.iter().enumerate() {
        // This is the fault itself, not a wait for anything.
        std::thread::sleep(Duration::from_micros(AFTER.start + random.below(AFTER.end - AFTER.start)));
        if *is_agent {
            scene.gateway.kill()?;
            scene.note_committed()?;
            scene.gateway.start()?;
        } else {
            scene.town.nodes[0].kill()?;
            scene.town.nodes[0].start()?;
        }
        if round % BREATH == BREATH - 1 {
            scene.catch_up()?;
            run.progress(&format!("{} of {} kills", round + 1, order.len()));
        }
    }
    Ok(())
}

/// A gateway with devices of every kind, its broker, its server and its reader.
pub(super) struct Scene {
    pub(super) town: Town,
    pub(super) gateway: Gateway,
    broker: Broker,
    plant: Plant,
    reader: Reader,
    committed: Committed,
    /// How long nothing may come at the end before what is missing counts as lost.
    pub(super) silence: Duration,
}

impl Scene {
    /// Starts `agent`, a program and its arguments, with these further settings; something of every device arrives in
    /// peace.
    pub(super) fn set(run: &Run, agent: Vec<String>, settings: &str) -> Result<Self> {
        let town = gateway_town(&run.folder)?;
        let mut broker = Broker::start(&run.folder, CLIENT)?;
        let mut plant = Plant::start()?;
        let tables = mqtt_tables(&broker.address).replacen("version", "keep_alive = \"5s\"\nversion", 1);
        let mut gateway = Gateway::with_program(agent, &town, &(tables + &plant.tables() + settings))?;
        let mut reader = Reader::start(&town)?;
        gateway.start()?;
        broker.until("the agent's subscription", |view| view.subscribed)?;
        plant.publish(broker.address);
        let all = ["plain", "own"].into_iter().chain(ASKED);
        let spoke = |arrivals: &[Arrival], device: &str| {
            arrivals.iter().any(|arrival| arrival.device.starts_with(device))
        };
        let came = reader.until(PATIENCE, |arrivals| all.clone().all(|device| spoke(arrivals, device)))?;
        ensure!(came, "not every device was heard in peace");
        Ok(Self { town, gateway, broker, plant, reader, committed: Committed::default(), silence: SILENCE })
    }

    /// Waits until all that is published by now is acknowledged and has arrived: the broker has no more than 65,535
    /// names for what it repeats.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        let published = self.plant.published();
        self.broker.until("all acknowledgements", |view| view.acknowledged().len() as u64 >= published)?;
        let came = self.reader.until_all(PATIENCE, numbers(&self.broker.view, "")?)?;
        ensure!(came, "what was acknowledged does not arrive");
        Ok(())
    }

    /// Whether all that was acknowledged to the broker is on the disk, or was. It has to be asked whenever the agent was
    /// killed.
    pub(super) fn ensure_kept(&mut self) -> Result<()> {
        self.broker.catch_up()?;
        let acknowledged = self.broker.view.acknowledged().len() as u64;
        self.note_committed()?;
        let kept = self.committed.count(|device| !ASKED.contains(&device));
        ensure!(
            acknowledged <= kept,
            "acknowledged {acknowledged} publications, of which {kept} are on disk"
        );
        Ok(())
    }

    /// Takes down what the agent, which was just killed, had committed. One that died while it moved a damaged queue
    /// away leaves none to look at.
    pub(super) fn note_committed(&mut self) -> Result<()> {
        if self.gateway.state().join("outbox.db").exists() {
            self.gateway.committed()?.for_each(|(lane, last)| self.committed.note(lane, last));
        }
        Ok(())
    }

    /// Stops the devices, waits until all has arrived that will, and counts.
    pub(super) fn end(mut self, run: &mut Run) -> Result<Outcome> {
        let (published, weighed) = self.plant.stop()?;
        self.broker.until("all acknowledgements", |view| view.acknowledged().len() as u64 >= published)?;
        run.note("published", published);
        run.note("redelivered_by_broker", self.broker.view.redelivered);
        await_within(&mut self.reader, &self.broker.view, &self.gateway, self.silence)?;
        // What was only asked for may be on its way still.
        let since = Instant::now();
        while self.gateway.unconfirmed()? > 0 && since.elapsed() < self.silence {
            self.reader.until(PRINTED, |_| false)?;
        }
        self.reader.until(PRINTED, |_| false)?;
        let arrivals = &self.reader.arrivals;
        let accounts = account(run, &self.broker.view, arrivals)?;
        let unseen = self.committed.unseen(arrivals);
        run.note("committed_and_lost", unseen);
        let mut polled = BTreeMap::new();
        for device in ASKED {
            let of_device: Vec<Arrival> =
                arrivals.iter().filter(|arrival| arrival.device == device).cloned().collect();
            let account = Account::of(&BTreeSet::new(), &of_device);
            let heard: BTreeSet<u64> = of_device.iter().map(|arrival| arrival.n).collect();
            let asked = if device == "scale" { weighed } else { heard.last().copied().unwrap_or_default() };
            let unheard = asked - heard.len() as u64;
            run.note(
                device,
                serde_json::json!({
                    "asked": asked, "answers_not_kept": unheard, "captured_again": account.captured_again,
                    "duplicates_after_dedup": account.duplicates_after_dedup, "inversions": account.inversions,
                }),
            );
            polled.insert(device, (unheard, account));
        }
        Ok(Outcome { accounts, unseen, polled })
    }
}

/// What became of all readings.
pub(super) struct Outcome {
    pub(super) accounts: Accounts,
    /// Numbers that were committed and never arrived.
    unseen: u64,
    /// Of each device that is asked, the answers that were not kept, and what became of the others.
    polled: BTreeMap<&'static str, (u64, Account)>,
}

impl Outcome {
    /// Whether nothing that was acknowledged or committed is lost, comes twice or out of order.
    pub(super) fn judge_acknowledged(&self) -> Result<()> {
        ensure!(self.accounts.lost() == 0, "acknowledged readings were lost");
        ensure!(self.unseen == 0, "committed readings were lost");
        for account in self.accounts.0.values().chain(self.polled.values().map(|(_, account)| account)) {
            ensure!(account.duplicates_after_dedup == 0, "ids were given twice as new");
            ensure!(account.inversions == 0, "readings arrived out of order");
        }
        Ok(())
    }

    /// How often readings without an id of their device's own were captured again.
    pub(super) fn captured_again(&self) -> u64 {
        let polled = self.polled.values().map(|(_, account)| account.captured_again);
        self.accounts.of("plain").captured_again + polled.sum::<u64>()
    }

    /// Whether all is as promised after so many deaths of the agent.
    pub(super) fn judge(&self, deaths: u64) -> Result<()> {
        self.judge_acknowledged()?;
        let (plain, own) = (self.accounts.of("plain"), self.accounts.of("own"));
        let bound = RECEIVE_MAXIMUM * deaths;
        ensure!(plain.captured_again <= bound, "captured again {} times, over {bound}", plain.captured_again);
        ensure!(own.captured_again == 0, "captured again in spite of the device's own id");
        for (device, (unheard, account)) in &self.polled {
            ensure!(account.captured_again == 0, "an answer of the {device} was captured twice");
            // What was asked and not yet kept when the agent died, and when the devices were stopped.
            ensure!(*unheard <= deaths + 1, "the {device} answered {unheard} times in vain");
        }
        Ok(())
    }
}

/// Waits until every acknowledged reading has arrived, or the reader has confirmed all that the agent has: what is
/// missing then is lost.
pub(super) fn await_arrivals(reader: &mut Reader, view: &View, gateway: &Gateway) -> Result<()> {
    await_within(reader, view, gateway, SILENCE)
}

/// The same, when nothing comes for `most`.
fn await_within(reader: &mut Reader, view: &View, gateway: &Gateway, most: Duration) -> Result<()> {
    let missing = numbers(view, "")?;
    let mut silence = Duration::ZERO;
    while silence < most {
        let confirmed = gateway.unconfirmed()? == 0;
        let before = reader.arrivals.len();
        // A reader prints before it confirms.
        if reader.until_all(PRINTED, missing.clone())? || confirmed {
            return Ok(());
        }
        silence = if reader.arrivals.len() > before { Duration::ZERO } else { silence + PRINTED };
    }
    Ok(())
}

fn numbers(view: &View, route: &str) -> Result<BTreeSet<u64>> {
    view.acknowledged().iter().filter(|topic| topic.starts_with(route)).map(|topic| number(topic)).collect()
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
