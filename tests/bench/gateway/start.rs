//! Row 17: from the start of the agent's process to the outcome of a command that waited for it at its server, which
//! writes to a unit on a serial line.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use atedge_tests::gateway::{GATEWAY, NAMESPACE, READER};
use atedge_tests::process::Process;
use serde_json::Value;

use super::site::Site;
use crate::meter::median;
use crate::report::{Bar, Row};

const DEVICES: usize = 100;
/// Starts of each depth, after one that only warms up.
const ROUNDS: usize = 5;

pub(super) async fn run(long: bool) -> Result<Vec<Row>> {
    let deep = if long { 1_000_000 } else { 100_000 };
    let mut rows = Vec::new();
    let mut points = Vec::new();
    for depth in [0, deep] {
        let took = starts(depth).await?;
        points.push((depth, took));
        let what = format!("start to a command's outcome, {depth} queued");
        rows.push(Row::alone("17", what, "ms", took, Bar::AtMost(100.0)));
    }
    rows.push(Row::curve(
        "start to a command's outcome, by queue depth",
        "ms",
        &points,
        points[1].1 / points[0].1,
        1.2,
    ));
    Ok(rows)
}

/// Milliseconds, with so many records waiting that nobody takes. They are not sent meanwhile: what is asked is whether
/// the start itself takes longer for them.
async fn starts(depth: usize) -> Result<f64> {
    let mut site = Site::unhurried()?;
    site.fill(DEVICES, depth).await?;
    // The first start makes the gateway known, and notes how far was heard.
    site.start().await?;
    let mut warm = command(&site, 0)?;
    outcome(&warm)?;
    warm.end()?;
    site.gateway.stop()?;
    let mut took = Vec::new();
    for round in 0..=ROUNDS {
        let mut waiting = command(&site, round + 1)?;
        let first = waiting.line()?.context("atedge cmd ended")?;
        ensure!(!first.contains("\"done\""), "the command did not wait: {first}");
        let began = Instant::now();
        site.gateway.start()?;
        outcome(&waiting)?;
        if round > 0 {
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        waiting.end()?;
        site.gateway.stop()?;
    }
    Ok(median(&took))
}

/// The command, on its way.
fn command(site: &Site, round: usize) -> Result<Process> {
    let value = format!("value={round}");
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
