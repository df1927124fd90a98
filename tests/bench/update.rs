//! Rows 4 and 5: durable updates, many at a time against grouped commits of the same disk, and one at a
//! time against one commit and one round trip.

use std::time::Instant;

use anyhow::Result;
use atedge_tests::random::Random;

use crate::floor::Floor;
use crate::ground::{Ground, Holds, Host, VALUE};
use crate::limits::Rows;
use crate::meter::{Pair, in_turn, median, micros, spent};
use crate::report::{Bar, Row};

const CLIENTS: usize = 64;
/// Lines that a client has on their way.
const WINDOW: usize = 16;
const ROUNDS: usize = 10;
/// Updates one at a time.
const TIMES: usize = 1_000;
/// Keys that are written.
const KEYS: u64 = 10_000;

/// An update of one of the first `keys` keys.
pub(crate) fn line(random: &mut Random, keys: u64) -> String {
    format!("update:k{}.bench@a0 {}\n", random.below(keys), "w".repeat(VALUE))
}

pub(crate) async fn run(_: bool) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let host = Host::start(&ground, "update", Holds { tenants: 1, keys: 10_000 }).await?;
    let mut rows = Rows::open(ground.folder.path())?;
    rows.upsert(100, 100)?;
    let mut crowd = host.crowd(0, CLIENTS).await?;
    let updates = (CLIENTS * WINDOW * ROUNDS) as f64;
    let [wall, cpu] = in_turn(
        async || {
            let began = Instant::now();
            let cost = spent(host.id(), crowd.rush(ROUNDS, WINDOW, |random| line(random, KEYS))).await?;
            Ok([micros(began.elapsed()) / updates, cost / updates])
        },
        async || rows.upsert(100, 100),
    )
    .await?;
    let rate = |pair: Pair| Pair { ours: 1e6 / pair.ours, limit: 1e6 / pair.limit, ratio: 1.0 / pair.ratio };
    let one = one_at_a_time(&ground, &host, &mut rows).await?;
    Ok(vec![
        Row::of("4", "update, 64 pipelined clients, wall", "/s", rate(wall), Bar::RatioAtLeast(0.5)),
        Row::of("4", "update, 64 pipelined clients, cpu", "us", cpu, Bar::RatioAtMost(2.5)),
        one,
    ])
}

async fn one_at_a_time(ground: &Ground, host: &Host<'_>, rows: &mut Rows) -> Result<Row> {
    let floor = Floor::start(ground, "data:12345")?;
    let (mut client, mut bare) = (host.sign_in(0).await?, floor.dial().await?);
    let mut random = Random::new(1);
    let (mut ours, mut trips, mut commits) = (Vec::new(), Vec::new(), Vec::new());
    // In turn one by one: a shared disk is fast and slow by the second.
    for _ in 0..TIMES {
        let line = line(&mut random, KEYS);
        ours.push(client.latency(&line).await?);
        trips.push(bare.latency(&line).await?);
        commits.push(rows.single()?);
    }
    let (ours, limit) = (median(&ours), median(&trips) + median(&commits));
    let pair = Pair { ours, limit, ratio: ours / limit };
    Ok(Row::of("5", "update, one at a time, p50", "us", pair, Bar::RatioAtMost(1.5)))
}
