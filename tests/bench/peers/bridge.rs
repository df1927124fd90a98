//! Mosquitto's bridge: two brokers, of which the first hands everything on to the second, quality of service 1,
//! in memory and in the clear.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use atedge_tests::process::{PATIENCE, Process};
use atedge_tests::town::free_address;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::at_rate;
use crate::ground::{Ground, VALUE};

/// Packets of MQTT 3.1.1, by the first byte.
const CONNECT: u8 = 0x10;
const CONNECTED: u8 = 0x20;
const PUBLISH_ONCE_AT_LEAST: u8 = 0x32;
const PUBLISHED: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBSCRIBED: u8 = 0x90;

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
        let hand_on = format!("connection far\naddress {far}\ntopic # out 1\nnotifications false\n");
        let second = broker(ground, "mosquitto-far", far, "")?;
        let first = broker(ground, "mosquitto-near", near, &hand_on)?;
        let mut subscriber = Mqtt::connect(far, "subscriber").await?;
        subscriber.subscribe().await?;
        let publisher = Mqtt::connect(near, "publisher").await?;
        let mut bridge = Self { _brokers: [first, second], publisher, subscriber };
        let bridged = async {
            loop {
                bridge.publisher.publish(0).await?;
                bridge.publisher.until(PUBLISHED).await?;
                let heard = bridge.subscriber.until(PUBLISH_ONCE_AT_LEAST);
                if let Ok(heard) = timeout(Duration::from_millis(200), heard).await {
                    return heard;
                }
            }
        };
        timeout(PATIENCE, bridged).await.context("the brokers are not bridged")??;
        // What was said meanwhile may still come.
        while let Ok(heard) =
            timeout(Duration::from_millis(500), bridge.subscriber.until(PUBLISH_ONCE_AT_LEAST)).await
        {
            heard?;
        }
        Ok(bridge)
    }

    /// Publishes at a rate, and gives how long each message took to arrive, in microseconds.
    pub(super) async fn round(&mut self, times: usize, period: Duration) -> Result<Vec<f64>> {
        let Self { publisher, subscriber, .. } = self;
        let publish = async |number| publisher.publish(number).await;
        let took =
            at_rate(times, period, publish, async || subscriber.until(PUBLISH_ONCE_AT_LEAST).await).await?;
        for _ in 0..times {
            publisher.until(PUBLISHED).await?;
        }
        Ok(took)
    }
}

fn broker(ground: &Ground, name: &str, address: SocketAddr, more: &str) -> Result<Process> {
    let config = ground.folder.path().join(format!("{name}.conf"));
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\nuser root\npersistence false\nset_tcp_nodelay true\n\
         max_inflight_messages 1000\nlog_type error\nlog_dest stderr\n{more}",
        address.port()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("sh");
    command.args(["-c", "PATH=$PATH:/usr/sbin exec mosquitto -c \"$0\" 2>&1"]).arg(&config);
    Process::start_ready(name, &mut command, ground.folder.path())
        .context("mosquitto is needed: apt-get install mosquitto")
}

/// A client of a broker, as little of it as there can be.
struct Mqtt {
    stream: BufReader<TcpStream>,
}

impl Mqtt {
    async fn connect(address: SocketAddr, name: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream: BufReader::new(stream) };
        // Level 4, a clean session, kept alive for ten minutes.
        let hello = [&text("MQTT"), &[4, 2, 2, 88][..], &text(name)].concat();
        client.say(CONNECT, &hello).await?;
        client.until(CONNECTED).await?;
        Ok(client)
    }

    async fn subscribe(&mut self) -> Result<()> {
        let wish = [&[0, 1][..], &text(TOPIC), &[1]].concat();
        self.say(SUBSCRIBE, &wish).await?;
        self.until(SUBSCRIBED).await
    }

    async fn publish(&mut self, number: usize) -> Result<()> {
        let id = u16::try_from(number % 60_000 + 1)?.to_be_bytes();
        let message = [&text(TOPIC), &id[..], &[b'n'; VALUE]].concat();
        self.say(PUBLISH_ONCE_AT_LEAST, &message).await
    }

    /// Reads a packet, which must be of this kind; a message is acknowledged.
    async fn until(&mut self, kind: u8) -> Result<()> {
        let heard = self.stream.read_u8().await?;
        ensure!(heard == kind, "the broker said {heard:#x} instead of {kind:#x}");
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.stream.read_u8().await?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
            if shift > 21 {
                bail!("the broker said a length that is none");
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        if kind == PUBLISH_ONCE_AT_LEAST {
            let id = body.get(2 + TOPIC.len()..4 + TOPIC.len()).context("a packet's number")?.to_vec();
            self.say(PUBLISHED, &id).await?;
        }
        Ok(())
    }

    async fn say(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        let (mut packet, mut length) = (vec![kind], body.len());
        loop {
            let more = length > 0x7f;
            packet.push(u8::try_from(length & 0x7f)? | if more { 0x80 } else { 0 });
            length >>= 7;
            if !more {
                break;
            }
        }
        packet.extend_from_slice(body);
        Ok(self.stream.get_mut().write_all(&packet).await?)
    }
}

/// A text with its length.
fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}
