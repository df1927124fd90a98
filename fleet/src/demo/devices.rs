//! The devices of the demo: a sensor that publishes over MQTT, and a scale that answers on a serial line.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use atedge_adapters::sim::{Scale, Sensor};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Time between two readings of the sensor.
const SENSE_EVERY: Duration = Duration::from_millis(100);
/// How long the gateway may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// The topic to which the sensor publishes.
pub(super) const SENSOR_TOPIC: &str = "factory/oven/env";
/// The topic to which commands for the sensor go.
pub(super) const COMMAND_TOPIC: &str = "factory/oven/set";

/// What the sensor did.
#[derive(Debug)]
pub(super) struct Sensed {
    /// Readings that the gateway acknowledged.
    pub(super) acknowledged: u64,
    /// Commands that reached the sensor, as they were published.
    pub(super) commands: Vec<String>,
}

/// Publishes readings with `canary` in each until `stop`, then waits for their acknowledgements. Each
/// payload is also handed to `copy`.
///
/// # Errors
/// The gateway does not listen, or the connection failed.
pub(super) async fn sense(
    gateway: SocketAddr,
    canary: String,
    copy: mpsc::Sender<String>,
    stop: CancellationToken,
) -> Result<Sensed> {
    listening(gateway).await?;
    let (payloads, outgoing) = mpsc::channel(1);
    let (incoming, mut commands) = mpsc::channel(16);
    let sensor = Sensor::new("oven", gateway, SENSOR_TOPIC, COMMAND_TOPIC);
    let publishing = async move {
        let mut ticks = interval(SENSE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for seq in 0u64.. {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => break,
            }
            let wave = f64::from(u32::try_from(seq % 60).unwrap_or(0));
            let payload =
                json!({ "temp": 180.0 + wave / 10.0, "door": seq % 50 == 0, "seq": seq, "batch": canary });
            // The demo looks at copies only when it searches for plaintext; otherwise nobody takes them.
            copy.try_send(payload.to_string()).ok();
            if payloads.send(payload.to_string().into_bytes()).await.is_err() {
                break;
            }
        }
    };
    let (acknowledged, ()) = tokio::join!(sensor.run(outgoing, incoming), publishing);
    let mut heard = Vec::new();
    while let Some(command) = commands.recv().await {
        heard.push(String::from_utf8_lossy(&command).into_owned());
    }
    Ok(Sensed { acknowledged: acknowledged?, commands: heard })
}

/// Waits until somebody listens there. A listener in another task gives no sign but that it answers.
async fn listening(address: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("the gateway does not listen on {address}"));
            }
            _ => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Answers each question of the gateway with a weight, `canary` in each, until `stop`. Gives the number of
/// answers.
///
/// # Errors
/// The serial line failed.
pub(super) async fn weigh(scale: &mut Scale, canary: String, stop: CancellationToken) -> Result<u64> {
    let mut answers = 0u64;
    loop {
        let question = tokio::select! {
            question = scale.hear() => question?,
            () = stop.cancelled() => return Ok(answers),
        };
        for _ in question.iter().filter(|byte| **byte == b'\n') {
            let grams = 500 + answers % 100;
            scale.say(&format!("+{}.{:03} kg {canary}", grams / 1000, grams % 1000)).await?;
            answers += 1;
        }
    }
}
