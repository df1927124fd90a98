//! Row 12: what the whole path of a reading takes, from the device to the reader's confirmation, in instructions of
//! user space and in system calls. The difference of two runs leaves out what is done once.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use atedge_tests::process::Process;
use atedge_tests::town::free_address;
use rustix::process::Signal;

use super::ingest::once;
use super::site::{BYTES, Crew, Site};
use crate::mqtt::{Mqtt, broker_command};
use crate::report::{Bar, Row, progress};

const DEVICES: usize = 16;
/// Readings of the two runs.
const RUNS: [usize; 2] = [2_000, 6_000];
/// Readings whose system calls are counted.
const TRACED: usize = 20_000;
/// Where callgrind says what it has counted.
const COUNTED: &str = "callgrind.log";

pub(super) async fn run() -> Result<Vec<Row>> {
    let (mut ours, mut peers) = ([0; 2], [0; 2]);
    for (place, many) in RUNS.into_iter().enumerate() {
        progress(format_args!("{many} readings under callgrind"));
        ours[place] = instructions(many).await?;
        peers[place] = instructions_of_mosquitto(many).await?;
    }
    let each = |[few, many]: [u64; 2]| many.saturating_sub(few) as f64 / (RUNS[1] - RUNS[0]) as f64;
    let calls = calls().await?;
    Ok(vec![
        Row::of("12", "whole path, instructions", "", once(each(ours), each(peers)), Bar::AtMost(26_000.0)),
        Row::alone("12", "whole path, system calls", "", calls, Bar::AtMost(0.2)),
    ])
}

/// Instructions of an agent from its start to its end, with so many readings between.
async fn instructions(many: usize) -> Result<u64> {
    let counts = tempfile::tempdir()?;
    let under = callgrind(counts.path());
    let under: Vec<&str> = under.iter().map(String::as_str).collect();
    let mut site = Site::under(&under)?;
    site.start().await?;
    let reader = site.reader()?;
    let mut crew = site.crew(DEVICES, BYTES).await?;
    crew.publish(many).await?;
    site.until_left(0).await?;
    drop(reader);
    drop(crew);
    site.gateway.stop()?;
    collected(counts.path())
}

/// Instructions of a broker that hands so many messages to a subscriber.
async fn instructions_of_mosquitto(many: usize) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let address = free_address()?;
    let more = format!(
        "persistence true\npersistence_location {}/\nautosave_interval 3600\n",
        folder.path().display()
    );
    let mut command = broker_command(
        folder.path(),
        "mosquitto",
        address,
        &more,
        &format!("exec {}", callgrind(folder.path()).join(" ")),
    )?;
    let broker = Process::start_ready("mosquitto", &mut command, folder.path())?;
    let mut subscriber = Mqtt::connect(address, "subscriber", false).await?;
    subscriber.subscribe("#").await?;
    let mut crew = Crew::of(vec![Mqtt::connect(address, "publisher", false).await?], 1, BYTES);
    tokio::try_join!(crew.publish(many), subscriber.absorb(many))?;
    broker.terminate()?;
    collected(folder.path())
}

/// The program that counts, which says at its end in this folder what it has counted.
fn callgrind(folder: &Path) -> [String; 4] {
    let log = format!("--log-file={}", folder.join(COUNTED).display());
    ["valgrind".into(), "--tool=callgrind".into(), "--callgrind-out-file=/dev/null".into(), log]
}

/// What it says.
fn collected(folder: &Path) -> Result<u64> {
    let log = std::fs::read_to_string(folder.join(COUNTED))
        .context("callgrind said nothing; is valgrind installed?")?;
    let said = log.lines().rev().find_map(|line| line.split_once("Collected : "));
    Ok(said.context("callgrind did not end")?.1.trim().parse()?)
}

/// System calls of the agent for each reading, with all of its threads.
async fn calls() -> Result<f64> {
    progress(format_args!("{TRACED} readings under strace"));
    let mut site = Site::new(false)?;
    site.start().await?;
    let _reader = site.reader()?;
    let mut crew = site.crew(DEVICES, BYTES).await?;
    let table = site.folder().join("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(&table).args(["-p", &site.agent()?.to_string()]);
    let mut strace = Process::start("strace", &mut command, site.folder()).context("strace is needed")?;
    let attached = format!("/proc/{}/status", site.agent()?);
    while std::fs::read_to_string(&attached)?.contains("TracerPid:\t0\n") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    crew.publish(TRACED).await?;
    site.until_left(0).await?;
    strace.signal(Signal::INT)?;
    strace.end()?;
    let text = std::fs::read_to_string(&table)?;
    let total = text.lines().rev().find(|line| line.ends_with(" total")).context("strace counted nothing")?;
    // Part of the time, seconds, microseconds each, calls; errors follow, where there were any.
    let calls: f64 = total.split_whitespace().nth(3).context("no count")?.parse()?;
    ensure!(calls > 0.0, "{text}");
    // For whoever wants to know which.
    progress(format_args!("{}", text.lines().take(12).collect::<Vec<_>>().join("\n")));
    Ok(calls / TRACED as f64)
}
