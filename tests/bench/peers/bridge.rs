//! Mosquitto's bridge: two brokers, of which the first hands everything on to the second, quality of service 1,
//! in memory and in the clear.

use std::time::Duration;

use anyhow::{Context as _, Result};
use atedge_tests::process::{PATIENCE, Process};
use atedge_tests::town::free_address;
use tokio::time::timeout;

use super::at_rate;
use crate::ground::{Ground, VALUE};
use crate::mqtt::{Mqtt, broker};

const TOPIC: &str = "reading";

/// Both brokers, a publisher at the first, and a subscriber at the second.
pub(super) struct Bridge {
    _brokers: [Process; 2],
    publisher: Mqtt,
    subscriber: Mqtt,
}

impl Bridge {
    /// Starts them, and waits until what is said to the one is heard from the other.
    pub(super) async fn start(ground: &Ground) -> Result<Self> {
        let (near, far) = (free_address()?, free_address()?);
        let folder = ground.folder.path();
        let hand_on = format!("connection far\naddress {far}\ntopic # out 1\nnotifications false\n");
        let second = broker(folder, "mosquitto-far", far, "persistence false\n")?;
        let first = broker(folder, "mosquitto-near", near, &format!("persistence false\n{hand_on}"))?;
        let mut subscriber = Mqtt::connect(far, "subscriber", false).await?;
        subscriber.subscribe(TOPIC).await?;
        let publisher = Mqtt::connect(near, "publisher", false).await?;
        let mut bridge = Self { _brokers: [first, second], publisher, subscriber };
        let bridged = async {
            loop {
                bridge.publisher.publish(0, TOPIC, &[b'n'; VALUE]).await?;
                bridge.publisher.acknowledged().await?;
                if let Ok(heard) = timeout(Duration::from_millis(200), bridge.subscriber.hear()).await {
                    return heard;
                }
            }
        };
        timeout(PATIENCE, bridged).await.context("the brokers are not bridged")??;
        // What was said meanwhile may still come.
        while let Ok(heard) = timeout(Duration::from_millis(500), bridge.subscriber.hear()).await {
            heard?;
        }
        Ok(bridge)
    }

    /// Publishes at a rate, and gives how long each message took to arrive, in microseconds.
    pub(super) async fn round(&mut self, times: usize, period: Duration) -> Result<Vec<f64>> {
        let Self { publisher, subscriber, .. } = self;
        let publish = async |number| publisher.publish(number, TOPIC, &[b'n'; VALUE]).await;
        let took = at_rate(times, period, publish, async || subscriber.hear().await).await?;
        for _ in 0..times {
            publisher.acknowledged().await?;
        }
        Ok(took)
    }
}
