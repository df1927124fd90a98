//! A board without a battery: its clock says 1970 until a time server is heard, and is set wrong by an hour,
//! a day and ten years, either way, later. Every reading carries its right time at the reader, and none is lost or read twice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::gateway::{Gateway, READER, gateway_town};
use crate::process::{PATIENCE, program};
use crate::queue::{Listener, unconfirmed, until};
use crate::scenario::Run;

/// Readings that are waited for in each state of the clock.
const SOME: u64 = 20;
/// How far a time may be from the one that the device gave, in seconds: what scheduling on a busy machine takes.
const CLOSE: f64 = 2.0;

/// How the clock is set while the gateway runs, and by how many seconds, to either side, that is wrong.
const JUMPS: [(&str, f64); 7] = [
    ("+1h", 3_600.0),
    ("-1h", 3_600.0),
    ("+1d", 86_400.0),
    ("-1d", 86_400.0),
    ("+10y", 10.0 * 365.0 * 86_400.0),
    ("-10y", 10.0 * 365.0 * 86_400.0),
    ("+0", 0.0),
];

/// See above.
///
/// # Errors
/// A time is wrong, or a reading is missing.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut town = gateway_town(&run.folder)?;
    let clock = town.folder.join("clock");
    std::fs::write(&clock, "@1970-01-01 00:00:30\n")?;
    let variables = set_by(&clock)?.map(|(name, value)| format!("{name}={value}"));
    let agent = ["env".to_owned()]
        .into_iter()
        .chain(variables)
        .chain([program("atedge-agent")?.display().to_string()]);
    let state = town.folder.join("agent");
    let mut gateway = Gateway::with_program(agent.collect(), &town, &tables())?;
    let mut reader = Listener::start(&town, READER)?;
    gateway.start()?;
    let of = |reader: &Listener, clock: &str| count(reader, |line| line["clock"] == clock);
    ensure!(reader.until(PATIENCE, |reader| of(reader, "free") >= SOME)?, "nothing comes from 1970");

    // What waits when the clock is set is repaired where it waits.
    town.nodes[0].kill()?;
    until(&state, "backlog", |stat| unconfirmed(stat, "process", READER) > 2 * SOME)?;
    std::fs::write(&clock, "+0\n")?;
    until(&state, "backlog", |stat| unconfirmed(stat, "process", READER) > 4 * SOME)?;
    town.nodes[0].start()?;
    let fixed = |reader: &Listener| count(reader, |line| line["timefix"].is_f64()) > 0;
    ensure!(reader.until(PATIENCE, fixed)?, "nobody tells that the clock was set");

    let mut expected = of(&reader, "sync");
    for (jump, _) in JUMPS {
        std::fs::write(&clock, format!("{jump}\n"))?;
        expected += 2 * SOME;
        ensure!(reader.until(PATIENCE, |reader| of(reader, "sync") >= expected)?, "nothing after {jump}");
    }
    gateway.stop()?;
    reader.until(Duration::from_secs(2), |_| false)?;

    let lines = &reader.records["process"];
    let fix = lines.iter().find_map(|line| line["timefix"].as_f64()).context("no time fix")?;
    let (mut repaired, mut early, mut wrong) = (0, 0, Vec::new());
    let numbers: Vec<f64> = lines.iter().filter_map(|line| line["points"]["n"].as_f64()).collect();
    for line in lines.iter().filter(|line| line["points"]["n"].is_number()) {
        let taken = line["points"]["at"].as_f64().context("a device's time")? / 1000.0;
        let time = match line["clock"] == "free" {
            true => {
                early += 1;
                fix + line["mono"].as_f64().context("a monotonic time")?
            }
            false => line["unix"].as_f64().context("a time")?,
        };
        repaired += 1;
        let off = (time - taken).abs();
        // After a jump of the clock itself the gateway's times jump too: it believes whoever sets it.
        if JUMPS.iter().all(|(_, by)| (off - by).abs() > CLOSE) {
            wrong.push(format!("{line}"));
        }
    }
    run.note("free", early);
    run.note("readings", repaired);
    ensure!(wrong.is_empty(), "wrong times, {} of them, such as {}", wrong.len(), wrong[0]);
    ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1.0), "a reading is missing, or came twice");
    Ok(())
}

fn count(reader: &Listener, is: impl Fn(&Value) -> bool) -> u64 {
    reader.records.get("process").map_or(0, |lines| lines.iter().filter(|line| is(line)).count() as u64)
}

/// A device that says what time it is by a clock that nobody sets.
fn tables() -> String {
    let device = "i=0; while :; do i=$((i+1)); echo \\\"{\\\\\\\"n\\\\\\\":$i,\\\\\\\"at\\\\\\\":$(date +%s%3N)}\\\"; sleep 0.02; done";
    format!(
        "[adapter.counter]\ntype = \"process\"\ncommand = [\"/bin/sh\", \"-c\", \"{device}\"]\ndevice = \"counter\"\n\
         stream = \"process\"\n"
    )
}

/// Variables that have a program take its wall clock from a file.
pub(super) fn set_by(clock: &Path) -> Result<[(&'static str, String); 4]> {
    Ok([
        ("LD_PRELOAD", library()?.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}

/// libfaketime, where its package has put it.
fn library() -> Result<PathBuf> {
    let output = Command::new("dpkg").args(["-L", "libfaketime"]).output()?;
    let listed = String::from_utf8(output.stdout)?;
    let found = listed.lines().find(|line| line.ends_with("/libfaketimeMT.so.1"));
    found.map(PathBuf::from).context("libfaketime is missing; tests/run gateway installs it")
}
