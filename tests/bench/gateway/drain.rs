//! Row 13: what has piled up goes to the server and from there to the reader, which confirms it; against Mosquitto,
//! which delivers from memory.

use std::time::Instant;

use anyhow::Result;

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
    let reader = site.reader()?;
    site.gateway.stop()?;
    let mut peer = Mosquitto::start(site.folder(), "memory", Keeps::Memory).await?;
    let broker = peer.id();
    let [rate, cpu] = in_turn(
        async || {
            site.fill(DEVICES, many).await?;
            site.start().await?;
            let (process, began) = (site.agent()?, Instant::now());
            let before = cpu_of(process)?;
            site.until_left(0).await?;
            let took = began.elapsed().as_secs_f64();
            let cpu = micros(cpu_of(process)?.saturating_sub(before));
            site.gateway.stop()?;
            progress(format_args!("{many} drained in {took:.2} s"));
            Ok([many as f64 / took, cpu / many as f64])
        },
        async || {
            peer.crew.publish(many).await?;
            let began = Instant::now();
            let cpu = spent(broker, peer.deliver(many)).await?;
            Ok([many as f64 / began.elapsed().as_secs_f64(), cpu / many as f64])
        },
    )
    .await?;
    drop(reader);
    let what = |of: &str| format!("{many} that piled up, {of}");
    Ok(vec![
        Row::of("13", what("until the reader has confirmed all"), "/s", rate, Bar::RatioAtLeast(1.5)),
        Row::of("13", what("cpu"), "us", cpu, Bar::None),
    ])
}
