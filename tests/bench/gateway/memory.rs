//! Row 14: memory of an agent with three kinds of adapters, by devices and by what waits.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::site::{BYTES, Site};
use crate::meter::memory;
use crate::report::{Bar, Row};

/// Until what the start and the first readings took has been given back.
const SETTLED: Duration = Duration::from_secs(8);
/// Devices, and megabytes that they may take.
const BARS: [(usize, f64); 3] = [(1, 6.0), (100, 7.0), (1_000, 10.0)];

pub(super) async fn run(long: bool) -> Result<Vec<Row>> {
    let deep = if long { 1_000_000 } else { 100_000 };
    let mut rows = Vec::new();
    let (mut empty, mut full) = (Vec::new(), Vec::new());
    for (devices, bar) in BARS {
        for depth in [0, deep] {
            let held = held(devices, depth).await?;
            if depth == 0 { &mut empty } else { &mut full }.push((devices, held.pss, held.anonymous));
            let what = format!("memory of the agent (PSS), {devices} devices, {depth} queued");
            let row = Row::alone("14", what, "MB", held.pss / 1e6, Bar::AtMost(bar));
            rows.push(row.and("anonymous", held.anonymous / 1e6).and("files", held.files / 1e6));
        }
    }
    let (first, last) = (empty[0], empty[empty.len() - 1]);
    // Of the agent's own memory: how much of its code is mapped at the moment, neither devices nor a queue decide.
    let each = (last.2 - first.2) / (last.0 - first.0) as f64;
    rows.push(Row::alone("14", "memory of a device", "B", each, Bar::AtMost(2048.0)));
    let deepest = full.iter().zip(&empty).map(|(full, empty)| full.2 - empty.2).fold(f64::MIN, f64::max);
    rows.push(Row::alone("14", format!("memory of {deep} queued"), "MB", deepest / 1e6, Bar::AtMost(1.0)));
    Ok(rows)
}

/// Bytes.
struct Held {
    pss: f64,
    anonymous: f64,
    files: f64,
}

/// An agent that has found so much in its queue, and to which each device has said something since.
async fn held(devices: usize, depth: usize) -> Result<Held> {
    let mut site = Site::new(true)?;
    site.fill(devices, depth).await?;
    site.start().await?;
    site.crew(devices, BYTES).await?.publish(devices).await?;
    sleep(SETTLED).await;
    let of = |what| Ok::<_, anyhow::Error>(memory(site.agent()?, what)? as f64);
    Ok(Held { pss: of("Pss:")?, anonymous: of("Pss_Anon:")?, files: of("Pss_File:")? })
}
