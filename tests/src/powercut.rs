//! The power is cut under the outbox: at every write, with what was not synced dropped, reordered or torn.
//!
//! An outbox works on a disk that records what SQLite does to it. From the record, the files are made
//! that a power cut at some moment could have left; an outbox is opened on them and asked for everything
//! that was acknowledged before that moment.

mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use atedge_adapters::{Point, Value};
use atedge_agent::clock::Stamp;
use atedge_agent::outbox::{
    Appended, BatchLimit, Capture, Durability, Opened, Outbox, OutboxError, OutboxOptions, StreamPolicy,
    Waiting,
};
use atedge_agent::payload::{Batch, Boot, ClockState};

use crate::random::Random;
use crate::scenario::Run;
use disk::{Cut, Disk, Event, Platter};

/// Some time that can be believed, in microseconds since 1970.
const NOW: Stamp = Stamp { wall_us: 1_800_000_000_000_000, mono_us: 0, state: ClockState::Sync };
/// Groups of appends in each life of the outbox, and its clock, which is set at the end. The last is long enough for
/// SQLite to move its log into the database and begin it anew.
const LIVES: [(u64, ClockState); 3] =
    [(15, ClockState::Sync), (25, ClockState::Free), (200, ClockState::Sync)];
/// The only reader.
const READER: &str = "@ops";
const BOUNDLESS: BatchLimit = BatchLimit { records: usize::MAX, bytes: usize::MAX };

/// What the outbox told its user.
#[derive(Debug, Clone)]
enum Told {
    /// It is open, with this epoch.
    Opened(u64),
    /// A value is kept under this id.
    Kept(Id, u64),
    /// The user is about to say that its reader has a lane up to a number.
    Confirming(Boot, String, u64),
    /// The user is about to give up a lane's numbers from one to another: a gap is owed for them.
    GivingUp(Boot, String, u64, u64),
}

/// Boot, device, number.
type Id = (Boot, String, u64);

/// What the exam found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Findings {
    /// Moments at which the power could be cut.
    pub moments: u64,
    /// How often SQLite had moved its log into the database and began it anew.
    pub log_restarts: u64,
    /// States of the disk that were tried.
    pub states: u64,
    /// Of them, those from which the outbox did not open as it was.
    pub unopened: u64,
    /// Those in which something acknowledged was missing or another.
    pub lost: u64,
    /// Those in which an id or an epoch was given again.
    pub reused: u64,
}

impl Findings {
    /// Whether every state was as promised.
    #[must_use]
    pub fn is_clean(self) -> bool {
        self.unopened + self.lost + self.reused == 0
    }
}

/// The scenario: as built, nothing is lost; with syncing off, the exam sees it.
///
/// # Errors
/// A promise is broken, or the exam cannot tell.
pub fn run(run: &mut Run) -> Result<()> {
    let states = if run.long { 100_000 } else { 1_500 };
    let built = exam(run.seed, states, Durability::Full, &run.subfolder("built")?)?;
    run.note("moments", built.moments);
    run.note("log_restarts", built.log_restarts);
    run.note("states", built.states);
    run.note("unopened", built.unopened);
    run.note("lost", built.lost);
    run.note("reused", built.reused);
    let off = exam(run.seed, 60, Durability::None, &run.subfolder("off")?)?;
    run.note("states_without_sync", off.states);
    run.note("broken_without_sync", off.unopened + off.lost + off.reused);
    ensure!(built.is_clean(), "a power cut breaks the outbox: {built:?}");
    ensure!(!off.is_clean(), "the exam does not notice that syncing is off");
    Ok(())
}

/// Tries `states` states of the disk, of an outbox with `durability`; `folder` is for its files.
///
/// # Errors
/// The outbox cannot be worked with at all.
pub fn exam(seed: u64, states: u64, durability: Durability, folder: &Path) -> Result<Findings> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let events = record(seed, durability, folder).await?;
        try_states(seed, states, &events, folder).await
    })
}

fn options(folder: &Path, durability: Durability) -> Result<OutboxOptions> {
    let policy =
        StreamPolicy { readers: [READER.parse()?].into(), receipts: true, ..StreamPolicy::default() };
    let streams = BTreeMap::from([("process".parse()?, policy)]);
    Ok(OutboxOptions { durability, ..OutboxOptions::new(folder, streams) })
}

fn capture(device: &str, value: u64, size: usize) -> Result<Arc<Capture>> {
    let text = format!("{value:>size$}");
    Ok(Arc::new(Capture {
        device: device.parse()?,
        stream: "process".parse()?,
        taken: NOW,
        own_time_us: None,
        points: vec![Point { name: "v".parse()?, value: Value::Text(text), unit: None }],
        device_id: Some(value.to_string()),
        delivery: None,
    }))
}

/// The lives of an outbox, as its disk saw them.
async fn record(seed: u64, durability: Durability, folder: &Path) -> Result<Vec<Event<Told>>> {
    static EXAMS: AtomicU64 = AtomicU64::new(0);
    let vfs = format!("powercut-{}", EXAMS.fetch_add(1, Ordering::Relaxed));
    let disk: Disk<Told> = Disk::register(&vfs, seed)?;
    let mut random = Random::new(seed);
    let mut value = 0;
    for (groups, clock) in LIVES {
        let options = OutboxOptions { vfs: Some(vfs.clone()), ..options(folder, durability)? };
        let Opened { outbox, thread, .. } = Outbox::open(options, NOW)?;
        disk.note(Told::Opened(outbox.boot().epoch()));
        for _ in 0..groups {
            let mut group = Vec::new();
            for _ in 0..=random.below(4) {
                value += 1;
                let device = format!("d{}", random.below(3));
                let size = 8 + random.place(1500);
                let taken = Stamp { state: clock, ..NOW };
                let capture = Capture { taken, ..Arc::unwrap_or_clone(capture(&device, value, size)?) };
                let appending = outbox.submit(Arc::new(capture)).await?;
                group.push((device, value, appending));
            }
            for (device, value, appending) in group {
                match appending.await? {
                    Appended::New { lane, seq } => disk.note(Told::Kept((lane.boot, device, seq), value)),
                    other @ (Appended::Repeated | Appended::Dropped) => {
                        anyhow::bail!("{other:?}, of what was new and had room")
                    }
                }
            }
            match random.below(8) {
                0 | 1 => confirm_some(&outbox, &disk, &mut random).await?,
                2 => give_up_some(&outbox, &disk, &mut random).await?,
                // Forgets what nothing needs any more.
                3 => drop(outbox.expire(NOW).await?),
                _ => {}
            }
        }
        outbox.synchronised(NOW).await?;
        drop(outbox);
        thread.join();
    }
    Ok(disk.take_events())
}

/// A reader confirms a part of what one lane holds.
async fn confirm_some(outbox: &Outbox, disk: &Disk<Told>, random: &mut Random) -> Result<()> {
    let waiting = outbox.waiting().await?;
    if waiting.is_empty() {
        return Ok(());
    }
    let Waiting { key, lane, upto, last } = waiting[random.place(waiting.len())].clone();
    let upto = upto + random.below(last - upto + 1);
    disk.note(Told::Confirming(lane.boot, lane.device.to_string(), upto));
    Ok(outbox.confirm(key, upto).await?)
}

/// A reader's server refuses a part of what one lane holds for good.
async fn give_up_some(outbox: &Outbox, disk: &Disk<Told>, random: &mut Random) -> Result<()> {
    let waiting = outbox.waiting().await?;
    if waiting.is_empty() {
        return Ok(());
    }
    let Waiting { key, lane, upto, last } = waiting[random.place(waiting.len())].clone();
    let first = upto + 1 + random.below(last - upto);
    let last = last.min(first + random.below(3));
    disk.note(Told::GivingUp(lane.boot, lane.device.to_string(), first, last));
    outbox.set_aside(key, first, last, "no".to_owned()).await?;
    Ok(())
}

/// What the user knows at some moment.
#[derive(Debug, Default)]
struct Known {
    epoch: u64,
    kept: BTreeMap<Id, u64>,
    /// Up to where each lane may be gone.
    confirmed: BTreeMap<(Boot, String), u64>,
    /// Numbers that may be a gap.
    given_up: BTreeSet<Id>,
}

impl Known {
    fn learn(&mut self, told: &Told) {
        match told {
            Told::Opened(epoch) => self.epoch = *epoch,
            Told::Kept(id, value) => {
                self.kept.insert(id.clone(), *value);
            }
            Told::GivingUp(boot, device, first, last) => {
                self.given_up.extend((*first..=*last).map(|seq| (*boot, device.clone(), seq)));
            }
            Told::Confirming(boot, device, upto) => {
                let reached = self.confirmed.entry((*boot, device.clone())).or_default();
                *reached = (*reached).max(*upto);
            }
        }
    }

    /// Whether everything that must be there is, as it was told: as a record, or where it was given up, as a gap.
    fn is_there(&self, found: &BTreeMap<Id, u64>, gaps: &BTreeSet<Id>) -> bool {
        self.kept.iter().all(|(id, value)| {
            let (boot, device, seq) = id;
            let gone = self.confirmed.get(&(*boot, device.clone())).is_some_and(|upto| seq <= upto);
            let is_told = self.given_up.contains(id) && gaps.contains(id);
            found.get(id).map_or(gone || is_told, |there| there == value)
        }) && gaps.is_subset(&self.given_up)
    }
}

/// Cuts the power at moments spread over the whole record.
async fn try_states(seed: u64, states: u64, events: &[Event<Told>], folder: &Path) -> Result<Findings> {
    let mut random = Random::new(seed ^ 0x5a5a);
    let mut platter = Platter::default();
    let mut known = Known::default();
    let moments = events.len() as u64;
    let begins_log =
        |event: &&Event<Told>| matches!(event, Event::Write(name, 0, _) if name.ends_with("-wal"));
    let log_restarts = events.iter().filter(begins_log).count() as u64;
    let mut findings = Findings { moments, log_restarts, ..Findings::default() };
    for (moment, event) in (1..).zip(events) {
        platter.apply(event);
        if let Event::Note(told) = event {
            known.learn(told);
        }
        // As many as are due by now, so that all moments get their share.
        while findings.states < states * moment / moments {
            let how = match random.below(6) {
                0 => Cut::Drop,
                1 => Cut::Keep,
                2 | 3 => Cut::Tear(512),
                _ => Cut::Tear(4096),
            };
            lay_out(&platter.cut(how, &mut random), folder)?;
            findings.states += 1;
            match look(&known, folder).await? {
                Look::Unopened => findings.unopened += 1,
                Look::Lost => findings.lost += 1,
                Look::Reused => findings.reused += 1,
                Look::AsPromised => {}
            }
        }
    }
    Ok(findings)
}

/// Puts the files of a state into `folder`, beside the seal key, which the cut does not reach.
fn lay_out(files: &BTreeMap<&str, Vec<u8>>, folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name != "seal.key") {
            std::fs::remove_file(path)?;
        }
    }
    for (name, bytes) in files {
        let name = PathBuf::from(name);
        std::fs::write(folder.join(name.file_name().context("a file has a name")?), bytes)?;
    }
    Ok(())
}

enum Look {
    AsPromised,
    Unopened,
    Lost,
    Reused,
}

/// Opens what is in `folder` and compares it with what its user knows.
async fn look(known: &Known, folder: &Path) -> Result<Look> {
    // Nobody cuts the power while we look.
    let Ok(opened) = Outbox::open(options(folder, Durability::None)?, NOW) else {
        return Ok(Look::Unopened);
    };
    let Opened { outbox, thread, salvaged, .. } = opened;
    let looked = match salvaged {
        Some(_) => Ok(Look::Unopened),
        None => compare(known, &outbox).await,
    };
    let looked = match looked {
        // It came up, and then found that it could not go on.
        Err(error) if error.is::<OutboxError>() => Ok(Look::Unopened),
        looked => looked,
    };
    // Its files are its thread's until that has ended.
    drop(outbox);
    thread.join();
    looked
}

async fn compare(known: &Known, outbox: &Outbox) -> Result<Look> {
    let mut found: BTreeMap<Id, u64> = BTreeMap::new();
    let mut values: BTreeSet<u64> = BTreeSet::new();
    let mut gaps: BTreeSet<Id> = BTreeSet::new();
    for Waiting { key, lane, last, .. } in outbox.waiting().await? {
        let mut from = 1;
        // Times that are right and others do not travel together.
        while let Some(parcel) = outbox.take(key.clone(), Arc::clone(&lane), from, last, BOUNDLESS).await? {
            from = parcel.last + 1;
            let batch = Batch::from_json(parcel.json.as_bytes())?;
            for gap in &batch.gaps {
                gaps.extend((gap.first..=gap.last).map(|seq| (lane.boot, lane.device.to_string(), seq)));
            }
            for record in batch.records {
                // What tells of a right clock is nobody's reading.
                let Some(Point { value: Value::Text(text), .. }) = record.points.first() else { continue };
                let value = text.trim_start().parse()?;
                if !values.insert(value) {
                    return Ok(Look::Reused);
                }
                found.insert((lane.boot, lane.device.to_string(), record.seq), value);
            }
        }
    }
    if !known.is_there(&found, &gaps) {
        return Ok(Look::Lost);
    }
    let epoch_grew = outbox.boot().epoch() > known.epoch;
    let Appended::New { lane, seq } = outbox.append(capture("d0", u64::MAX, 8)?).await? else {
        return Ok(Look::Reused);
    };
    let id = (lane.boot, lane.device.to_string(), seq);
    Ok(if epoch_grew && !known.kept.contains_key(&id) { Look::AsPromised } else { Look::Reused })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_loses_nothing_that_was_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let findings = exam(1, 60, Durability::Full, folder.path()).unwrap();
        assert!(findings.is_clean(), "{findings:?}");
        assert_eq!(findings.states, 60);
        assert!(findings.log_restarts > LIVES.len() as u64, "{findings:?}");
    }

    #[test]
    fn without_syncing_the_exam_sees_losses() {
        let folder = tempfile::tempdir().unwrap();
        let findings = exam(1, 20, Durability::None, folder.path()).unwrap();
        assert!(findings.lost > 0, "{findings:?}");
    }
}
