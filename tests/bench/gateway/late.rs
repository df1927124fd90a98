//! Row 13: how late new readings of an important stream are while what has piled up drains.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::interval;

use super::site::Site;
use crate::meter::quantile;
use crate::report::{Bar, Row};

/// Devices whose records wait.
const DEVICES: usize = 100;
/// So many that they drain for long enough.
const MANY: usize = 100_000;
/// Between two new readings.
const EVERY: Duration = Duration::from_millis(20);
/// Fewer tell nothing.
const FEWEST: usize = 20;

pub(super) async fn run() -> Result<Vec<Row>> {
    let mut site = Site::new(false)?;
    site.start().await?;
    site.gateway.stop()?;
    site.fill(DEVICES, MANY).await?;
    let reader = site.reader()?;
    site.start().await?;
    let mut device = site.device().await?;
    let (tell, mut told) = mpsc::unbounded_channel();
    let listening = tokio::task::spawn_blocking(move || {
        let (mut old, mut late) = (0, Vec::new());
        while old < MANY {
            let line: Value = serde_json::from_str(&reader.line()?.context("atedge watch ended")?)?;
            let is_new = line["seq"].is_u64() && line["duplicate"] == false;
            if is_new && line["stream"] == "process" {
                old += 1;
            } else if is_new {
                let at = line["points"]["n"].as_f64().context("a time")?;
                late.push(now_ms() - at);
            }
        }
        tell.send(()).ok();
        anyhow::Ok((reader, late))
    });
    let mut beat = interval(EVERY);
    let mut number = 0;
    while told.try_recv().is_err() {
        beat.tick().await;
        let payload = format!("{{\"n\":{}}}", now_ms());
        device.publish(number, "live/clock", payload.as_bytes()).await?;
        device.acknowledged().await?;
        number += 1;
        ensure!(!listening.is_finished() || !told.is_empty(), "the reader has ended");
    }
    let (_reader, late) = listening.await??;
    ensure!(late.len() >= FEWEST, "only {} new readings came", late.len());
    let what = |part: &str| format!("new reading while {MANY} drain, {part}");
    let row = Row::alone("13", what("p99"), "ms", quantile(&late, 0.99), Bar::AtMost(100.0));
    Ok(vec![row.and("p50", quantile(&late, 0.5)).and("readings", late.len() as f64)])
}

/// Milliseconds since 1970.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}
