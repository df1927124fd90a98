//! Row 3: what a login costs the server after the handshake, against one RSA signature checked.

use anyhow::Result;
use futures_util::future::try_join_all;

use crate::client::{Crowd, proof};
use crate::floor::Floor;
use crate::ground::{Ground, Holds, Host, atsign};
use crate::limits;
use crate::meter::{in_turn, median, spent};
use crate::report::{Bar, Row};

const CLIENTS: usize = 64;
/// Logins of each client in a round.
const LOGINS: usize = 15;

pub(crate) async fn run(_: bool) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let host = Host::start(&ground, "login", Holds { tenants: 1, keys: 0 }).await?;
    let floor = Floor::start(&ground, "data:success@a0")?;
    let mut crowd = host.crowd(0, CLIENTS).await?;
    let mut bare = floor.crowd(CLIENTS).await?;
    let mut trips = Vec::new();
    let [pair] = in_turn(
        async || Ok([cost(&host, &mut crowd, LOGINS).await?]),
        async || {
            // The two round trips of a login in the same rhythm: what the limit leaves out.
            trips.push(rhythm(&ground, floor.id(), &mut bare, LOGINS).await?);
            Ok([limits::verify(&ground.key, 2_000)?])
        },
    )
    .await?;
    let row = Row::of("3", "login, server cpu v one RSA verify", "us", pair, Bar::RatioAtMost(2.5));
    Ok(vec![row.and("logins/cpu-s", 1e6 / pair.ours).and("two bare TLS round trips, us", median(&trips))])
}

/// What the server spends on a login, in microseconds.
pub(crate) async fn cost(host: &Host<'_>, crowd: &mut Crowd, times: usize) -> Result<f64> {
    rhythm(host.ground, host.id(), crowd, times).await
}

/// All clients ask at the same time and answer at the same time: their signatures take far longer than
/// what a server does.
async fn rhythm(ground: &Ground, process: u32, crowd: &mut Crowd, times: usize) -> Result<f64> {
    let (key, line) = (&ground.key, format!("from:{}\n", atsign(0)));
    let cost = spent(process, async {
        for _ in 0..times {
            let asking = crowd.clients.iter_mut().map(|client| client.ask(&line));
            let challenges = try_join_all(asking).await?;
            let proofs: Vec<String> = challenges.iter().map(|asked| proof(key, asked)).collect();
            let answering =
                crowd.clients.iter_mut().zip(&proofs).map(|(client, proof)| client.exchange(proof, 1));
            try_join_all(answering).await?;
        }
        Ok(())
    });
    Ok(cost.await? / (times * crowd.clients.len()) as f64)
}
