//! What crosses nodes: real servers that find each other by signed records and speak over QUIC, against the
//! same bytes over QUIC alone, and commits of SQLite alone.

mod bridge;
mod far;
mod first;
mod fleet;
mod flow;
mod growth;
mod latency;

use std::time::Instant;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::time::{Duration, interval};

use crate::meter::micros;
use crate::report::Row;

pub(crate) use far::{Told, serve};
pub(crate) use growth::{down, warm};

pub(crate) async fn run(long: bool) -> Result<Vec<Row>> {
    let mut rows = latency::run().await?;
    rows.extend(flow::run(long).await?);
    rows.extend(first::run().await?);
    Ok(rows)
}

/// Sends once in every `period`, whether or not what was sent before has arrived, and gives how long each took
/// to be heard, in microseconds.
async fn at_rate(
    times: usize,
    period: Duration,
    mut send: impl AsyncFnMut(usize) -> Result<()>,
    mut hear: impl AsyncFnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let (tell, mut told) = mpsc::unbounded_channel();
    let sending = async {
        let mut beat = interval(period);
        for number in 0..times {
            beat.tick().await;
            tell.send(Instant::now())?;
            send(number).await?;
        }
        anyhow::Ok(())
    };
    let hearing = async {
        let mut took = Vec::with_capacity(times);
        while took.len() < times {
            hear().await?;
            let began = told.recv().await.context("what was heard was sent")?;
            took.push(micros(began.elapsed()));
        }
        Ok(took)
    };
    let ((), took) = tokio::try_join!(sending, hearing)?;
    Ok(took)
}
