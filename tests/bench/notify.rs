//! A notification from one tenant to another of the same server, from the sender's write to the line at
//! the receiver's monitor: durable before it is told, so one commit and one round trip are its limit.

use std::time::Instant;

use anyhow::Result;

use crate::client::Client;
use crate::floor::Floor;
use crate::ground::{Ground, Holds, Host, VALUE, atsign};
use crate::limits::Rows;
use crate::meter::{Pair, median, micros, quantile};
use crate::report::{Bar, Row};

/// Notifications, each when the one before has arrived.
const TIMES: usize = 1_000;

/// What makes a monitor. It begins long ago, so that nothing is missed while it begins.
pub(crate) const MONITOR: &str = "monitor:1\n";

/// A notification from the first tenant to another.
pub(crate) fn line(to: usize) -> String {
    format!("notify:{}:reading.bench@a0:{}\n", atsign(to), "n".repeat(VALUE))
}

pub(crate) async fn run(_: bool) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let host = Host::start(&ground, "notify", Holds { tenants: 2, keys: 0 }).await?;
    let floor = Floor::start(&ground, "data:6f1c7d4a-2f8e-4b3a-9d7e-1c2b3a4d5e6f")?;
    let mut rows = Rows::open(ground.folder.path())?;
    let (mut sender, mut receiver) = (host.sign_in(0).await?, host.sign_in(1).await?);
    receiver.turn(MONITOR).await?;
    let mut bare = floor.dial().await?;
    let (mut ours, mut trips, mut commits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TIMES {
        ours.push(arrival(&mut sender, &mut receiver).await?);
        trips.push(bare.latency(&line(1)).await?);
        commits.push(rows.single()?);
    }
    let limit = median(&trips) + median(&commits);
    let at = |part| Pair { ours: quantile(&ours, part), limit, ratio: quantile(&ours, part) / limit };
    let (p50, p99) = (at(0.5), at(0.99));
    Ok(vec![
        Row::of("notify", "notify to a monitor, one node, p50", "us", p50, Bar::RatioAtMost(2.0)),
        Row::of("notify", "notify to a monitor, one node, p99", "us", p99, Bar::RatioAtMost(5.0)),
    ])
}

async fn arrival(sender: &mut Client, receiver: &mut Client) -> Result<f64> {
    let began = Instant::now();
    sender.say(&line(1)).await?;
    receiver.hear(1).await?;
    let took = micros(began.elapsed());
    sender.hear(1).await?;
    Ok(took)
}
