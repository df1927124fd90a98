//! How costs grow with other nodes: those that are spoken to, and those that are down.

use std::time::Duration;

use anyhow::{Context as _, Result};
use at_protocol::peer::Opening;
use tokio::time::interval;

use super::at_rate;
use super::far::{Bare, Far};
use super::fleet::{Fleet, Node, delivered, key, notify};
use super::flow::wait_for;
use super::latency::PERIOD;
use crate::client::Client;
use crate::curves::grows;
use crate::ground::{Ground, VALUE};
use crate::meter::{median, quantile, resident, spent};
use crate::notify::MONITOR;
use crate::report::{Bar, Row};

/// Notifications in a round.
const TIMES: usize = 500;
/// Rounds with nodes that are down, after one that only warms up.
const ROUNDS: usize = 5;
/// Between two notifications to a healthy node.
const SLOW: Duration = Duration::from_millis(5);
/// Bytes that a peer may cost.
const PEER: f64 = 25_000.0;
/// Until idle streams are closed.
const UNUSED: Duration = Duration::from_secs(12);

/// A server with one atSign that speaks to so many nodes.
struct Speaker<'a> {
    node: Node<'a>,
    owner: Client,
    peers: usize,
    sent: usize,
}

impl Speaker<'_> {
    /// One notification after the other, to the peers in turn, until all have arrived.
    async fn speak(&mut self, times: usize, period: Duration) -> Result<()> {
        let (mut beat, value) = (interval(period), "n".repeat(VALUE));
        let mut last = Vec::new();
        for _ in 0..times {
            beat.tick().await;
            self.sent += 1;
            let (to, id) = (format!("@p{}", self.sent % self.peers), format!("ae1-1-{}-1", self.sent));
            self.owner.exchange(&notify(&id, &to, &self.node.host.atsign(0), &value), 1).await?;
            last.push(id);
        }
        for id in last.iter().rev().take(self.peers) {
            delivered(&mut self.owner, id).await?;
        }
        Ok(())
    }
}

/// Peers that are connected: what a notification to one of them costs, and the memory that each takes.
pub(crate) async fn warm(sizes: &[usize]) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let fleet = Fleet::start(&ground).await?;
    let most = sizes.iter().max().copied().context("a size")?;
    let far = Far::start(&ground, "far", most, false)?;
    far.announce(&fleet, "p")?;
    let mut speakers = Vec::new();
    for (size, letter) in sizes.iter().zip(["w", "x", "y", "z"]) {
        let node = fleet.node(&format!("peers{size}"), letter, 1).await?;
        let owner = node.host.sign_in(0).await?;
        speakers.push(Speaker { node, owner, peers: *size, sent: 0 });
    }
    let mut resident_before = 0.0;
    for speaker in &mut speakers {
        // What is only made once has been made with the first.
        speaker.speak(1, PERIOD).await?;
        resident_before = resident(speaker.node.host.id())? as f64;
        speaker.speak(speaker.peers, PERIOD).await?;
    }
    let process = speakers.last().context("a speaker")?.node.host.id();
    let with_streams = (resident(process)? as f64 - resident_before) / (most - 1) as f64;
    let costs = async |place: usize| {
        let speaker = &mut speakers[place];
        Ok(spent(speaker.node.host.id(), speaker.speak(TIMES, PERIOD)).await? / TIMES as f64)
    };
    let mut rows = vec![grows("peers: notify to one of them", "us", sizes, 1.3, costs).await?];
    tokio::time::sleep(UNUSED).await;
    let without = (resident(process)? as f64 - resident_before) / (most - 1) as f64;
    let floor = bare(&far).await?;
    rows.push(
        Row::alone("curve", format!("warm peer over QUIC, of {most}"), "B", with_streams, Bar::AtMost(PEER))
            .and("later, its stream closed", without)
            .and("quinn alone, B", floor),
    );
    Ok(rows)
}

/// What a connection to each of the nodes takes in this process, with one stream that a line has passed on: quinn
/// alone.
async fn bare(far: &Far) -> Result<f64> {
    let (endpoint, opening) =
        (Bare::endpoint()?, Opening::Notify { from: "@w0".parse()?, to: "@p0".parse()? });
    let line = format!("{opening}\n");
    let (mut roads, mut before) = (Vec::with_capacity(far.nodes.len()), 0.0);
    for (number, node) in far.nodes.iter().enumerate() {
        let mut road = Bare::open_from(&endpoint, node).await?;
        road.latency(&line).await?;
        roads.push(road);
        if number == 0 {
            before = resident(std::process::id())? as f64;
        }
    }
    let after = resident(std::process::id())? as f64;
    Ok((after - before) / (roads.len() - 1) as f64)
}

/// Peers that are down and have something waiting: how long a notification to a healthy one takes.
pub(crate) async fn down(sizes: &[usize]) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let fleet = Fleet::start(&ground).await?;
    let healthy = fleet.node("healthy", "h", 1).await?;
    let mut monitor = healthy.host.sign_in(0).await?;
    monitor.turn(MONITOR).await?;
    let most = sizes.iter().max().copied().context("a size")?;
    let nowhere = atedge_tests::town::free_address()?.port();
    let gone: Vec<String> = (0..most).map(|number| format!("@d{number}")).collect();
    for (number, atsign) in (1000..).zip(&gone) {
        fleet.say(&key(number), std::slice::from_ref(atsign), nowhere)?;
    }
    let mut senders = Vec::new();
    for (size, letter) in sizes.iter().zip(["w", "x", "y", "z"]) {
        let mut node = fleet.prepare(&format!("down{size}"), letter, 1).await?;
        wait_for(&node.host.store()?, &node.host.atsign(0).parse()?, &gone[..*size]).await?;
        node.host.run()?;
        let owner = node.host.sign_in(0).await?;
        senders.push((node, owner));
    }
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let mut these = Vec::new();
        for (node, owner) in &mut senders {
            let line = format!("notify:@h0:reading.bench{}:{}\n", node.host.atsign(0), "n".repeat(VALUE));
            let say = async |_| owner.say(&line).await;
            let took = at_rate(TIMES, SLOW, say, async || monitor.hear(1).await).await?;
            owner.hear(TIMES).await?;
            these.push([quantile(&took, 0.5), quantile(&took, 0.99)]);
        }
        if round > 0 {
            rounds.push(these);
        }
    }
    let row = |which: usize, what: &str, bar| {
        let costs = |place: usize| rounds.iter().map(|these| these[place][which]).collect::<Vec<_>>();
        let points: Vec<_> =
            sizes.iter().enumerate().map(|(place, size)| (*size, median(&costs(place)))).collect();
        let last = sizes.len() - 1;
        let ratios: Vec<f64> = rounds.iter().map(|these| these[last][which] / these[0][which]).collect();
        Row::curve(what, "us", &points, median(&ratios), bar)
    };
    Ok(vec![
        row(0, "down peers: notify to a healthy one, p50", 1.1),
        row(1, "down peers: notify to a healthy one, p99", 1.1),
    ])
}
