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
const TIMES: usize = 500;

/// What makes a monitor. It begins long ago, so that nothing is missed while it begins.
pub(crate) const MONITOR: &str = "monitor:1\n";

/// A tenant that lives in the same file of the store as the first one, and one that does not.
pub(crate) const NEAR: usize = 4;
const FAR: usize = 1;
/// Tenants, so that there are both.
pub(crate) const TENANTS: usize = 5;

/// A notification from the first tenant to another.
pub(crate) fn line(to: usize) -> String {
    format!("notify:{}:reading.bench@a0:{}\n", atsign(to), "n".repeat(VALUE))
}

pub(crate) async fn run(_: bool) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let host = Host::start(&ground, "notify", Holds { tenants: TENANTS, keys: 0 }).await?;
    let floor = Floor::start(&ground, "data:6f1c7d4a-2f8e-4b3a-9d7e-1c2b3a4d5e6f")?;
    let mut rows = Rows::open(ground.folder.path())?;
    let (mut sender, mut bare) = (host.sign_in(0).await?, floor.dial().await?);
    let mut told = Vec::new();
    for (to, commits_each, what) in
        [(NEAR, 1.0, "notify, one commit"), (FAR, 2.0, "notify to another file, two commits")]
    {
        let mut receiver = host.sign_in(to).await?;
        receiver.turn(MONITOR).await?;
        let (mut ours, mut trips, mut commits) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TIMES {
            ours.push(arrival(&mut sender, &mut receiver, to).await?);
            trips.push(bare.latency(&line(to)).await?);
            commits.push(rows.single()?);
        }
        let limit = median(&trips) + commits_each * median(&commits);
        for (part, name, bar) in [(0.5, "p50", 2.0), (0.99, "p99", 5.0)] {
            let ours = quantile(&ours, part);
            let pair = Pair { ours, limit, ratio: ours / limit };
            told.push(Row::of("notify", format!("{what}, {name}"), "us", pair, Bar::RatioAtMost(bar)));
        }
    }
    Ok(told)
}

async fn arrival(sender: &mut Client, receiver: &mut Client, to: usize) -> Result<f64> {
    let began = Instant::now();
    sender.say(&line(to)).await?;
    receiver.hear(1).await?;
    let took = micros(began.elapsed());
    sender.hear(1).await?;
    Ok(took)
}
