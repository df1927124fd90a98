//! Row 3: what a login costs the server after the handshake, against one RSA signature checked.

use std::sync::Arc;

use anyhow::Result;

use crate::ground::{Ground, Holds, Host, atsign};
use crate::limits;
use crate::meter::{in_turn, micros, spent};
use crate::report::{Bar, Row};

const CLIENTS: usize = 16;
/// Logins of each client in a round: their signatures, not the server, are what takes the time.
const LOGINS: u32 = 60;

pub(crate) async fn run(_: bool) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let host = Host::start(&ground, "login", Holds { tenants: 1, keys: 0 }).await?;
    let mut crowd = host.crowd(0, CLIENTS).await?;
    let logins = f64::from(LOGINS) * CLIENTS as f64;
    let mut wall = Vec::new();
    let [pair] = in_turn(
        async || {
            let key = Arc::clone(&ground.key);
            let began = std::time::Instant::now();
            let cost = spent(host.id(), crowd.all(move |_, mut client| {
                let key = Arc::clone(&key);
                async move {
                    for _ in 0..LOGINS {
                        client.sign_in(&atsign(0), &key).await?;
                    }
                    Ok(client)
                }
            }))
            .await?;
            wall.push(micros(began.elapsed()) / logins);
            Ok([cost / logins])
        },
        async || Ok([limits::verify(&ground.key, 2_000)?]),
    )
    .await?;
    let row = Row::of("3", "login, server cpu v one RSA verify", "us", pair, Bar::RatioAtMost(2.5));
    let wall = crate::meter::median(&wall);
    Ok(vec![row.and("logins/cpu-s", 1e6 / pair.ours).and("logins/s, clients sign on the same cores", 1e6 / wall)])
}
