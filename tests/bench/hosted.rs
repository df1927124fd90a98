//! Row 16: what an atSign costs that is hosted and idle.

use anyhow::Result;

use crate::ground::{Ground, Holds, Host};
use crate::idle::SETTLED;
use crate::meter::{descriptors, resident};
use crate::report::{Bar, Row};

const MANY: usize = 10_000;

pub(crate) async fn run(_: bool) -> Result<Vec<Row>> {
    let ground = Ground::new()?;
    let (bytes_of_one, files_of_one) = held(&ground, "one", 1).await?;
    let (bytes, files) = held(&ground, "many", MANY).await?;
    let more = (MANY - 1) as f64;
    Ok(vec![
        Row::alone(
            "16",
            "hosted idle atSign, of 10000",
            "B",
            (bytes - bytes_of_one) / more,
            Bar::AtMost(4096.0),
        )
        .and("process, MB", bytes / 1e6),
        Row::alone(
            "16",
            "descriptors of 10000 hosted idle atSigns",
            "fds",
            files - files_of_one,
            Bar::AtMost(0.0),
        )
        .and("process", files),
    ])
}

/// Resident bytes and descriptors of a server that hosts so many.
async fn held(ground: &Ground, name: &str, tenants: usize) -> Result<(f64, f64)> {
    let host = Host::start(ground, name, Holds { tenants, keys: 0 }).await?;
    // One of them is used, so that what is only made once has been made.
    drop(host.sign_in(0).await?);
    tokio::time::sleep(4 * SETTLED).await;
    Ok((resident(host.id())? as f64, descriptors(host.id())? as f64))
}
