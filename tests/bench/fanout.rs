//! Row 10: one notification to many monitors, against a loop that writes the same bytes to as many.

use anyhow::{Context as _, Result};
use tokio::sync::Mutex;

use crate::client::{Client, Crowd};
use crate::floor::Floor;
use crate::ground::{Ground, Holds, Host};
use crate::meter::{in_turn, median, spent};
use crate::notify::{MONITOR, NEAR, TENANTS, line};
use crate::report::{Bar, Row};

const MONITORS: usize = 200;
/// Notifications in a round, each to all.
const TIMES: usize = 60;
/// Senders whose notifications arrive together where they may be sent together.
const SENDERS: usize = 20;

pub(crate) async fn run(_: bool) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let holds = Holds { tenants: TENANTS, keys: 0 };
    let host = Host::start(&ground, "fanout", holds).await?;
    let unheard = Unheard::start(&ground, holds).await?;
    let mut senders = host.crowd(0, SENDERS).await?;
    let mut monitors = watching(&host, MONITORS).await?;
    let floor = Floor::start(&ground, "data:1")?;
    let mut order = floor.dial().await?;
    let mut readers = floor.crowd(MONITORS).await?;
    for reader in &mut readers.clients {
        reader.turn("watch\n").await?;
    }
    let deliveries = (TIMES * MONITORS) as f64;
    let bytes = delivered(&mut senders, &mut monitors).await?;
    let mut with_commit = Vec::new();
    let [single] = in_turn(
        async || {
            let none = unheard.cost(TIMES).await?;
            let sender = senders.clients.first_mut().context("a sender")?;
            let cost = spent(host.id(), async { one_by_one(sender, &mut monitors, TIMES).await }).await?;
            with_commit.push(deliveries / cost * 1e6);
            Ok([deliveries / (cost - none) * 1e6])
        },
        async || {
            let mut cost = 0.0;
            for _ in 0..TIMES {
                cost += fan(&floor, &mut order, &mut readers, 1, bytes).await?;
            }
            Ok([deliveries / cost * 1e6])
        },
    )
    .await?;
    let [coalesced] = in_turn(
        async || {
            let cost = spent(host.id(), async { together(&mut senders, &mut monitors, TIMES).await }).await?;
            Ok([deliveries / cost * 1e6])
        },
        async || {
            let cost = fan(&floor, &mut order, &mut readers, TIMES / 10, bytes * 10).await?;
            Ok([deliveries / cost * 1e6])
        },
    )
    .await?;
    Ok(vec![
        Row::of("10", "fan-out to 200, single", "/cpu-s", single, Bar::RatioAtLeast(0.7))
            .and("with the notification's own commit", median(&with_commit)),
        Row::of("10", "fan-out to 200, coalesced v 10 a write", "/cpu-s", coalesced, Bar::RatioAtLeast(0.5)),
    ])
}

/// A server whose notifications nobody watches: what is left costs the fan-out nothing.
pub(crate) struct Unheard<'a> {
    host: Host<'a>,
    sender: Mutex<Client>,
}

impl<'a> Unheard<'a> {
    pub(crate) async fn start(ground: &'a Ground, holds: Holds) -> Result<Self> {
        let host = Host::start(ground, "unheard", holds).await?;
        let sender = Mutex::new(host.sign_in(0).await?);
        Ok(Self { host, sender })
    }

    /// What so many notifications cost, one after the other, in microseconds.
    pub(crate) async fn cost(&self, times: usize) -> Result<f64> {
        let mut sender = self.sender.lock().await;
        spent(self.host.id(), async {
            for _ in 0..times {
                sender.exchange(&line(NEAR), 1).await?;
            }
            Ok(())
        })
        .await
    }
}

/// Monitors of the tenant that is notified.
pub(crate) async fn watching(host: &Host<'_>, many: usize) -> Result<Crowd> {
    let mut crowd = host.crowd(NEAR, many).await?;
    for monitor in &mut crowd.clients {
        monitor.turn(MONITOR).await?;
    }
    Ok(crowd)
}

/// Bytes of a delivery.
async fn delivered(senders: &mut Crowd, monitors: &mut Crowd) -> Result<usize> {
    senders.clients.first_mut().context("a sender")?.exchange(&line(NEAR), 1).await?;
    let mut bytes = 0;
    for monitor in &mut monitors.clients {
        bytes = monitor.measure().await?;
        monitor.hear(1).await?;
    }
    Ok(bytes)
}

/// Sends one after the other, each when all have the one before.
pub(crate) async fn one_by_one(sender: &mut Client, monitors: &mut Crowd, times: usize) -> Result<()> {
    for _ in 0..times {
        sender.exchange(&line(NEAR), 1).await?;
        for monitor in &mut monitors.clients {
            monitor.hear(1).await?;
        }
    }
    Ok(())
}

/// All senders send at the same time.
async fn together(senders: &mut Crowd, monitors: &mut Crowd, times: usize) -> Result<()> {
    let each = times / senders.clients.len();
    for _ in 0..each {
        senders.rush(1, 1, |_| line(NEAR)).await?;
        let many = senders.clients.len();
        for monitor in &mut monitors.clients {
            monitor.hear(many).await?;
        }
    }
    Ok(())
}

/// What the floor spends to write `bytes` to all readers, so many times.
async fn fan(
    floor: &Floor<'_>,
    order: &mut Client,
    readers: &mut Crowd,
    times: usize,
    bytes: usize,
) -> Result<f64> {
    spent(floor.id(), async {
        order.say(&format!("fan {times} {bytes}\n")).await?;
        for reader in &mut readers.clients {
            reader.hear(times).await?;
        }
        order.hear(1).await
    })
    .await
}
