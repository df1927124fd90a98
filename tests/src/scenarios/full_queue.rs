//! The queue fills up without a link: each way to make room does what its name says, every loss is known to the
//! reader once the link is back, the disk keeps what must stay free, and what is most important gets in.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::statvfs;

use crate::gateway::{Gateway, READER, gateway_town};
use crate::process::{PATIENCE, program};
use crate::queue::{Listener, lost, stat, stat_by, unconfirmed, until, until_by};
use crate::scenario::Run;
use crate::small_disk;
use crate::town::Town;

/// What the queue may hold, as `max`.
const CAP: u64 = 16 << 20;
/// Readings of one device: some twice as many as fit.
const READINGS: u64 = 400_000;
/// Records that may be on their way to the server: batches of 100, a few at once.
const ON_THE_WAY: u64 = 1_600;
/// Readings that come when the queue is full already, of priority 0.
const ALARMS: u64 = 50;

/// One way after the other.
///
/// # Errors
/// One of them did something else.
pub(super) fn run(run: &mut Run) -> Result<()> {
    min_free(run)?;
    block(run)?;
    drop_oldest(run)?;
    thin(run)
}

/// A gateway without a link, with two devices that programs speak for.
struct Cut {
    town: Town,
    gateway: Gateway,
    state: PathBuf,
    alarms: PathBuf,
}

impl Cut {
    /// Starts it, with these further settings. `script` runs the agent in place of itself.
    fn start(run: &Run, name: &str, settings: &str, disk: Option<&str>) -> Result<Self> {
        let mut town = gateway_town(&run.subfolder(name)?)?;
        town.nodes[0].kill()?;
        let (state, alarms) = (town.folder.join("agent"), town.folder.join("alarms"));
        let tables = tables(&alarms, settings);
        let mut gateway = match disk {
            None => Gateway::new(&town, &tables)?,
            Some(size) => {
                let script = small_disk::script(&town.folder, "atedge-agent", &state, size)?;
                Gateway::with_program(vec![script], &town, &tables)?
            }
        };
        gateway.start()?;
        Ok(Self { town, gateway, state, alarms })
    }

    /// The alarms come; all of them are kept.
    fn alarm(&self) -> Result<()> {
        let lines: String = (1..=ALARMS).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        std::fs::write(&self.alarms, lines)?;
        let all = |stat: &_| unconfirmed(stat, "alarm", READER) == ALARMS;
        let stat = until(&self.state, "alarms", all)?;
        ensure!(lost(&stat, "alarm", READER).is_empty(), "alarms were lost: {stat}");
        Ok(())
    }

    /// The link comes back: the reader gets what is there, or is told of its loss, `all` in all.
    fn mend(mut self, all: u64) -> Result<Listener> {
        self.town.nodes[0].start()?;
        let mut reader = Listener::start(&self.town, READER)?;
        let whole = |reader: &Listener| {
            let sum = |(records, lost): (u64, u64)| records + lost;
            sum(reader.accounted("log")) >= all && sum(reader.accounted("alarm")) >= ALARMS
        };
        ensure!(reader.until(PATIENCE, whole)?, "only {:?} of {all}", reader.accounted("log"));
        until(&self.state, "empty queue", |stat| unconfirmed(stat, "log", READER) == 0)?;
        ensure!(reader.accounted("log").0 + reader.accounted("log").1 == all);
        ensure!(reader.accounted("alarm") == (ALARMS, 0), "alarms were lost");
        let numbers: Vec<f64> =
            reader.records["log"].iter().filter_map(|line| line["points"]["n"].as_f64()).collect();
        ensure!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "out of order");
        self.gateway.stop()?;
        Ok(reader)
    }
}

/// A device that says all it has at once, and one that waits for a file with alarms.
fn tables(alarms: &Path, settings: &str) -> String {
    let counter = format!("seq -f '{{\\\"n\\\":%.0f}}' 1 {READINGS}; exec sleep infinity");
    let alarm =
        format!("until [ -s {0} ]; do sleep 0.1; done; cat {0}; exec sleep infinity", alarms.display());
    format!(
        "[stream.log]\nto = [\"{READER}\"]\nrequire = [\"receipts\"]\n[stream.alarm]\nto = [\"{READER}\"]\nrequire = [\"receipts\"]\npriority = 0\nfull = [\"thin\", \"drop-oldest\"]\n\
         [adapter.counter]\ntype = \"process\"\ncommand = [\"/bin/sh\", \"-c\", \"{counter}\"]\ndevice = \
         \"counter\"\nstream = \"log\"\n[adapter.bell]\ntype = \"process\"\ncommand = [\"/bin/sh\", \"-c\", \
         \"{alarm}\"]\ndevice = \"bell\"\nstream = \"alarm\"\n[outbox]\n{settings}\n"
    )
}

fn block(run: &mut Run) -> Result<()> {
    run.progress("block");
    let settings = "max = \"16MiB\"\nmin_free = \"0%\"\nreserve = { 0 = \"1MiB\" }\nfull = [\"block\"]";
    let cut = Cut::start(run, "block", settings, None)?;
    let full = until(&cut.state, "full queue", |stat| stat["bytes"].as_u64() >= Some(CAP - (1 << 20)))?;
    cut.alarm()?;
    let later = stat(&cut.state)?;
    let kept = unconfirmed(&later, "log", READER);
    ensure!(kept < READINGS && kept == unconfirmed(&full, "log", READER), "a full queue took more");
    run.note("block_kept", kept);
    let reader = cut.mend(READINGS)?;
    ensure!(reader.accounted("log") == (READINGS, 0), "something was lost though it blocks");
    Ok(())
}

fn drop_oldest(run: &mut Run) -> Result<()> {
    run.progress("drop-oldest");
    let settings = "max = \"16MiB\"\nmin_free = \"0%\"\nfull = [\"expire\", \"drop-oldest\"]";
    let cut = Cut::start(run, "drop-oldest", settings, None)?;
    let full = until(&cut.state, "readings", |stat| unconfirmed(stat, "log", READER) == READINGS)?;
    cut.alarm()?;
    ensure!(full["bytes"].as_u64() <= Some(CAP + (256 << 10)), "larger than its cap: {full}");
    let dropped = lost(&stat(&cut.state)?, "log", READER);
    ensure!(dropped.keys().eq(["full"]) && dropped["full"] > READINGS / 4, "dropped {dropped:?}");
    run.note("dropped", dropped["full"]);
    let reader = cut.mend(READINGS)?;
    // A batch that was on its way when its records were dropped may arrive after all: data wins over a gap.
    let (known, dropped) = (reader.lost["log"]["full"], dropped["full"]);
    ensure!(known <= dropped && dropped - known <= ON_THE_WAY, "the reader knows of {known} of {dropped}");
    let numbers = reader.records["log"].iter().filter_map(|line| line["seq"].as_u64());
    let first = numbers.clone().find(|seq| *seq > ON_THE_WAY);
    ensure!(first == Some(dropped + 1), "after those that went comes {first:?}, not {}", dropped + 1);
    Ok(())
}

fn thin(run: &mut Run) -> Result<()> {
    run.progress("thin");
    let settings = "max = \"16MiB\"\nmin_free = \"0%\"\nfull = [\"thin\", \"block\"]\n\
                    thin = { after = \"500ms\", to = \"100ms\", with = [\"min\", \"max\"] }";
    let cut = Cut::start(run, "thin", settings, None)?;
    until(&cut.state, "readings", |stat| unconfirmed(stat, "log", READER) == READINGS)?;
    cut.alarm()?;
    let thinned = lost(&stat(&cut.state)?, "log", READER);
    ensure!(thinned.keys().eq(["thinned"]), "lost {thinned:?}");
    run.note("thinned", thinned["thinned"]);
    let reader = cut.mend(READINGS)?;
    ensure!(reader.lost["log"] == thinned, "the reader knows of {:?}", reader.lost);
    // A summary stands for all between it and the one before: nothing lies outside of least and greatest.
    let mut next = 1.0;
    for line in &reader.records["log"] {
        let points = &line["points"];
        let (least, most) = match points["n"].as_f64() {
            Some(n) => (n, n),
            None => points["n_min"].as_f64().zip(points["n_max"].as_f64()).context("no summary")?,
        };
        ensure!((least, most).eq(&(next, most)) && most >= least, "{line} does not follow {next}");
        next = most + 1.0;
    }
    ensure!(next == READINGS as f64 + 1.0, "the last is {next}");
    Ok(())
}

fn min_free(run: &mut Run) -> Result<()> {
    run.progress("min_free");
    let settings = "max = \"1GiB\"\nmin_free = \"50%\"\nfull = [\"drop-oldest\"]";
    let cut = Cut::start(run, "min-free", settings, Some("48m")).context("no small disk; this needs root")?;
    let id = cut.gateway.process()?.id();
    let disk = small_disk::seen_by(id, &cut.state);
    let look = || {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &id.to_string(), "--mount"]).arg(program("atedge-agent")?);
        stat_by(&mut inside, &cut.state)
    };
    let mut least = u64::MAX;
    let stat = until_by(look, "readings", |stat| {
        if let Ok(disk) = statvfs(&disk) {
            least = least.min(disk.f_bavail * 100 / disk.f_blocks);
        }
        unconfirmed(stat, "log", READER) == READINGS
    })?;
    run.note("least_free_percent", least);
    ensure!(least >= 50, "only {least} % of the disk was free");
    let dropped = lost(&stat, "log", READER);
    ensure!(dropped.get("full").is_some_and(|dropped| *dropped > 0), "dropped {dropped:?}");
    Ok(())
}
