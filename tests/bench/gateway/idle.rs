//! Row 20: what an agent costs that is connected and has nothing to do.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::site::Site;
use crate::meter::{cpu_of, wakes};
use crate::report::{Bar, Row, progress};

/// Until what the start has set off is over.
const SETTLED: Duration = Duration::from_secs(5);

pub(super) async fn run(long: bool) -> Result<Vec<Row>> {
    let time = Duration::from_secs(if long { 300 } else { 60 });
    let mut site = Site::new(true)?;
    site.start().await?;
    site.gateway.until_logged(0, "signed in")?;
    sleep(SETTLED).await;
    progress(format_args!("nothing is done for {} s", time.as_secs()));
    let agent = site.agent()?;
    let before = (wakes(agent)?, cpu_of(agent)?);
    sleep(time).await;
    let woken = wakes(agent)? - before.0;
    let cpu = cpu_of(agent)?.saturating_sub(before.1);
    Ok(vec![
        Row::alone(
            "20",
            "wake-ups without traffic",
            "/s",
            woken as f64 / time.as_secs_f64(),
            Bar::AtMost(1.0),
        ),
        Row::alone("20", "cpu in an hour", "s", cpu.as_secs_f64() * 3600.0 / time.as_secs_f64(), Bar::None),
    ])
}
