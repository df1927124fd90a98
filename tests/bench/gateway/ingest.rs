//! Row 11: readings from devices into the queue, acknowledged when they are on the disk, against messages that
//! Mosquitto keeps for somebody who is away. What the gateway does more: it decodes them, and seals them.

use std::time::Instant;

use anyhow::Result;

use super::mosquitto::{Keeps, Mosquitto};
use super::site::{BYTES, Crew, Site};
use crate::meter::{Pair, in_turn, spent};
use crate::mqtt::Mqtt;
use crate::report::{Bar, Row};

/// Devices of the gateway.
const DEVICES: usize = 16;
/// Messages of a round at the broker that writes all of its snapshot again and again, and what one connection of it may
/// have unacknowledged: its snapshots are nearest to durable where few messages share one.
const FEW: usize = 1_500;
const WINDOW: usize = 50;

pub(super) async fn run(long: bool) -> Result<Vec<Row>> {
    let many = if long { 100_000 } else { 20_000 };
    let mut site = Site::new(false)?;
    // Nobody takes what is captured.
    site.town.nodes[0].kill()?;
    site.start().await?;
    let agent = site.agent()?;
    let mut crew = site.crew(DEVICES, BYTES).await?;
    let mut peer = Mosquitto::start(site.folder(), "memory", Keeps::Memory).await?;
    let broker = peer.id();
    let [rate, cpu] = in_turn(
        async || flood(&mut crew, agent, many).await,
        async || flood(&mut peer.crew, broker, many).await,
    )
    .await?;
    drop(peer);
    let mut peer = Mosquitto::start(site.folder(), "snapshots", Keeps::Snapshots).await?;
    let broker = peer.id();
    // It gets slower with each message that it keeps: as many as it had in a fresh queue.
    let [behind, _] = in_turn(
        async || flood(&mut crew, agent, many).await,
        async || flood(&mut peer.crew, broker, FEW / 3).await,
    )
    .await?;
    drop(peer);
    let peer = Mosquitto::start(site.folder(), "one", Keeps::Snapshots).await?;
    let one = |device: Mqtt| Crew::of(vec![device.with_window(WINDOW)], 1, BYTES);
    let (mut ours, mut theirs) = (one(site.device().await?), one(peer.device().await?));
    let [durable, _] = in_turn(
        async || flood(&mut ours, agent, many).await,
        async || flood(&mut theirs, peer.id(), FEW).await,
    )
    .await?;
    let what = |of: &str| format!("{of}, {BYTES} B, {DEVICES} connections");
    Ok(vec![
        Row::of(
            "11",
            what("reading on disk v message in Mosquitto's memory"),
            "/s",
            rate,
            Bar::RatioAtLeast(1.0),
        ),
        Row::of("11", what("the same, cpu"), "us", cpu, Bar::RatioAtMost(1.2)),
        Row::of("11", what("reading on disk v Mosquitto with snapshots"), "/s", behind, Bar::None),
        Row::of(
            "11",
            format!("the same, {BYTES} B, 1 connection, {WINDOW} unacknowledged"),
            "/s",
            durable,
            Bar::RatioAtLeast(50.0),
        ),
    ])
}

/// Messages in a second, and microseconds of the process for each.
pub(super) async fn flood(crew: &mut Crew, process: u32, many: usize) -> Result<[f64; 2]> {
    let began = Instant::now();
    let cpu = spent(process, crew.publish(many)).await?;
    Ok([many as f64 / began.elapsed().as_secs_f64(), cpu / many as f64])
}

/// A figure beside another that was measured once.
pub(super) fn once(ours: f64, limit: f64) -> Pair {
    Pair { ours, limit, ratio: ours / limit }
}
