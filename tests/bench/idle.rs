//! Row 15: what an idle connection holds whose owner has signed in and watches.

use std::time::Duration;

use anyhow::Result;

use crate::client::Client;
use crate::floor::Floor;
use crate::ground::{Ground, Holds, Host};
use crate::meter::{Pair, resident};
use crate::notify::MONITOR;
use crate::report::{Bar, Row};

/// Tenants over which the connections are spread.
const TENANTS: usize = 100;
/// Connections that come and go before, so that what is only made once has been made.
const BEFORE: usize = 32;
/// Until what a process does after the last byte has been done.
pub(crate) const SETTLED: Duration = Duration::from_millis(500);

pub(crate) async fn run(long: bool) -> Result<Vec<Row>> {
    let many = if long { 10_000 } else { 1_000 };
    let ground = Ground::new()?;
    let host = Host::start(&ground, "idle", Holds { tenants: TENANTS, keys: 0 }).await?;
    let ours = held(host.id(), many, async |number| {
        let mut client = host.sign_in(number % TENANTS).await?;
        client.turn(MONITOR).await?;
        Ok(client)
    })
    .await?;
    drop(host);
    let floor = Floor::start(&ground, "data:1")?;
    let limit = held(floor.id(), 1_000, async |_| {
        let mut client = floor.dial().await?;
        client.exchange("noop:0\n", 1).await?;
        Ok(client)
    })
    .await?;
    let pair = Pair { ours, limit, ratio: ours / limit };
    let what = format!("idle connection, signed in, monitor on, of {many}");
    Ok(vec![Row::of("15", what, "B", pair, Bar::AtMost(16.0 * 1024.0))])
}

/// Resident bytes of a process for each of so many connections.
async fn held(
    process: u32,
    many: usize,
    mut connect: impl AsyncFnMut(usize) -> Result<Client>,
) -> Result<f64> {
    for number in 0..BEFORE {
        drop(connect(number).await?);
    }
    tokio::time::sleep(SETTLED).await;
    let before = resident(process)?;
    let mut clients = Vec::with_capacity(many);
    for number in 0..many {
        clients.push(connect(number).await?);
    }
    tokio::time::sleep(SETTLED).await;
    Ok(resident(process)?.saturating_sub(before) as f64 / many as f64)
}
