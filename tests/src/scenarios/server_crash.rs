//! Nothing that the server acknowledged is lost: it is killed at moments that the seed decides, under a
//! mixed load of several connections to several tenants on all of its shards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustls::ClientConfig;
use serde_json::Value;

use crate::accounts::{Account, Effect, Faults, Talk};
use crate::process::{PATIENCE, built_with};
use crate::random::Random;
use crate::replay::Owner;
use crate::scenario::Run;
use crate::town::Town;
use crate::wire::Wire;

/// Over all four shards of a new store.
const TENANTS: [&str; 4] = ["@north", "@south", "@east", "@west"];
/// Connections of each tenant.
const EACH: usize = 2;
/// Lines that a connection writes before it reads their answers.
const PIPELINE: usize = 8;
/// Keys of each connection, so that most of them are written again and again.
const KEYS: usize = 24;

/// The server as built.
///
/// # Errors
/// Something that it acknowledged is not there.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let kills = if run.long { 1_000 } else { 100 };
    let faults = storm(run, kills, None)?;
    ensure!(!faults.any(), "the server does not have what it acknowledged: {faults:?}");
    Ok(())
}

/// A server that answers before it commits must be found out.
///
/// # Errors
/// Nothing was missing, or there is no such server.
pub(super) fn run_sabotaged(run: &mut Run) -> Result<()> {
    let program = built_with("atedge-server", "sabotage")?;
    let faults = storm(run, 20, Some(program))?;
    ensure!(faults.lost > 0, "the sabotage was not noticed: no change was lost");
    Ok(())
}

/// Kills the server so often, or until there is a fault.
fn storm(run: &mut Run, kills: u64, program: Option<String>) -> Result<Faults> {
    let mut town = Town::start(&run.folder, &[&TENANTS])?;
    let mut random = run.random();
    let mut houses = Vec::new();
    for atsign in TENANTS {
        let owner = Arc::new(Owner::new(&town.tenant(atsign)?.secret)?);
        owner.activate(atsign, &mut town.dial(atsign)?)?;
        houses.push(House { atsign, owner, address: town.tenant(atsign)?.address, trust: town.trust()? });
    }
    let mut accounts = houses
        .iter()
        .map(|house| Account::open(house.atsign, &mut house.enter()?))
        .collect::<Result<Vec<_>>>()?;
    town.nodes[0].kill()?;
    // Nothing may expire before it is counted.
    town.nodes[0].configure("[notifications]\nttln = \"24h\"\n")?;
    if let Some(program) = program {
        town.nodes[0].run_instead(program);
    }
    town.nodes[0].start()?;
    let (mut faults, mut changes, mut sent, mut slowest) = (Faults::default(), 0, Vec::new(), Duration::ZERO);
    let mut made = 0;
    for kill in 0..kills {
        let talks = round(&mut town, &houses, kill, &mut random)?;
        let since = Instant::now();
        town.nodes[0].start()?;
        slowest = slowest.max(since.elapsed());
        for ((house, account), talks) in houses.iter().zip(&mut accounts).zip(&talks) {
            faults.add(account.settle(talks, &mut house.enter()?)?);
            changes += talks.iter().map(|talk| talk.done.len()).sum::<usize>();
            sent.extend(talks.iter().flat_map(|talk| talk.sent.iter().cloned()));
        }
        made = kill + 1;
        if faults.any() {
            break;
        }
        town.nodes[0].check_store().with_context(|| format!("after kill {made}"))?;
        if made % 10 == 0 {
            run.progress(&format!("{made} of {kills} kills"));
        }
    }
    run.note("kills", made);
    run.note("connections", TENANTS.len() * EACH);
    run.note("changes_acknowledged", changes);
    run.note("notifications_acknowledged", sent.len());
    run.note("slowest_start_ms", u64::try_from(slowest.as_millis())?);
    run.note("lost", faults.lost);
    run.note("ids_reused", faults.reused);
    run.note("ids_skipped", faults.skipped);
    run.note("wrong", faults.wrong);
    if faults.any() {
        return Ok(faults);
    }
    for (house, account) in houses.iter().zip(&accounts) {
        let differing = account.compare_all(&mut house.enter()?)?;
        ensure!(differing == 0, "{differing} keys of {} are not as they were written", house.atsign);
    }
    let (missing, twice) = arrivals(&houses, &sent)?;
    run.note("notifications_lost", missing);
    run.note("notifications_twice", twice);
    ensure!(missing + twice == 0, "of {} notifications {missing} were lost, {twice} came twice", sent.len());
    Ok(faults)
}

/// A tenant, and how its owner gets in.
#[derive(Clone)]
struct House {
    atsign: &'static str,
    owner: Arc<Owner>,
    address: SocketAddr,
    trust: Arc<ClientConfig>,
}

impl House {
    fn enter(&self) -> Result<Wire> {
        let mut wire = Wire::greeted(self.address, &self.trust)?;
        self.owner.sign_in(self.atsign, &mut wire)?;
        Ok(wire)
    }
}

/// Load on all connections until the server is killed; gives what was said, by tenant.
fn round(town: &mut Town, houses: &[House], round: u64, random: &mut Random) -> Result<Vec<Vec<Talk>>> {
    let (heard, first) = channel();
    let mut talkers = Vec::new();
    for (place, house) in houses.iter().enumerate() {
        for connection in 0..EACH {
            let (house, heard, random) = (house.clone(), heard.clone(), Random::new(random.number()));
            let to = houses[(place + 1 + connection) % houses.len()].atsign;
            let talker = Talker { house, to, name: format!("c{connection}"), round, random, number: 0 };
            talkers.push((place, std::thread::spawn(move || talker.talk(&heard))));
        }
    }
    drop(heard);
    // The load is on when so many batches were answered, or somebody has said why not.
    for _ in &talkers {
        if first.recv_timeout(PATIENCE).is_err() {
            break;
        }
    }
    // The fault itself, not a wait for anything: a random moment.
    std::thread::sleep(Duration::from_micros(random.below(60_000)));
    town.nodes[0].kill()?;
    let mut talks: Vec<Vec<Talk>> = houses.iter().map(|_| Vec::new()).collect();
    for (place, talker) in talkers {
        talks[place].push(talker.join().map_err(|_| anyhow::anyhow!("a connection's thread panicked"))??);
    }
    Ok(talks)
}

/// One connection's load.
struct Talker {
    house: House,
    /// Whom it notifies.
    to: &'static str,
    name: String,
    round: u64,
    random: Random,
    number: u64,
}

/// What a line asks for.
enum Asked {
    Change(String, Effect),
    Notify(String, String),
    Both(String, Effect, String, String),
}

impl Talker {
    /// Writes and reads until the server is gone.
    fn talk(mut self, heard: &Sender<()>) -> Result<Talk> {
        let mut wire = self.house.enter()?;
        let mut talk = Talk::default();
        loop {
            let (text, asked) = self.batch();
            let mut answers = Vec::new();
            if wire.say(text.as_bytes()).is_ok() {
                while answers.len() < asked.len()
                    && let Ok(Some(record)) = wire.hear()
                {
                    answers.extend(record.lines().filter_map(answer).map(str::to_owned));
                }
            }
            let is_over = answers.len() < asked.len();
            let mut answers = answers.into_iter();
            for asked in asked {
                enter(asked, answers.next(), &mut talk)?;
            }
            // Only the first answer is waited for.
            heard.send(()).ok();
            if is_over {
                return Ok(talk);
            }
        }
    }

    /// Some lines, each about another key.
    fn batch(&mut self) -> (String, Vec<Asked>) {
        let first = self.random.place(KEYS);
        let (mut text, mut asked) = (String::new(), Vec::new());
        for place in 0..PIPELINE {
            let (me, to) = (self.house.atsign, self.to);
            let key = format!("k{}.{}", (first + place) % KEYS, self.name);
            self.number += 1;
            let unique = format!("{}-{}-{}-{}", &me[1..], self.name, self.round, self.number);
            let value = format!("{unique}-{}", "x".repeat(self.random.place(600)));
            let (line, what) = match self.random.below(10) {
                0..5 => (
                    format!("update:{key}{me} {value}"),
                    Asked::Change(format!("{key}{me}"), Effect::Value(value)),
                ),
                5 => (
                    format!("update:meta:{key}{me}:isBinary:false"),
                    Asked::Change(format!("{key}{me}"), Effect::Same),
                ),
                6 => (format!("delete:{key}{me}"), Asked::Change(format!("{key}{me}"), Effect::Gone)),
                7 => {
                    let shared = format!("{to}:{key}{me}");
                    let effect = Effect::Value(unique.clone());
                    (format!("update:{shared} {unique}"), Asked::Both(shared, effect, to.to_owned(), unique))
                }
                kind => {
                    let to = if kind == 8 { me } else { to };
                    let id = format!("ae1-{}-{unique}-1", self.round);
                    let line = format!("notify:id:{id}:ttln:86400000:{to}:{key}{me}:{unique}");
                    (line, Asked::Notify(to.to_owned(), unique))
                }
            };
            text.push_str(&line);
            text.push('\n');
            asked.push(what);
        }
        (text, asked)
    }
}

/// The answer in a line of what was heard, without the prompt before it.
fn answer(line: &str) -> Option<&str> {
    let said = line.find("data:").or_else(|| line.find("error:"))?;
    Some(&line[said..])
}

fn enter(asked: Asked, answer: Option<String>, talk: &mut Talk) -> Result<()> {
    let is_missing = answer.as_ref().is_some_and(|answer| answer.starts_with("error:AT0015-"));
    if is_missing && matches!(asked, Asked::Change(_, Effect::Same)) {
        // What is not there has no metadata.
        return Ok(());
    }
    let data = match &answer {
        Some(answer) => {
            Some(answer.strip_prefix("data:").with_context(|| format!("an answer was {answer:.200}"))?)
        }
        None => None,
    };
    let id = |data: &str| data.parse().with_context(|| format!("not a commit id: {data:.80}"));
    match (asked, data) {
        (Asked::Change(key, effect), Some(data)) => talk.done.push((key, effect, id(data)?)),
        (Asked::Change(key, effect) | Asked::Both(key, effect, ..), None) => talk.open.push((key, effect)),
        (Asked::Both(key, effect, to, value), Some(data)) => {
            talk.done.push((key, effect, id(data)?));
            talk.sent.push((to, value));
        }
        (Asked::Notify(to, value), Some(_)) => talk.sent.push((to, value)),
        (Asked::Notify(..), None) => {}
    }
    Ok(())
}

/// Waits until all that was sent has arrived, or nothing more comes; how many are missing, and how many
/// are there twice.
fn arrivals(houses: &[House], sent: &[(String, String)]) -> Result<(usize, usize)> {
    let (mut missing, mut twice) = (0, 0);
    for house in houses {
        let mut wire = house.enter()?;
        let mine: Vec<&str> =
            sent.iter().filter(|(to, _)| to == house.atsign).map(|(_, value)| value.as_str()).collect();
        let mut waited = Instant::now();
        let mut known = 0;
        loop {
            let mut found: BTreeMap<String, usize> = BTreeMap::new();
            for connection in 0..EACH {
                // By halves, because an answer has a largest size.
                let listed = wire.ask_long(&format!("notify:list:\\.c{connection}@"), house.atsign)?;
                let listed: Option<Vec<Value>> = serde_json::from_str(&listed)?;
                for frame in listed.unwrap_or_default() {
                    *found.entry(frame["value"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
                }
            }
            let absent = mine.iter().filter(|value| !found.contains_key(**value)).count();
            if found.len() > known {
                (known, waited) = (found.len(), Instant::now());
            }
            if absent == 0 || waited.elapsed() > PATIENCE / 3 {
                missing += absent;
                twice += found.values().filter(|count| **count > 1).count();
                break;
            }
        }
    }
    Ok((missing, twice))
}
