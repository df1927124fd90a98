//! Row 7: a notification from an atSign of one server to one of another, from the sender's write to the line at
//! the receiver's monitor, durable at both: two commits and two round trips are its limit. Beside it Mosquitto's
//! bridge, where nothing is durable and nothing encrypted.

use std::time::Duration;

use anyhow::Result;

use super::at_rate;
use super::bridge::Bridge;
use super::far::{Bare, Far};
use super::fleet::Fleet;
use crate::floor::Floor;
use crate::ground::{Ground, VALUE};
use crate::limits::Rows;
use crate::meter::{Pair, median, quantile};
use crate::notify::MONITOR;
use crate::report::{Bar, Row};

/// Five hundred a second.
pub(super) const PERIOD: Duration = Duration::from_millis(2);
/// Notifications in a round.
const TIMES: usize = 1_000;
/// How often the parts of the limit are measured in a round.
const PARTS: usize = 200;
/// Rounds, after one that only warms up.
const ROUNDS: usize = 5;

/// What one round comes to, in microseconds.
struct Round {
    ours: Vec<f64>,
    bridge: Vec<f64>,
    limit: f64,
    /// What the parts of the limit take together, one after the other.
    together: Vec<f64>,
}

pub(super) async fn run() -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let mut bridge = Bridge::start(&ground).await?;
    let fleet = Fleet::start(&ground).await?;
    let (first, second) = (fleet.node("first", "a", 1).await?, fleet.node("second", "b", 1).await?);
    let (mut sender, mut receiver) = (first.host.sign_in(0).await?, second.host.sign_in(0).await?);
    receiver.turn(MONITOR).await?;
    let floor = Floor::start(&ground, "data:6f1c7d4a-2f8e-4b3a-9d7e-1c2b3a4d5e6f")?;
    let far = Far::start(&ground, "bare", 1, true)?;
    let (mut tls, mut quic) = (floor.dial().await?, Bare::open(&far.nodes[0]).await?);
    let mut rows = Rows::open(ground.folder.path())?;
    let line = format!("notify:@b0:reading.bench@a0:{}\n", "n".repeat(VALUE));
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let say = async |_| sender.say(&line).await;
        let ours = at_rate(TIMES, PERIOD, say, async || receiver.hear(1).await).await?;
        sender.hear(TIMES).await?;
        let bridge = bridge.round(TIMES, PERIOD).await?;
        let mut parts = [const { Vec::new() }; 3];
        let mut together = Vec::new();
        for _ in 0..PARTS {
            let these =
                [tls.latency(&line).await?, quic.latency(&line).await?, rows.single()? + rows.single()?];
            together.push(these.iter().sum());
            parts.iter_mut().zip(these).for_each(|(all, one)| all.push(one));
        }
        let limit = parts.iter().map(|all| median(all)).sum();
        if round > 0 {
            rounds.push(Round { ours, bridge, limit, together });
        }
    }
    let against = |ours: &dyn Fn(&Round) -> f64, limit: &dyn Fn(&Round) -> f64| {
        let all = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
        let ratios = all(&|round| ours(round) / limit(round));
        Pair { ours: median(&all(ours)), limit: median(&all(limit)), ratio: median(&ratios) }
    };
    let ours = |part: f64| move |round: &Round| quantile(&round.ours, part);
    let theirs = |part: f64| move |round: &Round| quantile(&round.bridge, part);
    let limit = |round: &Round| round.limit;
    let own = median(&rounds.iter().map(|round| quantile(&round.together, 0.99)).collect::<Vec<_>>());
    let of = |what: &str, pair, bar| Row::of("7", what, "us", pair, bar);
    Ok(vec![
        of("notify across nodes, 500/s, p50", against(&ours(0.5), &limit), Bar::RatioAtMost(2.0)),
        of("notify across nodes, 500/s, p99", against(&ours(0.99), &limit), Bar::RatioAtMost(5.0))
            .and("the limit's own p99", own),
        of("the same v Mosquitto's bridge, not durable, p50", against(&ours(0.5), &theirs(0.5)), Bar::None),
        of(
            "the same v Mosquitto's bridge, not durable, p99",
            against(&ours(0.99), &theirs(0.99)),
            Bar::RatioAtMost(2.0),
        ),
    ])
}
