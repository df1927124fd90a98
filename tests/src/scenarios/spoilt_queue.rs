//! A gateway's files are damaged while nobody looks: its queue opens all the same, gives out no wrong reading, and what
//! it no longer has is reported. A damaged configuration or key may keep it from starting, with its reason.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use atedge_adapters::{Point, Value};
use atedge_agent::clock::Stamp;
use atedge_agent::outbox::{
    BatchLimit, Capture, Durability, Opened, Outbox, OutboxError, OutboxOptions, StreamPolicy,
};
use atedge_agent::payload::{Batch, ClockState};

use crate::gateway::{Gateway, READER, gateway_town};
use crate::process::run as run_program;
use crate::random::Random;
use crate::scenario::Run;
use crate::wound::{copy, wound};

const NOW: Stamp = Stamp { wall_us: 1_800_000_000_000_000, mono_us: 0, state: ClockState::Sync };
const DEVICES: [&str; 3] = ["a", "b", "c"];
/// Readings of each, over some hundred pages.
const READINGS: u64 = 400;
/// Large enough for all, small enough that one that does not read costs no other.
const SOME: BatchLimit = BatchLimit { records: 50, bytes: 64 << 10 };

/// One file after the other.
///
/// # Errors
/// A start was refused, a reading was wrong, or damage was not reported.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let rounds = if run.long { 1_000 } else { 100 };
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (closed, killed) = (run.subfolder("closed")?, run.subfolder("killed")?);
    runtime.block_on(fill(&closed, &killed))?;
    let mut random = run.random();
    let mut found = Findings::default();
    let at = run.subfolder("at")?;
    for good in [&closed, &killed] {
        copy(good, &at)?;
        let whole = runtime.block_on(look(&at))?;
        ensure!(whole.missing + whole.wrong == 0 && !whole.salvaged, "unharmed, it is taken for {whole:?}");
    }
    for round in 0..rounds {
        let good = if round % 2 == 0 { &closed } else { &killed };
        copy(good, &at)?;
        let files: Vec<&'static str> = ["outbox.db", "outbox.db", "outbox.db-wal", "seal.key"]
            .into_iter()
            .filter(|file| at.join(file).metadata().is_ok_and(|file| file.len() > 0))
            .collect();
        let file = files[random.place(files.len())];
        let what = wound(&at.join(file), &mut random)?;
        let looked = runtime.block_on(look(&at)).with_context(|| format!("round {round}, {file}, {what}"))?;
        found.count(file, &looked);
        if looked.is_silent() {
            run.progress(&format!("round {round}: {file}, {what}: {looked:?}"));
        }
    }
    run.note("files_damaged", rounds);
    run.note("salvaged", found.salvaged);
    run.note("files_and_records_lost", serde_json::to_value(&found.lost)?);
    run.note("wrong_readings", found.wrong);
    run.note("unreported", found.silent);
    ensure!(found.wrong == 0, "{} readings were wrong", found.wrong);
    ensure!(found.silent == 0, "of {} files the damage was not reported", found.silent);
    configuration(run, &mut random)
}

#[derive(Debug, Default)]
struct Findings {
    salvaged: u64,
    /// By file: how many there were, and how many records of 1200 each did not come.
    lost: BTreeMap<&'static str, (u64, u64)>,
    wrong: u64,
    silent: u64,
}

impl Findings {
    fn count(&mut self, file: &'static str, looked: &Look) {
        self.salvaged += u64::from(looked.salvaged);
        let (files, lost) = self.lost.entry(file).or_default();
        (*files, *lost) = (*files + 1, *lost + looked.missing);
        self.wrong += looked.wrong;
        self.silent += u64::from(looked.is_silent());
    }
}

/// What an outbox gave out.
#[derive(Debug, Default)]
struct Look {
    salvaged: bool,
    missing: u64,
    wrong: u64,
    /// Records that readers are told to have lost.
    told: u64,
}

impl Look {
    /// Whether something is missing and nobody knows.
    fn is_silent(&self) -> bool {
        self.missing > self.told && !self.salvaged
    }
}

fn options(folder: &Path) -> Result<OutboxOptions> {
    let policy =
        StreamPolicy { readers: [READER.parse()?].into(), receipts: true, ..StreamPolicy::default() };
    let streams = BTreeMap::from([("process".parse()?, policy)]);
    Ok(OutboxOptions { durability: Durability::None, ..OutboxOptions::new(folder, streams) })
}

/// The same queue twice: as an agent leaves it that ended well, and as one that was killed.
async fn fill(closed: &Path, killed: &Path) -> Result<()> {
    let Opened { outbox, thread, .. } = Outbox::open(options(closed)?, NOW)?;
    for n in 0..READINGS {
        for device in DEVICES {
            let text = value(device, n);
            let points = vec![Point { name: "v".parse()?, value: Value::Text(text), unit: None }];
            let (device, stream) = (device.parse()?, "process".parse()?);
            let capture = Capture {
                device,
                stream,
                taken: NOW,
                own_time_us: None,
                points,
                device_id: None,
                delivery: None,
            };
            outbox.append(Arc::new(capture)).await?;
        }
    }
    copy(closed, killed)?;
    drop(outbox);
    thread.join();
    Ok(())
}

fn value(device: &str, n: u64) -> String {
    format!("{device}-{n}-{}", "v".repeat(usize::try_from(n * 7 % 300).unwrap_or_default()))
}

/// Opens the queue, again where it finds itself damaged, and takes all that it gives.
async fn look(folder: &Path) -> Result<Look> {
    let mut looked = Look::default();
    for _ in 0..3 {
        let Opened { outbox, thread, salvaged, .. } =
            Outbox::open(options(folder)?, NOW).context("it does not open")?;
        looked.salvaged |= salvaged.is_some();
        let taken = take_all(&outbox, &mut looked).await;
        let failed = outbox.failed().is_cancelled();
        drop(outbox);
        thread.join();
        if taken.is_ok() && !failed {
            return Ok(looked);
        }
        looked = Look { salvaged: true, ..Look::default() };
    }
    anyhow::bail!("it was damaged still after it was mended")
}

async fn take_all(outbox: &Outbox, looked: &mut Look) -> Result<(), OutboxError> {
    let mut right = 0;
    for waiting in outbox.waiting().await? {
        let mut from = 1;
        while from <= waiting.last {
            let taken =
                outbox.take(waiting.key.clone(), Arc::clone(&waiting.lane), from, waiting.last, SOME).await?;
            let Some(parcel) = taken else { break };
            let Ok(batch) = Batch::from_json(parcel.json.as_bytes()) else {
                looked.wrong += 1;
                break;
            };
            for record in &batch.records {
                let device = batch.lane.device.as_str();
                let is_right = record.time_us == NOW.wall_us
                    && matches!(&record.points[0].value, Value::Text(text) if *text == value(device, record.seq - 1));
                looked.wrong += u64::from(!is_right);
                right += u64::from(is_right);
            }
            looked.told += batch.gaps.iter().map(|gap| gap.last - gap.first + 1).sum::<u64>();
            from = parcel.last + 1;
        }
    }
    looked.missing = (READINGS * DEVICES.len() as u64).saturating_sub(right);
    Ok(())
}

/// The agent's configuration and the keys of its atSign: it starts, or says what keeps it.
fn configuration(run: &mut Run, random: &mut Random) -> Result<()> {
    let rounds = if run.long { 100 } else { 20 };
    let town = gateway_town(&run.subfolder("town")?)?;
    let gateway = Gateway::new(&town, "")?;
    let (config, keys) = (town.folder.join("agent.toml"), town.keys(crate::gateway::GATEWAY));
    let mut refused = 0;
    for round in 0..rounds {
        let file = if round % 2 == 0 { &config } else { &keys };
        let good = std::fs::read(file)?;
        let what = wound(file, random)?;
        let checked = run_program("check", &mut gateway.check(), &town.folder)?;
        std::fs::write(file, good)?;
        let said = [checked.stdout, checked.stderr].concat();
        let panicked = String::from_utf8_lossy(&said).contains("panicked");
        ensure!(
            !panicked && checked.status.code().is_some(),
            "{}, {what}: {}",
            file.display(),
            checked.status
        );
        if !checked.status.success() {
            refused += 1;
            ensure!(!said.is_empty(), "{}, {what}: refused without a word", file.display());
        }
    }
    run.note("configurations_and_keys", rounds);
    run.note("refused_with_a_reason", refused);
    Ok(())
}
