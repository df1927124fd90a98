//! Rows 1 and 2: the directory's look-ups against a bare TLS echo, its cold clients against bare handshakes, and
//! what a million names take.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use at_protocol::Timestamp;
use at_protocol::crypto::Ed25519Secret;
use at_protocol::directory::{EXTENDED, Grant, Location, SignedRecord, registration};
use atedge_tests::process::{Process, program};
use atedge_tests::random::Random;
use atedge_tests::town::free_address;
use rustls::ClientConfig;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::client::{Client, Crowd};
use crate::floor::Floor;
use crate::ground::Ground;
use crate::meter::{Pair, cpu_of_thread, in_turn, median, micros, resident, spent};
use crate::report::{Bar, Row};
use crate::start;

const CLIENTS: usize = 64;
/// Lines of one write, where clients do not wait for each answer.
pub(crate) const PIPELINED: usize = 32;
/// Clients that come, ask once and go, in one round.
const VISITS: usize = 400;
/// How many of them at a time.
const VISITORS: usize = 8;
/// Nodes that register at the same time, and how many records each.
const NODES: usize = 4;
const RECORDS: usize = 512;
/// Hosts over which the names are spread.
const HOSTS: usize = 100;

/// A real directory in a process of its own.
pub(crate) struct Site<'a> {
    ground: &'a Ground,
    name: String,
    names: usize,
    address: SocketAddr,
    process: Option<Process>,
}

fn host(number: usize) -> String {
    format!("node{:02}.fleet.example:6464", number % HOSTS)
}

/// A question about one of the first `names` names.
fn line(random: &mut Random, names: usize) -> String {
    format!("device{}\n", random.below(names as u64))
}

impl<'a> Site<'a> {
    /// A directory that knows so many names and does not run yet; how long their import took.
    pub(crate) fn prepare(ground: &'a Ground, names: usize) -> Result<(Self, Duration)> {
        let name = format!("directory-{names}");
        let site = Self { ground, name, names, address: free_address()?, process: None };
        let text = format!(
            "schema = 1\n[listen]\naddress = \"{}\"\nconnections = 15000\nconnections_per_source = 15000\n[tls]\ncert = {:?}\n\
             key = {:?}\n[[registrar]]\nkey = \"{}\"\natsigns = [\"@node*\"]\n",
            site.address,
            ground.authority.cert(),
            ground.authority.key(),
            key(REGISTRAR).public(),
        );
        std::fs::write(site.config(), text)?;
        let list = ground.folder.path().join(format!("{}.txt", site.name));
        let mut lines = String::new();
        for number in 0..names {
            writeln!(lines, "@device{number} {}", host(number))?;
        }
        std::fs::write(&list, lines)?;
        let began = Instant::now();
        let mut import = Command::new(program("atedge-directory")?);
        import.arg("import").arg(&list).arg("--json").arg("--state").arg(site.state());
        let output = import.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let took = began.elapsed();
        std::fs::remove_file(list)?;
        Ok((site, took))
    }

    /// The same, running.
    pub(crate) fn start(ground: &'a Ground, names: usize) -> Result<Self> {
        let (mut site, _) = Self::prepare(ground, names)?;
        site.run()?;
        Ok(site)
    }

    fn config(&self) -> PathBuf {
        self.ground.folder.path().join(format!("{}.toml", self.name))
    }

    fn state(&self) -> PathBuf {
        self.ground.folder.path().join(&self.name)
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(program("atedge-directory")?);
        command.arg("run").arg("--config").arg(self.config()).arg("--state").arg(self.state());
        Ok(command)
    }

    fn run(&mut self) -> Result<()> {
        let started = Process::start_ready(&self.name, &mut self.command()?, self.ground.folder.path())?;
        self.process = Some(started);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            let status = process.terminate()?;
            ensure!(status.success(), "{} ended with {status}", self.name);
        }
        Ok(())
    }

    fn id(&self) -> u32 {
        self.process.as_ref().map_or(0, Process::id)
    }

    pub(crate) async fn crowd(&self, size: usize) -> Result<Crowd> {
        let mut crowd = Crowd::default();
        for _ in 0..size {
            crowd.clients.push(Client::dial(self.address, &self.ground.tls).await?);
        }
        Ok(crowd)
    }

    /// What a look-up costs, in microseconds.
    pub(crate) async fn cost(&self, crowd: &mut Crowd, rounds: usize, window: usize) -> Result<f64> {
        let names = self.names;
        let many = (crowd.clients.len() * rounds * window) as f64;
        let asked = crowd.rush(rounds, window, move |random| line(random, names));
        Ok(spent(self.id(), asked).await? / many)
    }

    /// From the start of the process to the first answer, in milliseconds.
    async fn cold(&mut self) -> Result<f64> {
        let began = Instant::now();
        self.process = Some(Process::start(&self.name, &mut self.command()?, self.ground.folder.path())?);
        let mut client = start::dial(self.address, &self.ground.tls).await?;
        client.exchange("device0\n", 1).await?;
        let took = began.elapsed();
        drop(client);
        self.stop()?;
        Ok(took.as_secs_f64() * 1e3)
    }
}

/// The registrar's key, and the node's.
const REGISTRAR: u8 = 1;
const NODE: u8 = 2;

fn key(first: u8) -> Ed25519Secret {
    Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
}

/// A node's record of its atSign with this number.
fn record(number: usize, seq: u64) -> Result<SignedRecord> {
    let not_after = Timestamp::from(SystemTime::now() + Duration::from_hours(24));
    let grant = Grant::sign(&key(REGISTRAR), key(NODE).public(), vec!["@node*".parse()?], not_after);
    let at = Location { address: host(number).parse()?, quic: 6464, seq, not_after };
    Ok(SignedRecord::sign(&key(NODE), format!("@node{number}").parse()?, at, grant))
}

pub(crate) async fn run(long: bool) -> Result<Vec<Row>> {
    let names = if long { 1_000_000 } else { 100_000 };
    let ground = Ground::new()?;
    let (mut site, import) = Site::prepare(&ground, names)?;
    let mut rows = vec![start(&ground, &mut site, names, import).await?];
    site.run()?;
    rows.push(memory(&ground, &site, names)?);
    rows.extend(warm(&ground, &site, names).await?);
    rows.push(visits(&ground, &site, names).await?);
    rows.push(registrations(&ground, &site).await?);
    Ok(rows)
}

async fn start(ground: &Ground, site: &mut Site<'_>, names: usize, import: Duration) -> Result<Row> {
    let [pair] = in_turn(
        async || Ok([site.cold().await?]),
        async || {
            let began = Instant::now();
            let floor = Floor::launch(ground, "data:1")?;
            start::dial(floor.address, &ground.tls).await?.exchange("noop:0\n", 1).await?;
            Ok([began.elapsed().as_secs_f64() * 1e3])
        },
    )
    .await?;
    let what = format!("directory: start to first answer, {names} names");
    let row = Row::of("names", what, "ms", pair, Bar::AtMost(1_500.0));
    Ok(row.and("import, names/s", names as f64 / import.as_secs_f64()))
}

/// Resident memory that the names take, all in all.
fn memory(ground: &Ground, site: &Site<'_>, names: usize) -> Result<Row> {
    let empty = Site::start(ground, 0)?;
    let (empty, full) = (resident(empty.id())? as f64, resident(site.id())? as f64);
    let what = format!("directory: memory of a name, of {names}");
    let row = Row::alone("names", what, "B", (full - empty) / names as f64, Bar::AtMost(120.0));
    Ok(row.and("process, MB", full / 1e6))
}

async fn warm(ground: &Ground, site: &Site<'_>, names: usize) -> Result<Vec<Row>> {
    let floor = Floor::start(ground, &format!("{}\r", host(0)))?;
    let (mut ours, mut bare) = (site.crowd(CLIENTS).await?, floor.crowd(CLIENTS).await?);
    // The look-ups of a process, for a second of its processor time; those of the echo, one line a write.
    let rate = async |crowd: &mut Crowd, window: usize| {
        let rounds = (400 / window).max(20);
        anyhow::Ok([1e6 / site.cost(crowd, rounds, window).await?])
    };
    let mut echo = async |window: usize| {
        let rounds = (400 / window).max(20);
        let many = (CLIENTS * rounds * window) as f64;
        let cost = spent(floor.id(), bare.rush(rounds, window, move |random| line(random, names))).await?;
        anyhow::Ok([many / cost * 1e6])
    };
    let mut rows = Vec::new();
    for (what, window, of_echo, bar) in [
        ("directory: look-up", 1, 1, Bar::RatioAtLeast(0.8)),
        ("directory: 32 look-ups a write v echo of one", PIPELINED, 1, Bar::RatioAtLeast(4.0)),
        ("directory: 32 look-ups a write v echo of 32", PIPELINED, PIPELINED, Bar::None),
    ] {
        let [pair]: [Pair; 1] =
            in_turn(async || rate(&mut ours, window).await, async || echo(of_echo).await).await?;
        rows.push(Row::of("1", format!("{what}, {names} names"), "/cpu-s", pair, bar));
    }
    Ok(rows)
}

/// Clients that connect, ask once and go, against such as connect and go.
async fn visits(ground: &Ground, site: &Site<'_>, names: usize) -> Result<Row> {
    let floor = Floor::start(ground, "data:1")?;
    let rate = async |process: u32, address: SocketAddr, asks: bool| {
        let all = visit(address, &ground.tls, asks.then_some(names));
        anyhow::Ok([VISITS as f64 / spent(process, all).await? * 1e6])
    };
    let [pair] = in_turn(
        async || rate(site.id(), site.address, true).await,
        async || rate(floor.id(), floor.address, false).await,
    )
    .await?;
    let what = "directory: connect, ask, go v handshake";
    Ok(Row::of("2", what, "/cpu-s", pair, Bar::RatioAtLeast(0.85)))
}

async fn visit(address: SocketAddr, tls: &Arc<ClientConfig>, names: Option<usize>) -> Result<()> {
    let mut visitors = JoinSet::new();
    for number in 0..VISITORS {
        let tls = Arc::clone(tls);
        visitors.spawn(async move {
            let mut random = Random::new(number as u64);
            for _ in 0..VISITS / VISITORS {
                let mut client = Client::dial(address, &tls).await?;
                if let Some(names) = names {
                    client.exchange(&line(&mut random, names), 1).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = visitors.join_next().await {
        done??;
    }
    Ok(())
}

/// Nodes that register, many lines a write, against the two signatures of each record.
async fn registrations(ground: &Ground, site: &Site<'_>) -> Result<Row> {
    let mut tls = ClientConfig::clone(&ground.tls);
    tls.alpn_protocols = vec![EXTENDED.to_vec()];
    let tls = Arc::new(tls);
    let (mut seq, mut walls) = (0, Vec::new());
    let [pair] = in_turn(
        async || {
            seq += 1;
            let mut nodes = Vec::new();
            for number in 0..NODES {
                let records = (0..RECORDS).map(|n| Ok(registration(&record(number * RECORDS + n, seq)?)));
                let lines = records.collect::<Result<String>>()?;
                nodes.push((Client::dial(site.address, &tls).await?, lines));
            }
            let began = Instant::now();
            let all = async {
                let mut registering = JoinSet::new();
                for (mut node, lines) in nodes {
                    registering.spawn(async move { node.exchange(&lines, RECORDS).await });
                }
                while let Some(done) = registering.join_next().await {
                    done??;
                }
                Ok(())
            };
            let cost = spent(site.id(), all).await? / (NODES * RECORDS) as f64;
            walls.push((NODES * RECORDS) as f64 / began.elapsed().as_secs_f64());
            Ok([cost])
        },
        async || {
            let record = record(0, 1)?;
            let before = cpu_of_thread()?;
            for _ in 0..RECORDS {
                ensure!(record.is_signed() && record.grant.is_signed(), "a good record");
            }
            Ok([micros(cpu_of_thread()?.saturating_sub(before)) / RECORDS as f64])
        },
    )
    .await?;
    let what = format!("directory: registration, {NODES} nodes, durable, v its two signatures");
    Ok(Row::of("names", what, "us", pair, Bar::RatioAtMost(2.0)).and("registrations/s", median(&walls)))
}
