//! Row 17: from the start of the agent's process to the outcome of a command that waited for it at its server, which
//! writes to a unit on a serial line.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use atedge_tests::gateway::{GATEWAY, NAMESPACE, READER};
use atedge_tests::process::Process;
use serde_json::Value;

use super::site::Site;
use crate::curves::grows;
use crate::report::{Bar, Row};

const DEVICES: usize = 100;

pub(super) async fn run(long: bool) -> Result<Vec<Row>> {
    let depths = [0, if long { 1_000_000 } else { 100_000 }];
    let mut sites = Vec::new();
    for depth in depths {
        sites.push(known(depth).await?);
    }
    let mut starts = 0;
    let what = "start to a command's outcome, by queue depth";
    let curve = grows(what, "ms", &depths, 1.2, async |place| {
        starts += 1;
        start(&mut sites[place], starts)
    })
    .await?;
    let mut rows: Vec<Row> = curve
        .more()
        .iter()
        .map(|(depth, took)| {
            let what = format!("start to a command's outcome, {depth} queued");
            Row::alone("17", what, "ms", *took, Bar::AtMost(100.0))
        })
        .collect();
    rows.push(curve);
    Ok(rows)
}

/// A gateway with so many records waiting that nobody takes, which does not run. They are not sent when it does: what is
/// asked is whether the start itself takes longer for them.
async fn known(depth: usize) -> Result<Site> {
    let mut site = Site::unhurried()?;
    site.fill(DEVICES, depth).await?;
    // The first start makes the gateway known, and notes how far was heard.
    site.start().await?;
    let mut warm = command(&site, 0)?;
    outcome(&warm)?;
    warm.end()?;
    site.gateway.stop()?;
    Ok(site)
}

/// Milliseconds of a start, with a command of its own.
fn start(site: &mut Site, value: usize) -> Result<f64> {
    let mut waiting = command(site, value)?;
    let first = waiting.line()?.context("atedge cmd ended")?;
    ensure!(!first.contains("\"done\""), "the command did not wait: {first}");
    let began = Instant::now();
    site.gateway.start()?;
    outcome(&waiting)?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    waiting.end()?;
    site.gateway.stop()?;
    Ok(took)
}

/// The command, on its way.
fn command(site: &Site, value: usize) -> Result<Process> {
    let value = format!("value={value}");
    let mut command = site.town.tool(&[
        "cmd",
        GATEWAY,
        "boiler.setpoint",
        &value,
        "--as",
        READER,
        "--json",
        "--wait",
        "60s",
    ])?;
    command.args(["--namespace", NAMESPACE]);
    Process::start("cmd", &mut command, site.folder())
}

/// Waits until it was carried out.
fn outcome(command: &Process) -> Result<()> {
    loop {
        let line = command.line()?.context("atedge cmd ended without an outcome; see cmd.log")?;
        let said: Value = serde_json::from_str(&line)?;
        match said["state"].as_str() {
            Some("done") => return Ok(()),
            Some("failed" | "rejected" | "expired" | "unknown") => anyhow::bail!("{line}"),
            _ => {}
        }
    }
}
