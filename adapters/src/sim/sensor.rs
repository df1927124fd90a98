//! A device that publishes over MQTT and takes commands on a topic.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use tokio::sync::mpsc;

/// Publishes waiting for their PUBACK at a time.
const IN_FLIGHT: u16 = 16;

/// An MQTT device: publishes with QoS 1 to one topic and is subscribed to another.
pub struct Sensor {
    client: AsyncClient,
    connection: rumqttc::EventLoop,
    topic: String,
    commands: String,
}

/// The sensor could not reach its broker, or lost it.
#[derive(Debug, thiserror::Error)]
#[error("the simulated sensor lost {broker}: {cause}")]
pub struct SensorError {
    broker: SocketAddr,
    cause: rumqttc::ConnectionError,
}

impl Sensor {
    /// A sensor `name` that will publish to `topic` of whoever listens at `broker`, and takes what is
    /// published to `commands`.
    #[must_use]
    pub fn new(name: &str, broker: SocketAddr, topic: &str, commands: &str) -> Self {
        let mut options = MqttOptions::new(name, broker.ip().to_string(), broker.port());
        options.set_clean_session(false).set_inflight(IN_FLIGHT).set_keep_alive(Duration::from_secs(30));
        let (client, connection) = AsyncClient::new(options, usize::from(IN_FLIGHT));
        Self { client, connection, topic: topic.to_owned(), commands: commands.to_owned() }
    }

    /// Publishes what comes in until `payloads` closes and everything is acknowledged; hands on what is
    /// published to its command topic. Returns how many payloads were acknowledged.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn run(
        mut self,
        mut payloads: mpsc::Receiver<Vec<u8>>,
        commands: mpsc::Sender<Vec<u8>>,
    ) -> Result<u64, SensorError> {
        let (mut published, mut acknowledged) = (0u64, 0u64);
        let mut open = true;
        while open || acknowledged < published {
            tokio::select! {
                payload = payloads.recv(), if open && published - acknowledged < u64::from(IN_FLIGHT) => match payload {
                    // The queue of requests holds as many as may be in flight: there is room.
                    Some(payload) => published += u64::from(self.publish(payload)),
                    None => open = false,
                },
                event = self.connection.poll() => match event {
                    Err(cause) => return Err(SensorError { broker: self.broker(), cause }),
                    Ok(Event::Incoming(Incoming::ConnAck(_))) => self.subscribe(),
                    Ok(Event::Incoming(Incoming::PubAck(_))) => acknowledged += 1,
                    Ok(Event::Incoming(Incoming::Publish(publish))) => {
                        // Whoever asked for commands and does not take them has lost interest.
                        drop(commands.try_send(publish.payload.to_vec()));
                    }
                    Ok(_) => {}
                },
            }
        }
        Ok(acknowledged)
    }

    fn publish(&self, payload: Vec<u8>) -> bool {
        self.client.try_publish(&self.topic, QoS::AtLeastOnce, false, payload).is_ok()
    }

    fn subscribe(&self) {
        drop(self.client.try_subscribe(&self.commands, QoS::AtLeastOnce));
    }

    fn broker(&self) -> SocketAddr {
        let (host, port) = self.connection.mqtt_options.broker_address();
        SocketAddr::new(host.parse().expect("made from a socket address"), port)
    }
}
