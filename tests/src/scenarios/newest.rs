//! Streams that tell the present: the newest values of a device are to be had at any time, through restarts of its
//! gateway; a stream of the newest alone is not held up by what piled up while there was no link.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::gateway::{GATEWAY, Gateway, READER, gateway_town};
use crate::process::{PATIENCE, run as run_program};
use crate::queue::{Listener, lost, until, until_by};
use crate::scenario::Run;
use crate::town::Town;

/// Readings that pile up.
const PILE: u64 = 500;

/// See above.
///
/// # Errors
/// What is there is not the newest, or a loss was not told.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut town = gateway_town(&run.folder)?;
    let mut gateway = Gateway::new(&town, &tables("t", 1))?;
    gateway.start()?;
    until_by(|| latest(&town), "newest value", |latest| value(latest, "t") == Some(1))?;
    gateway.stop()?;

    // Another point comes; the first, which is silent since, stays.
    gateway = Gateway::new(&town, &tables("p", 7))?;
    gateway.start()?;
    let both = |latest: &Value| value(latest, "t") == Some(1) && value(latest, "p") == Some(7);
    until_by(|| latest(&town), "newest value beside an older one", both)?;
    gateway.stop()?;

    // Without a link only the newest waits; the reader gets it, and is told how many it took the place of.
    town.nodes[0].kill()?;
    gateway = Gateway::new(&town, &tables("t", PILE))?;
    gateway.start()?;
    let state = town.folder.join("agent");
    let superseded = |stat: &Value| lost(stat, "state", READER).get("superseded").copied().unwrap_or(0);
    let stat = until(&state, "pile", |stat| superseded(stat) >= PILE - 10)?;
    let records = stat["records"].as_u64().context("no records")?;
    ensure!(records < 20, "{records} records of a stream of the newest wait");
    run.note("waited", records);
    town.nodes[0].start()?;
    let mut reader = Listener::start(&town, READER)?;
    let newest = |listener: &Listener| {
        let of_state = listener.records.get("state").into_iter().flatten();
        of_state.filter_map(|record| record["points"]["t"].as_u64()).max() == Some(PILE)
    };
    ensure!(reader.until(PATIENCE, newest)?, "the newest did not come: {:?}", reader.records);
    let told = |listener: &Listener| {
        listener.lost.get("state").and_then(|lost: &BTreeMap<String, u64>| lost.get("superseded")).is_some()
    };
    ensure!(reader.until(PATIENCE, told)?, "the reader was told of {:?}", reader.lost);
    gateway.stop()
}

/// The newest values of the device, as its reader gets them.
fn latest(town: &Town) -> Result<Value> {
    let key = format!("latest.tank.plant7{GATEWAY}");
    let mut command = town.tool(&["get", READER, &key])?;
    let output = run_program("get", &mut command, &town.folder)?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!("`get` said {} {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
    })
}

fn value(latest: &Value, point: &str) -> Option<u64> {
    let pack = latest["streams"]["state"].as_array()?;
    pack.iter().find(|entry| entry["n"] == point)?["v"].as_u64()
}

/// A device that counts to `most` at once, as the point `name`, and then says nothing.
fn tables(name: &str, most: u64) -> String {
    format!(
        "[stream.state]\nto = [\"{READER}\"]\nkeep = \"latest\"\nlatest = true\nrequire = [\"receipts\"]\n\
         batch = {{ linger = \"0ms\" }}\n\
         [adapter.tank]\ntype = \"process\"\ndevice = \"tank\"\nstream = \"state\"\npick = {{ {name} = \"/{name}\" }}\n\
         command = [\"/bin/sh\", \"-c\", '''seq -f '{{\"{name}\":%.0f}}' 1 {most}; exec sleep infinity''']\n"
    )
}
