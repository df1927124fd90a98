//! Row 9: how much one server brings to another that is durable at both, by what the busier side spends on it,
//! against the same bytes over QUIC alone and rows committed by SQLite alone.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use at_protocol::verb::{MessageType, Operation, Priority, Strategy};
use at_protocol::{AtSign, Metadata, Timestamp};
use atedge_server::store::{Kind, Notification, SqliteStore, Status, Store as _};

use super::far::{Bare, Far};
use super::fleet::{Fleet, Node, delivered, notify};
use crate::ground::{Ground, VALUE};
use crate::limits::Rows;
use crate::meter::{cpu_of, in_turn, median, micros, spent};
use crate::report::{Bar, Row};

/// Notifications that wait when the servers find each other.
const WAITING: usize = 50_000;
/// Notifications that are queued in one transaction.
const FILL: usize = 500;
/// How long notifications live, in milliseconds.
const DAY: u64 = 24 * 60 * 60 * 1000;
/// Until the lanes wait for the directory.
const SETTLED: Duration = Duration::from_millis(300);

/// What a notification cost, in microseconds.
struct Cost {
    sender: f64,
    receiver: f64,
    wall: f64,
}

pub(super) async fn run(long: bool) -> Result<Vec<Row>> {
    let waiting = if long { 4 * WAITING } else { WAITING };
    let ground = Ground::new()?;
    let fleet = Fleet::start(&ground).await?;
    let far = Far::start(&ground, "bare", 1, true)?;
    let mut bare = Bare::open(far.nodes.first().context("a node")?).await?;
    let mut rows = Rows::open(ground.folder.path())?;
    let line = notify("ae1-1-1-1", "@r0", "@s0", &"n".repeat(VALUE));
    let mut told = Vec::new();
    for pairs in [1, 50] {
        let (mut costs, mut wires, mut commits, mut round) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let [pair] = in_turn(
            async || {
                round += 1;
                let cost = drained(&fleet, &format!("{pairs}-{round}"), pairs, waiting).await?;
                let rate = 1e6 / cost.sender.max(cost.receiver);
                costs.push(cost);
                Ok([rate])
            },
            async || {
                let times = waiting as f64;
                let before = cpu_of(std::process::id())?;
                let there = spent(far.id(), bare.rush(waiting, &line)).await?;
                let here = micros(cpu_of(std::process::id())?.saturating_sub(before));
                let [_, row] = rows.upsert(100, 100)?;
                let (wire, commit) = (times / there.max(here) * 1e6, 1e6 / row);
                wires.push(wire);
                commits.push(commit);
                Ok([wire.min(commit)])
            },
        )
        .await?;
        let of = |figure: fn(&Cost) -> f64| median(&costs.iter().map(figure).collect::<Vec<_>>());
        let what = format!("server to server, {waiting} waiting, {pairs} pairs");
        told.push(
            Row::of("9", what, "/cpu-s", pair, Bar::RatioAtLeast(0.7))
                .and("sender, us", of(|cost| cost.sender))
                .and("receiver, us", of(|cost| cost.receiver))
                .and("wall, /s", 1e6 / of(|cost| cost.wall))
                .and("QUIC alone, /cpu-s", median(&wires))
                .and("rows alone, /cpu-s", median(&commits)),
        );
    }
    Ok(told)
}

/// Two new servers: the first brings the second what waits in its store.
async fn drained(fleet: &Fleet<'_>, name: &str, pairs: usize, waiting: usize) -> Result<Cost> {
    let receiver = fleet.node(&format!("receiver-{name}"), "r", pairs).await?;
    let mut sender = fleet.prepare(&format!("sender-{name}"), "s", pairs).await?;
    let each = waiting / pairs;
    fill(&sender, &receiver, pairs, each).await?;
    fleet.set_open(false);
    sender.host.run()?;
    let mut owners = Vec::new();
    for number in 0..pairs {
        owners.push(sender.host.sign_in(number).await?);
    }
    tokio::time::sleep(SETTLED).await;
    let (here, there) = (cpu_of(sender.host.id())?, cpu_of(receiver.host.id())?);
    let began = Instant::now();
    fleet.set_open(true);
    let last = id(each - 1);
    for owner in &mut owners {
        delivered(owner, &last).await?;
    }
    let wall = began.elapsed();
    let each = |spent: Duration| micros(spent) / waiting as f64;
    Ok(Cost {
        sender: each(cpu_of(sender.host.id())?.saturating_sub(here)),
        receiver: each(cpu_of(receiver.host.id())?.saturating_sub(there)),
        wall: each(wall),
    })
}

fn id(number: usize) -> String {
    format!("ae1-1-{number}-1")
}

/// Puts notifications between each pair into the sender's store.
async fn fill(sender: &Node<'_>, receiver: &Node<'_>, pairs: usize, each: usize) -> Result<()> {
    let store = sender.host.store()?;
    for pair in 0..pairs {
        let (from, to) = (sender.host.atsign(pair).parse()?, receiver.host.atsign(pair).parse()?);
        let all: Vec<usize> = (0..each).collect();
        for numbers in all.chunks(FILL) {
            let these = numbers.iter().map(|number| notification(id(*number), &from, &to)).collect();
            store.send_all(these, Timestamp::from(SystemTime::now())).await?;
        }
    }
    Ok(())
}

/// One that waits for each of so many recipients, from one atSign.
pub(super) async fn wait_for(store: &SqliteStore, from: &AtSign, to: &[String]) -> Result<()> {
    for some in to.chunks(FILL) {
        let these = some.iter().map(|to| Ok(notification(id(0), from, &to.parse()?)));
        let these = these.enumerate().map(|(number, one)| {
            one.map(|one: Notification| Notification { id: format!("{}-{}", one.to, id(number)), ..one })
        });
        let these = these.collect::<Result<Vec<_>>>()?;
        store.send_all(these, Timestamp::from(SystemTime::now())).await?;
    }
    Ok(())
}

fn notification(id: String, from: &AtSign, to: &AtSign) -> Notification {
    // The store says when.
    let some_time = Timestamp::from_millis(0);
    Notification {
        kind: Kind::Sent,
        id,
        from: from.clone(),
        to: to.clone(),
        key: format!("{to}:reading.bench{from}"),
        value: Some("n".repeat(VALUE)),
        operation: Operation::Update,
        message_type: MessageType::Key,
        priority: Priority::Low,
        strategy: Strategy::All,
        latest_n: 1,
        notifier: "SYSTEM".to_owned(),
        ttln: DAY,
        is_encrypted: false,
        metadata: Metadata::default(),
        created: some_time,
        expires: some_time,
        status: Status::Queued,
        attempts: 0,
    }
}
