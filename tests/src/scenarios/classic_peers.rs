//! Two servers with one atSign each, as atServers have always been: they find each other through the
//! directory and prove themselves by `from` and `pol` over TLS, in both directions.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::Process;
use crate::scenario::Run;
use crate::town::Town;

const PAIR: [&str; 2] = ["@alice", "@bob"];

/// Notifications and look-ups cross both ways.
///
/// # Errors
/// One of them does not arrive as it was sent.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut town = Town::start(&run.folder, &[&PAIR[..1], &PAIR[1..]])?;
    for atsign in PAIR {
        town.onboard(atsign)?;
    }
    let mut crossed = 0;
    for (from, to) in [(PAIR[0], PAIR[1]), (PAIR[1], PAIR[0])] {
        crossed += cross(&town, from, to)?;
    }
    // What was sent while the other server was away waits for it.
    town.nodes[1].kill()?;
    town.use_tool(&["notify", PAIR[0], PAIR[1], "late.plant7", "patience"])?;
    town.nodes[1].start()?;
    let seen = watch(&town, PAIR[1], "late", &["--since", "10m"])?;
    expect(&seen.line()?.context("atedge watch ended")?, PAIR[0], "patience")?;
    run.note("crossed", crossed + 1);
    Ok(())
}

fn cross(town: &Town, from: &str, to: &str) -> Result<u64> {
    let seen = watch(town, to, "temp", &[])?;
    for value in ["21.5", "22.5"] {
        town.use_tool(&["notify", from, to, "temp.plant7", value, "--wait", "60s"])?;
        expect(&seen.line()?.context("atedge watch ended")?, from, value)?;
    }
    town.use_tool(&["put", from, &format!("{to}:phone.plant7"), "+1 555"])?;
    town.use_tool(&["put", from, "public:location.plant7", "Hall 3"])?;
    for (key, value) in [("phone.plant7", "+1 555"), ("public:location.plant7", "Hall 3")] {
        let read = town.use_tool(&["get", to, &format!("{key}{from}")])?;
        let read = String::from_utf8(read.stdout)?;
        ensure!(read.trim_end() == value, "{to} reads {read:?} from {key}{from}");
    }
    Ok(4)
}

fn watch(town: &Town, atsign: &str, regex: &str, more: &[&str]) -> Result<Process> {
    let mut command = town.tool(&["watch", atsign, "--regex", regex, "--json"])?;
    let watch = Process::start(&format!("watch-{atsign}-{regex}"), command.args(more), &town.folder)?;
    let first = watch.line()?.context("atedge watch ended")?;
    ensure!(first.contains("\"watching\""), "atedge watch began with {first}");
    Ok(watch)
}

fn expect(line: &str, from: &str, value: &str) -> Result<()> {
    let seen: Value = serde_json::from_str(line)?;
    ensure!(seen["from"] == from && seen["value"] == value, "expected {value} from {from}, got {line}");
    Ok(())
}
