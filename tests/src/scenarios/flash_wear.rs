//! How much a gateway's queue writes to its disk, and how often it has it synced: at once for every reading, or a little
//! later for many, as `spare_flash` says; and nothing at all when nothing comes.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::broker::Broker;
use crate::gateway::{CLIENT, Gateway, Reader, gateway_town, mqtt_tables};
use crate::plant::publish;
use crate::process::{PATIENCE, Process};
use crate::publisher::Publisher;
use crate::scenario::Run;

/// Readings that come at once, and how often: 500 in a second.
const BURST: u64 = 20;
const EVERY: Duration = Duration::from_millis(40);
/// How long idleness is watched at a time: twice that is longer than from one ping to the next.
const IDLE: Duration = Duration::from_secs(3);
/// Most syncs in a second with 50 ms, of writing and of moving the log into the database now and then.
const SYNCS: f64 = 20.0;

/// At once, and with 50 ms.
///
/// # Errors
/// It has more synced than it may.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let at_once = wear(run, "0ms")?;
    let spared = wear(run, "50ms")?;
    ensure!(spared <= SYNCS, "{spared:.1} syncs in a second, over {SYNCS}");
    ensure!(
        at_once > spared,
        "with no time to spare it syncs {at_once:.1} times in a second: nothing was measured"
    );
    Ok(())
}

/// Gives the syncs in a second.
fn wear(run: &mut Run, spare: &str) -> Result<f64> {
    let town = gateway_town(&run.subfolder(spare)?)?;
    let mut broker = Broker::start(&town.folder, CLIENT)?;
    let settings = format!("[outbox]\nspare_flash = \"{spare}\"\n");
    let tables = mqtt_tables(&broker.address).replacen("version", "keep_alive = \"5s\"\nversion", 1);
    let mut gateway = Gateway::new(&town, &(tables + &settings))?;
    gateway.start()?;
    broker.until("the agent's subscription", |view| view.subscribed)?;
    let mut reader = Reader::start(&town)?;
    let mut devices = Publisher::connect(broker.address, "devices")?;
    let (mut published, seconds) = (0, if run.long { 60 } else { 4 });
    let syncs = Syncs::watch(&gateway)?;
    let (since, before) = (Instant::now(), written(&gateway)?);
    while since.elapsed() < Duration::from_secs(seconds) {
        publish(&mut devices, &mut published, BURST)?;
        sleep(EVERY);
    }
    broker.until("all acknowledgements", |view| view.acknowledged().len() as u64 >= published)?;
    let (took, bytes) = (since.elapsed().as_secs_f64(), written(&gateway)? - before);
    let per_second = f64::from(syncs.count()?) / took;
    let payload: u64 = (0..published).map(|n| format!("{{\"n\":{n},\"seq\":{n}}}").len() as u64).sum();

    // When the reader has all there is nothing left to do.
    while gateway.unconfirmed()? > 0 {
        reader.until(Duration::from_millis(500), |_| false)?;
    }
    // The broker's next answer to a ping settles the last deliveries.
    let (since, mut quiet) = (Instant::now(), 0);
    while quiet < 2 {
        ensure!(since.elapsed() < PATIENCE, "it never comes to rest");
        quiet = if watch_idle(&gateway)? == (0, 0) { quiet + 1 } else { 0 };
    }
    let (idle, idle_bytes) = watch_idle(&gateway)?;
    run.note(
        &format!("spare_{spare}"),
        serde_json::json!({
            "readings_per_second": (published as f64 / took).round(), "syncs_per_second": (per_second * 10.0).round() / 10.0,
            "bytes_per_reading": bytes / published, "payload_bytes_per_reading": payload / published,
            "syncs_when_idle": idle, "bytes_when_idle": idle_bytes,
        }),
    );
    ensure!(idle == 0, "{idle} syncs while nothing came");
    Ok(per_second)
}

/// How often it syncs for a while, and how many bytes it writes.
fn watch_idle(gateway: &Gateway) -> Result<(u32, u64)> {
    let (syncs, before) = (Syncs::watch(gateway)?, written(gateway)?);
    sleep(IDLE);
    Ok((syncs.count()?, written(gateway)? - before))
}

/// Bytes that the agent has had written to disks.
fn written(gateway: &Gateway) -> Result<u64> {
    let counted = std::fs::read_to_string(format!("/proc/{}/io", gateway.process()?.id()))?;
    let line = counted.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("write_bytes")?;
    Ok(line.parse()?)
}

/// Counts how often a program has something synced.
struct Syncs {
    strace: Process,
    trace: std::path::PathBuf,
}

impl Syncs {
    fn watch(gateway: &Gateway) -> Result<Self> {
        let folder = gateway.state();
        let folder = folder.parent().context("a folder of the town's")?;
        let trace = folder.join("syncs");
        let log = folder.join("strace.log");
        if log.exists() {
            std::fs::remove_file(&log)?;
        }
        let mut command = Command::new("strace");
        command.args(["-f", "-e", "trace=fdatasync,fsync", "-o"]).arg(&trace);
        command.args(["-p", &gateway.process()?.id().to_string()]);
        let strace = Process::start("strace", &mut command, folder)
            .context("strace is needed: apt-get install strace")?;
        let since = Instant::now();
        while !std::fs::read_to_string(&log)?.contains("attached") {
            ensure!(since.elapsed() < PATIENCE, "strace does not attach");
            sleep(Duration::from_millis(10));
        }
        Ok(Self { strace, trace })
    }

    fn count(self) -> Result<u32> {
        self.strace.terminate()?;
        let said = std::fs::read_to_string(&self.trace)?;
        Ok(u32::try_from(said.lines().filter(|line| line.contains("sync(")).count())?)
    }
}
