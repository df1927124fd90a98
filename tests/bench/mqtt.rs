//! MQTT 3.1.1 with as little of it as there can be: a broker to measure against, and clients of brokers and gateways.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use atedge_tests::process::Process;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Packets, by the first byte.
const CONNECT: u8 = 0x10;
const CONNECTED: u8 = 0x20;
const PUBLISH_ONCE_AT_LEAST: u8 = 0x32;
const PUBLISHED: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBSCRIBED: u8 = 0x90;

/// Messages of one client that nobody has acknowledged yet, at most, unless it says otherwise.
const WINDOW: usize = 100;

/// Starts mosquitto.
pub(crate) fn broker(folder: &Path, name: &str, address: SocketAddr, more: &str) -> Result<Process> {
    Process::start_ready(name, &mut broker_command(folder, name, address, more, "exec")?, folder)
        .context("mosquitto is needed: apt-get install mosquitto")
}

/// The command that starts it under another program, as a shell has it.
pub(crate) fn broker_command(
    folder: &Path,
    name: &str,
    address: SocketAddr,
    more: &str,
    under: &str,
) -> Result<Command> {
    let config = folder.join(format!("{name}.conf"));
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\nmax_inflight_messages 1000\n\
         max_queued_messages 0\nlog_type error\nlog_dest stderr\n{more}",
        address.port()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("sh");
    command.args(["-c", &format!("PATH=$PATH:/usr/sbin; {under} mosquitto -c \"$0\" 2>&1")]).arg(&config);
    Ok(command)
}

/// A client.
pub(crate) struct Mqtt {
    stream: BufReader<TcpStream>,
    window: usize,
}

impl Mqtt {
    /// Connects; where it `stays`, the broker keeps what comes for it while it is away.
    pub(crate) async fn connect(address: SocketAddr, name: &str, stays: bool) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream: BufReader::with_capacity(1 << 16, stream), window: WINDOW };
        // Level 4, kept alive for ten minutes.
        let hello = [&text("MQTT"), &[4, if stays { 0 } else { 2 }, 2, 88][..], &text(name)].concat();
        client.say(&packet(CONNECT, &hello)).await?;
        client.until(CONNECTED).await?;
        Ok(client)
    }

    /// With so many messages unacknowledged at most.
    pub(crate) fn with_window(self, window: usize) -> Self {
        Self { window, ..self }
    }

    pub(crate) async fn subscribe(&mut self, topic: &str) -> Result<()> {
        let wish = [&[0, 1][..], &text(topic), &[1]].concat();
        self.say(&packet(SUBSCRIBE, &wish)).await?;
        self.until(SUBSCRIBED).await
    }

    /// Publishes, and does not wait for the acknowledgement.
    pub(crate) async fn publish(&mut self, number: usize, topic: &str, payload: &[u8]) -> Result<()> {
        self.say(&publication(number, topic, payload)).await
    }

    /// Waits for an acknowledgement.
    pub(crate) async fn acknowledged(&mut self) -> Result<()> {
        self.until(PUBLISHED).await
    }

    /// Publishes the messages with these numbers; done when all are acknowledged.
    pub(crate) async fn flood(
        &mut self,
        numbers: Range<usize>,
        message: impl Fn(usize) -> (String, Vec<u8>),
    ) -> Result<()> {
        let (mut next, mut acknowledged) = (numbers.start, numbers.start);
        while acknowledged < numbers.end {
            let end = numbers.end.min(acknowledged + self.window);
            let packets: Vec<u8> = (next..end)
                .flat_map(|number| {
                    let (topic, payload) = message(number);
                    publication(number, &topic, &payload)
                })
                .collect();
            next = end;
            self.say(&packets).await?;
            self.until(PUBLISHED).await?;
            acknowledged += 1;
            while self.has_more() {
                self.until(PUBLISHED).await?;
                acknowledged += 1;
            }
        }
        Ok(())
    }

    /// Hears a message.
    pub(crate) async fn hear(&mut self) -> Result<()> {
        self.absorb(1).await
    }

    /// Hears so many messages, and acknowledges them as they come.
    pub(crate) async fn absorb(&mut self, many: usize) -> Result<()> {
        let mut acknowledgements = Vec::new();
        for _ in 0..many {
            let body = self.packet(PUBLISH_ONCE_AT_LEAST).await?;
            let (length, rest) = body.split_first_chunk().context("a topic")?;
            let id = rest.get(usize::from(u16::from_be_bytes(*length))..).and_then(|rest| rest.get(..2));
            acknowledgements.extend(packet(PUBLISHED, id.context("a packet's number")?));
            if !self.has_more() {
                self.say(&std::mem::take(&mut acknowledgements)).await?;
            }
        }
        self.say(&acknowledgements).await
    }

    /// Whether something has come that nobody has looked at.
    fn has_more(&self) -> bool {
        !self.stream.buffer().is_empty()
    }

    async fn until(&mut self, kind: u8) -> Result<()> {
        self.packet(kind).await.map(drop)
    }

    /// Reads a packet, which must be of this kind, but for the mark of a repeat.
    async fn packet(&mut self, kind: u8) -> Result<Vec<u8>> {
        let heard = self.stream.read_u8().await?;
        ensure!(heard & !0x08 == kind, "the broker said {heard:#x} instead of {kind:#x}");
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
        Ok(body)
    }

    async fn say(&mut self, packets: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(packets).await?)
    }
}

fn publication(number: usize, topic: &str, payload: &[u8]) -> Vec<u8> {
    let id = u16::try_from(number % 60_000 + 1).unwrap_or(u16::MAX).to_be_bytes();
    packet(PUBLISH_ONCE_AT_LEAST, &[&text(topic), &id[..], payload].concat())
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let (mut packet, mut length) = (vec![kind], body.len());
    loop {
        let more = length > 0x7f;
        packet.push(u8::try_from(length & 0x7f).unwrap_or(0) | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

/// A text with its length.
fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}
