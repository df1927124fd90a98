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
    let depths = [0, if long { 1_000_000 } else { 100_000 }];
    let mut sites = Vec::new();
    for depth in depths {
        sites.push(known(depth).await?);
    }
    let mut took = [Vec::new(), Vec::new()];
    // In turn, so that a slow moment of the machine meets both.
    for round in 0..=ROUNDS {
        for (site, took) in sites.iter_mut().zip(&mut took) {
            let start = start(site, round + 1)?;
            took.extend((round > 0).then_some(start));
        }
    }
    let ratios: Vec<f64> = took[0].iter().zip(&took[1]).map(|(empty, deep)| deep / empty).collect();
    let points = [0, 1].map(|place| (depths[place], median(&took[place])));
    let mut rows: Vec<Row> = points
        .iter()
        .map(|(depth, took)| {
            let what = format!("start to a command's outcome, {depth} queued");
            Row::alone("17", what, "ms", *took, Bar::AtMost(100.0))
        })
        .collect();
    let what = "start to a command's outcome, by queue depth";
    rows.push(Row::curve(what, "ms", &points, median(&ratios), 1.2));
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

/// Milliseconds of a start.
fn start(site: &mut Site, round: usize) -> Result<f64> {
    let mut waiting = command(site, round)?;
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
