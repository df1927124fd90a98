//! Pairs of atSigns that meet: how many connections a thousand of them need, and how much later than others the
//! first notification of a pair comes, in round trips between the nodes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::fleet::{Fleet, Node, delivered, notify};
use crate::client::Client;
use crate::ground::{Ground, VALUE};
use crate::meter::{Pair, median, micros};
use crate::notify::MONITOR;
use crate::report::{Bar, Row};

/// Pairs on one connection.
const MANY: usize = 1_000;
/// Pairs that meet over a long road.
const MEET: usize = 40;
/// The road, one way.
const ROAD: Duration = Duration::from_millis(20);
/// Bytes of the largest datagram.
const LARGEST: usize = 64 * 1024;
/// Datagrams that are on the road at most.
const ON_THE_ROAD: usize = 4096;

pub(super) async fn run() -> Result<Vec<Row>> {
    Ok(vec![on_one_connection().await?, meet().await?])
}

/// A thousand senders at one node, a thousand recipients at another.
async fn on_one_connection() -> Result<Row> {
    let ground = Ground::new()?;
    let fleet = Fleet::start(&ground).await?;
    let receiver = fleet.node("receiver", "r", MANY).await?;
    let sender = fleet.node("sender", "s", MANY).await?;
    let mut owners = Vec::new();
    for number in 0..MANY {
        owners.push(sender.host.sign_in(number).await?);
    }
    let value = "n".repeat(VALUE);
    for (number, owner) in owners.iter_mut().enumerate() {
        owner.exchange(&line(&sender, &receiver, number, "ae1-1-1-1", &value), 1).await?;
    }
    for owner in &mut owners {
        delivered(owner, "ae1-1-1-1").await?;
    }
    let owner = owners.first_mut().context("an owner")?;
    let told = owner.ask("stats:2\n").await?;
    let told = told.strip_prefix("data: ").context("what is counted")?;
    let told: serde_json::Value = serde_json::from_str(told)?;
    let connections = told[0]["value"].as_str().context("a number")?.parse::<u32>()?;
    let what = format!("connections of {MANY} pairs between two nodes");
    Ok(Row::alone("pairs", what, "", f64::from(connections), Bar::AtMost(1.0)))
}

fn line(sender: &Node<'_>, receiver: &Node<'_>, number: usize, id: &str, value: &str) -> String {
    notify(id, &receiver.host.atsign(number), &sender.host.atsign(number), value)
}

/// The first notification of a pair, and a later one, over a road that is long enough to see a round trip.
async fn meet() -> Result<Row> {
    let ground = Ground::new()?;
    let fleet = Fleet::start(&ground).await?;
    let receiver = fleet.node("receiver", "r", MEET + 1).await?;
    let sender = fleet.node("sender", "s", MEET + 1).await?;
    let mut tasks = JoinSet::new();
    let port = long_road(receiver.host.address, &mut tasks).await?;
    let atsigns: Vec<String> = (0..=MEET).map(|number| receiver.host.atsign(number)).collect();
    receiver.moves_to(&fleet, &atsigns, port)?;
    let mut directory = fleet.ask_directory().await?;
    let value = "n".repeat(VALUE);
    let (mut firsts, mut laters, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..=MEET {
        let (mut from, mut to) = (sender.host.sign_in(number).await?, receiver.host.sign_in(number).await?);
        to.turn(MONITOR).await?;
        let first =
            arrival(&mut from, &mut to, &line(&sender, &receiver, number, "ae1-1-1-1", &value)).await?;
        let later =
            arrival(&mut from, &mut to, &line(&sender, &receiver, number, "ae1-1-2-1", &value)).await?;
        // The first pair makes the connection.
        if number > 0 {
            firsts.push(first);
            laters.push(later);
            asked.push(directory.latency(&format!("record:{}\n", receiver.host.atsign(number))).await?);
        }
    }
    let (first, later, asked) = (median(&firsts), median(&laters), median(&asked));
    let trip = micros(2 * ROAD);
    // The sender's node asks for the recipient, and the recipient's node for the sender.
    let more = first - later - 2.0 * asked;
    let pair = Pair { ours: more / 1e3, limit: trip / 1e3, ratio: more / trip };
    Ok(Row::of("pairs", "first of a pair, beyond look-ups v a round trip", "ms", pair, Bar::RatioAtMost(1.0))
        .and("first, ms", first / 1e3)
        .and("later, ms", later / 1e3)
        .and("a look-up, ms", asked / 1e3))
}

async fn arrival(from: &mut Client, to: &mut Client, line: &str) -> Result<f64> {
    let began = Instant::now();
    from.say(line).await?;
    to.hear(1).await?;
    let took = micros(began.elapsed());
    from.hear(1).await?;
    Ok(took)
}

/// A port from which datagrams reach `to` later, and answers come back later; one node comes this way.
async fn long_road(to: SocketAddr, tasks: &mut JoinSet<()>) -> Result<u16> {
    let near = std::sync::Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
    let far = std::sync::Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
    far.connect(to).await?;
    let port = near.local_addr()?.port();
    ensure!(port != to.port(), "a port of its own");
    let (come, mut came) = tokio::sync::watch::channel(None);
    let (out, mut outward) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_ROAD);
    let (back, mut homeward) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_ROAD);
    let (from_near, from_far) = (std::sync::Arc::clone(&near), std::sync::Arc::clone(&far));
    tasks.spawn(async move {
        let mut datagram = vec![0; LARGEST];
        while let Ok((size, who)) = from_near.recv_from(&mut datagram).await {
            come.send_replace(Some(who));
            // A full road drops, as roads do.
            out.try_send((Instant::now() + ROAD, datagram[..size].to_vec())).ok();
        }
    });
    tasks.spawn(async move {
        let mut datagram = vec![0; LARGEST];
        while let Ok(size) = from_far.recv(&mut datagram).await {
            back.try_send((Instant::now() + ROAD, datagram[..size].to_vec())).ok();
        }
    });
    tasks.spawn(async move {
        while let Some((due, datagram)) = outward.recv().await {
            sleep_until(due).await;
            far.send(&datagram).await.ok();
        }
    });
    tasks.spawn(async move {
        while let Some((due, datagram)) = homeward.recv().await {
            sleep_until(due).await;
            if let Some(who) = *came.borrow_and_update() {
                near.try_send_to(&datagram, who).ok();
            }
        }
    });
    Ok(port)
}
