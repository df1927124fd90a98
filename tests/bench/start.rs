//! Row 17: from the start of the process to the first answered command of an owner who signs in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use atedge_tests::process::PATIENCE;
use rustls::ClientConfig;

use crate::client::Client;
use crate::floor::Floor;
use crate::ground::{Ground, Holds, Host, atsign};
use crate::meter::in_turn;
use crate::report::{Bar, Row};

pub(crate) async fn run(long: bool) -> Result<Vec<Row>> {
    let keys = if long { 1_000_000 } else { 100_000 };
    let ground = Ground::new()?;
    let mut host = Host::prepare(&ground, "start", Holds { tenants: 1, keys }).await?;
    let [pair] = in_turn(
        async || Ok([cold(&mut host).await?]),
        async || {
            let began = Instant::now();
            let floor = Floor::launch(&ground, "data:1")?;
            dial(floor.address, &ground.tls).await?.exchange("noop:0\n", 1).await?;
            Ok([began.elapsed().as_secs_f64() * 1e3])
        },
    )
    .await?;
    let what = format!("start to first answer, {keys} keys, files in the system's cache");
    Ok(vec![Row::of("17", what, "ms", pair, Bar::AtMost(100.0))])
}

/// Starts a server and stops it again; milliseconds until a look-up was answered.
pub(crate) async fn cold(host: &mut Host<'_>) -> Result<f64> {
    let began = Instant::now();
    host.launch()?;
    let mut client = dial(host.address, &host.ground.tls).await?;
    client.sign_in(&atsign(0), &host.ground.key).await?;
    client.exchange("llookup:k0.bench@a0\n", 1).await?;
    let took = began.elapsed();
    drop(client);
    host.stop()?;
    Ok(took.as_secs_f64() * 1e3)
}

/// Connects as soon as somebody listens.
pub(crate) async fn dial(address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<Client> {
    let began = Instant::now();
    loop {
        match Client::dial(address, tls).await {
            Ok(client) => return Ok(client),
            Err(error) => ensure!(began.elapsed() < PATIENCE, "nobody listens on {address}: {error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
