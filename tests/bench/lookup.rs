//! Row 6: look-ups against a bare TLS echo of the same bytes.

use anyhow::Result;
use atedge_tests::random::Random;

use crate::client::Crowd;
use crate::floor::Floor;
use crate::ground::{Ground, Holds, Host, VALUE};
use crate::meter::{Pair, in_turn, spent};
use crate::report::{Bar, Row};

const CLIENTS: usize = 64;
/// Keys of the store; most of them are read from the database.
const KEYS: usize = 100_000;
/// Keys that are asked for again and again.
const HOT: u64 = 1_000;

/// A look-up of one of the first `keys` keys.
pub(crate) fn line(random: &mut Random, keys: u64) -> String {
    format!("llookup:k{}.bench@a0\n", random.below(keys))
}

pub(crate) async fn run(_: bool) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let host = Host::start(&ground, "lookup", Holds { tenants: 1, keys: KEYS }).await?;
    let mut ours = host.crowd(0, CLIENTS).await?;
    // The prompt of the server is three bytes longer than the floor's.
    let floor = Floor::start(&ground, &format!("data:{}@a0", "v".repeat(VALUE)))?;
    let mut bare = floor.crowd(CLIENTS).await?;
    let mut row = async |what: &str, keys: u64, window: usize, bar: Bar| {
        let rounds = 200 / window;
        let many = (CLIENTS * rounds * window) as f64;
        // The look-ups of a process, for a second of its processor time.
        let rate = async |process: u32, crowd: &mut Crowd| {
            let cost = spent(process, crowd.rush(rounds, window, move |random| line(random, keys))).await?;
            anyhow::Ok([many / cost * 1e6])
        };
        let pair: [Pair; 1] =
            in_turn(async || rate(host.id(), &mut ours).await, async || rate(floor.id(), &mut bare).await)
                .await?;
        anyhow::Ok(Row::of("6", what, "/cpu-s", pair[0], bar))
    };
    Ok(vec![
        row("llookup, hot keys", HOT, 1, Bar::RatioAtLeast(0.6)).await?,
        row("llookup, all keys alike", KEYS as u64, 1, Bar::None).await?,
        row("llookup, hot keys, 10 lines a write", HOT, 10, Bar::None).await?,
    ])
}
