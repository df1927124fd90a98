//! A day without a link: what has piled up drains at its rate, in order, while what is new goes past it; and a start
//! does not wait for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::gateway::{Gateway, READER, gateway_town};
use crate::process::PATIENCE;
use crate::queue::{Listener, lost, unconfirmed, until};
use crate::scenario::Run;

/// Devices that had much to say.
const DEVICES: u64 = 20;
/// Readings of them all: more than a day of one a second.
const READINGS: u64 = 100_000;
/// What may drain in a second, in bytes.
const RATE: f64 = 1_048_576.0;
/// Bytes of one of those readings in a batch, about.
const EACH: f64 = 53.0;
/// How late what is new may be, in seconds.
const LATE: f64 = 2.0;
/// Between two looks at a file: nobody tells when it is written.
const LOOK: Duration = Duration::from_millis(50);
/// How soon after the start of the agent a device is read.
const SOON: Duration = Duration::from_secs(1);

/// See above.
///
/// # Errors
/// Something is lost, late, out of order, or faster than it may be.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut town = gateway_town(&run.folder)?;
    town.nodes[0].kill()?;
    let (state, said) = (town.folder.join("agent"), town.folder.join("said"));
    let first = town.folder.join("first");
    let mut gateway = Gateway::new(&town, &tables(&said, &first))?;
    gateway.start()?;
    until(&state, "backlog", |stat| unconfirmed(stat, "process", READER) == READINGS)?;

    // The next start finds all of it, and reads devices at once.
    written(&first)?;
    gateway.kill()?;
    std::fs::remove_file(&first)?;
    let spawned = now()?;
    gateway.start()?;
    let began: f64 = written(&first)?.parse()?;
    run.note("first_reading_after_ms", ((began - spawned) * 1000.0).round());
    ensure!(began - spawned < SOON.as_secs_f64(), "the first reading came after {} s", began - spawned);

    let mut reader = Listener::start_without_link(&town, READER)?;
    town.nodes[0].start()?;
    let mended = now()?;
    let (mut latest, mut started, mut ended) = (0.0f64, None, Instant::now());
    let mut lags = Vec::new();
    let mut next: BTreeMap<String, f64> = BTreeMap::new();
    let mut seen = 0;
    while seen < READINGS {
        let line = reader.next(PATIENCE)?.with_context(|| format!("only {seen} of {READINGS}"))?;
        if line["stream"] == "process" {
            started.get_or_insert_with(Instant::now);
            ended = Instant::now();
            in_order(&mut next, &line)?;
            seen += 1;
        } else if let Some(at) = line["points"]["at"].as_f64().map(|ms| ms / 1000.0)
            && at > mended + LATE
        {
            // Not those that waited until the session was there.
            let lag = now()? - at;
            latest = latest.max(lag);
            lags.push(lag);
        }
    }
    let took = ended.duration_since(started.context("nothing drained")?).as_secs_f64();
    let rate = READINGS as f64 * EACH / took;
    lags.sort_by(f64::total_cmp);
    run.note("drained_in_s", (took * 10.0).round() / 10.0);
    run.note("rate_of_what_it_may", (rate / RATE * 100.0).round() / 100.0);
    run.note("live_readings", lags.len() as u64);
    run.note("live_p50_ms", (lags.get(lags.len() / 2).copied().unwrap_or(0.0) * 1000.0).round());
    run.note("live_most_ms", (latest * 1000.0).round());
    ensure!((0.5..1.2).contains(&(rate / RATE)), "it drained at {rate:.0} bytes/s, and may at {RATE:.0}");
    ensure!(lags.len() > 20, "only {} live readings came meanwhile", lags.len());
    ensure!(latest < LATE, "a live reading was {latest:.1} s late");
    let stat = until(&state, "empty queue", |stat| unconfirmed(stat, "process", READER) == 0)?;
    ensure!(lost(&stat, "process", READER).is_empty() && lost(&stat, "live", READER).is_empty(), "{stat}");
    gateway.stop()
}

/// The readings of each device come with numbers that grow.
fn in_order(next: &mut BTreeMap<String, f64>, line: &Value) -> Result<()> {
    let device = line["device"].as_str().context("a device")?.to_owned();
    let n = line["points"]["n"].as_f64().context("a number")?;
    let before = next.insert(device, n);
    ensure!(before.is_none_or(|before| before < n), "{line} came after {before:?}");
    Ok(())
}

/// What a device writes into a file when it is first read.
fn written(path: &Path) -> Result<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return Ok(text.trim().to_owned()),
            _ if Instant::now() > end => bail!("{} is not written", path.display()),
            _ => std::thread::sleep(LOOK),
        }
    }
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// Devices that say all they have once, for as many lives of the agent as there are; and one that says what time it
/// is, ten times a second.
fn tables(said: &Path, first: &Path) -> String {
    let history = format!(
        "[ -e {0} ] || {{ touch {0}; seq 1 {READINGS} | awk '{{print \\\"{{\\\\\\\"d\\\\\\\":\\\\\\\"d\\\" $1%{DEVICES} \
         \\\"\\\\\\\",\\\\\\\"n\\\\\\\":\\\" $1 \\\"}}\\\"}}'; }}; exec sleep infinity",
        said.display()
    );
    let live = format!(
        "date +%s.%N > {}; while :; do echo \\\"{{\\\\\\\"at\\\\\\\":$(date +%s%3N)}}\\\"; sleep 0.1; done",
        first.display()
    );
    format!(
        "[stream.live]\nto = [\"{READER}\"]\nrequire = [\"receipts\"]\npriority = 0\nbatch = {{ linger = \"50ms\" }}\n\
         [outbox]\ndrain = {{ rate = \"1MiB/s\" }}\n\
         [adapter.history]\ntype = \"process\"\ncommand = [\"/bin/sh\", \"-c\", \"{history}\"]\ndevice = {{ from = \
         \"/d\" }}\npick = {{ n = \"/n\" }}\nstream = \"process\"\n\
         [adapter.live]\ntype = \"process\"\ncommand = [\"/bin/sh\", \"-c\", \"{live}\"]\ndevice = \"live\"\nstream = \
         \"live\"\n"
    )
}
