//! A real broker, mosquitto, and its own word on what was acknowledged to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use regex::Regex;

use crate::process::Process;

/// How many publications the broker lets one client leave unacknowledged.
pub const RECEIVE_MAXIMUM: u64 = 20;

/// What the broker says about one of its clients.
#[derive(Debug, Default)]
pub struct View {
    client: String,
    /// Packet ids in flight, with their topics.
    in_flight: BTreeMap<u16, String>,
    /// How often each topic was acknowledged by the client, in the order of the first time.
    acknowledged: Vec<String>,
    /// Publications sent to the client a second time or more often.
    pub redelivered: u64,
    /// The client has been given a subscription, which lives on with its session.
    pub subscribed: bool,
    /// Whoever has been given a subscription.
    pub subscribers: BTreeSet<String>,
    /// How often each has connected.
    pub connections: BTreeMap<String, u64>,
    /// Whoever has said good-bye since it connected.
    pub gone: BTreeSet<String>,
    /// How often the client has published to each topic.
    pub published: BTreeMap<String, u64>,
}

impl View {
    /// What is known of `client` before it has been seen.
    #[must_use]
    pub fn of(client: &str) -> Self {
        Self { client: client.to_owned(), ..Self::default() }
    }

    /// Topics that the client has acknowledged, in that order. A scenario gives each publication a topic
    /// of its own, since the broker's log does not show payloads.
    #[must_use]
    pub fn acknowledged(&self) -> &[String] {
        &self.acknowledged
    }

    /// The broker begins again and knows nobody.
    fn forget_session(&mut self) {
        self.in_flight.clear();
        self.subscribed = false;
    }

    /// Takes in one line of the broker's log.
    pub fn read(&mut self, line: &str) {
        static SENT: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"Sending PUBLISH to (\S+) \(d([01]), q1, r\d, m(\d+), '([^']*)'")
                .expect("a valid expression")
        });
        static ACK: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"Received PUBACK from (\S+) \(Mid: (\d+),").expect("a valid expression")
        });
        static RECEIVED: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"Received PUBLISH from (\S+) \(d[01], q\d, r\d, m\d+, '([^']*)'")
                .expect("a valid expression")
        });
        static CONNECTED: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"New client connected from \S+ as (\S+) ").expect("a valid expression")
        });
        if let Some(sent) = SENT.captures(line).filter(|sent| sent[1] == self.client) {
            self.redelivered += u64::from(&sent[2] == "1");
            if let Ok(packet) = sent[3].parse() {
                self.in_flight.insert(packet, sent[4].to_owned());
            }
        } else if let Some(ack) = ACK.captures(line).filter(|ack| ack[1] == self.client) {
            let topic = ack[2].parse().ok().and_then(|packet: u16| self.in_flight.remove(&packet));
            self.acknowledged.extend(topic);
        } else if let Some(received) = RECEIVED.captures(line).filter(|received| received[1] == self.client) {
            *self.published.entry(received[2].to_owned()).or_default() += 1;
        } else if let Some((_, client)) = line.split_once("Sending SUBACK to ") {
            self.subscribed |= client == self.client;
            self.subscribers.insert(client.to_owned());
        } else if let Some(connected) = CONNECTED.captures(line) {
            *self.connections.entry(connected[1].to_owned()).or_default() += 1;
            self.gone.remove(&connected[1]);
        } else if let Some((_, client)) = line.split_once("Received DISCONNECT from ") {
            self.gone.insert(client.to_owned());
        }
    }
}

/// A broker on loopback, which keeps sessions while it runs.
pub struct Broker {
    config: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it says about the client that the scenario watches.
    pub view: View,
}

impl Broker {
    /// Starts mosquitto in `folder`, watching `client`.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub fn start(folder: &Path, client: &str) -> Result<Self> {
        let address = crate::town::free_address()?;
        let config = folder.join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {}/\nmax_queued_messages 0\nmax_inflight_messages {RECEIVE_MAXIMUM}\n\
             log_type all\nlog_dest stderr\n",
            address.port(),
            folder.display()
        );
        std::fs::write(&config, text)?;
        let view = View::of(client);
        let mut broker = Self { config, folder: folder.to_owned(), process: None, address, view };
        broker.start_again()?;
        Ok(broker)
    }

    /// Starts it, which does not run, with nothing of what it knew.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub fn start_again(&mut self) -> Result<()> {
        // Only its standard error is written line by line.
        let mut command = Command::new("sh");
        command.args(["-c", "PATH=$PATH:/usr/sbin exec mosquitto -c \"$0\" 2>&1"]).arg(&self.config);
        let process = Process::start_ready("mosquitto", &mut command, &self.folder)
            .context("mosquitto is needed: apt-get install mosquitto")?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it as a power cut would. It writes sessions down only at a good end, so they are gone.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let said = self.process.take().context("the broker does not run")?.kill_and_hear()?;
        said.iter().for_each(|line| self.view.read(line));
        self.view.forget_session();
        Ok(())
    }

    /// Reads what the broker has logged by now.
    ///
    /// # Errors
    /// It does not run.
    pub fn catch_up(&mut self) -> Result<()> {
        let process = self.process.as_ref().context("the broker does not run")?;
        while let Ok(Some(line)) = process.line_within(Duration::ZERO) {
            self.view.read(&line);
        }
        Ok(())
    }

    /// Reads the broker's log until `enough` says so.
    ///
    /// # Errors
    /// The broker has nothing more to say before that.
    pub fn until(&mut self, what: &str, mut enough: impl FnMut(&View) -> bool) -> Result<()> {
        let process = self.process.as_ref().context("the broker does not run")?;
        while !enough(&self.view) {
            match process.line().with_context(|| format!("the broker waits for {what}"))? {
                Some(line) => self.view.read(&line),
                None => bail!("the broker ended while it was to see {what}"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_is_taken_at_its_word() {
        let mut view = View::of("agent");
        for line in [
            "1: Sending SUBACK to other",
            "1: Sending PUBLISH to agent (d0, q1, r0, m1, 'a/1', ... (2 bytes))",
            "1: Sending PUBLISH to other (d0, q1, r0, m1, 'a/9', ... (2 bytes))",
            "1: Received PUBACK from other (Mid: 1, RC:0)",
            "1: Sending PUBLISH to agent (d1, q1, r0, m1, 'a/1', ... (2 bytes))",
            "1: Sending PUBLISH to agent (d0, q1, r0, m2, 'a/2', ... (2 bytes))",
            "1: Received PUBACK from agent (Mid: 2, RC:0)",
            "1: Received PUBLISH from agent (d0, q1, r0, m7, 'lamp/1', ... (1 bytes))",
            "1: Received PUBLISH from other (d0, q1, r0, m7, 'lamp/2', ... (1 bytes))",
        ] {
            view.read(line);
        }
        assert_eq!(view.acknowledged(), ["a/2"]);
        assert_eq!(view.published, BTreeMap::from([("lamp/1".to_owned(), 1)]));
        view.read("1: Received PUBACK from agent (Mid: 1, RC:0)");
        view.read("1: Received PUBACK from agent (Mid: 1, RC:0)");
        assert_eq!(view.acknowledged(), ["a/2", "a/1"]);
        assert_eq!((view.redelivered, view.subscribed), (1, false));
        view.read("1: Sending SUBACK to agent");
        assert!(view.subscribed);
        view.read("1: New client connected from 127.0.0.1:41524 as agent (p2, c0, k60).");
        view.read("1: Received DISCONNECT from other");
        assert_eq!((view.connections["agent"], view.gone.contains("other")), (1, true));
        view.forget_session();
        view.read("1: Received PUBACK from agent (Mid: 1, RC:0)");
        assert_eq!((view.acknowledged().len(), view.subscribed), (2, false));
    }
}
