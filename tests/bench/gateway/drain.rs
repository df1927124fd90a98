//! Row 13: what has piled up goes to the server, where it is on disk, and from there to the reader, which confirms it;
//! against Mosquitto, which delivers from memory.

use std::time::Instant;

use anyhow::{Context as _, Result};
use atedge_tests::process::Process;

use super::mosquitto::{Keeps, Mosquitto};
use super::site::Site;
use crate::meter::{cpu_of, in_turn, micros, spent};
use crate::report::{Bar, Row, progress};

/// Devices whose records wait.
const DEVICES: usize = 100;

pub(super) async fn run(long: bool) -> Result<Vec<Row>> {
    let many = if long { 100_000 } else { 20_000 };
    let mut site = Site::new(false)?;
    // With its first start it has made itself known.
    site.start().await?;
    let mut reader = Some(site.reader()?);
    site.gateway.stop()?;
    let mut peer = Mosquitto::start(site.folder(), "memory", Keeps::Memory).await?;
    let broker = peer.id();
    let [stored, rate, confirmed, cpu] = in_turn(
        async || {
            let stored = until_stored(many).await?;
            site.fill(DEVICES, many).await?;
            let arriving = reader.take().context("the reader of the round before failed")?;
            let arriving = tokio::task::spawn_blocking(move || absorb(arriving, many));
            site.start().await?;
            let (process, began) = (site.agent()?, Instant::now());
            let before = cpu_of(process)?;
            let (same, arrived) = arriving.await??;
            let arrived = arrived.saturating_duration_since(began).as_secs_f64();
            reader = Some(same);
            site.until_left(0).await?;
            let confirmed = began.elapsed().as_secs_f64();
            let cpu = micros(cpu_of(process)?.saturating_sub(before));
            site.gateway.stop()?;
            progress(format_args!(
                "{many} stored in {stored:.2} s, arrived in {arrived:.2} s, confirmed in {confirmed:.2} s"
            ));
            Ok([many as f64 / stored, many as f64 / arrived, many as f64 / confirmed, cpu / many as f64])
        },
        async || {
            peer.crew.publish(many).await?;
            let began = Instant::now();
            let cpu = spent(broker, peer.deliver(many)).await?;
            let rate = many as f64 / began.elapsed().as_secs_f64();
            Ok([rate, rate, rate, cpu / many as f64])
        },
    )
    .await?;
    drop(reader);
    let what = |of: &str| format!("{many} that piled up, {of}");
    Ok(vec![
        Row::of("13", what("until the server has all on disk"), "/s", stored, Bar::RatioAtLeast(1.5)),
        Row::of("13", what("until the reader has all"), "/s", rate, Bar::None),
        Row::of("13", what("until all is confirmed"), "/s", confirmed, Bar::None),
        Row::of("13", what("cpu"), "us", cpu, Bar::None),
    ])
}

/// How long it takes, in seconds, until the server has all on disk; the reader is known, and away. The agent is told to
/// stop as soon as all is on its way, and has ended when all of that is acknowledged.
async fn until_stored(many: usize) -> Result<f64> {
    let mut site = Site::new(false)?;
    site.start().await?;
    drop(site.reader()?);
    site.gateway.stop()?;
    site.fill(DEVICES, many).await?;
    site.start().await?;
    let began = Instant::now();
    site.until_sent().await?;
    site.gateway.stop()?;
    Ok(began.elapsed().as_secs_f64())
}

/// Reads what the reader prints until so many readings have arrived; tells when.
fn absorb(reader: Process, many: usize) -> Result<(Process, Instant)> {
    let mut arrived = 0;
    while arrived < many {
        let line = reader.line()?.context("atedge watch ended")?;
        arrived += usize::from(line.contains("\"points\"") && line.contains("\"duplicate\":false"));
    }
    Ok((reader, Instant::now()))
}
