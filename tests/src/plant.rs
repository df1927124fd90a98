//! Devices of every kind at once: they publish through a broker, weigh when they are asked on a serial line, and are a
//! Modbus unit on another, whatever becomes of the agent.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use atedge_adapters::sim::{Scale, SerialUnits, Units};
use tokio_util::sync::CancellationToken;

use crate::publisher::Publisher;

/// Readings that are published at once, and how often: 500 in a second.
const BURST: u64 = 20;
const EVERY: Duration = Duration::from_millis(40);
/// How often the scale and the unit are asked, in milliseconds.
const POLL_MS: u32 = 50;

/// The devices that are asked. Both count how often they were, so that no two answers are the same.
pub const ASKED: [&str; 2] = ["scale", "unit"];

/// The devices at work.
pub struct Plant {
    stop: CancellationToken,
    lines: JoinHandle<Result<()>>,
    weighed: Arc<AtomicU64>,
    ports: [PathBuf; 2],
    published: Arc<AtomicU64>,
    publishing: Option<JoinHandle<Result<()>>>,
}

impl Plant {
    /// The devices on serial lines; those that publish are yet to come.
    ///
    /// # Errors
    /// The system has no pseudo-terminals to give.
    pub fn start() -> Result<Self> {
        let stop = CancellationToken::new();
        let weighed = Arc::<AtomicU64>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (scale, units) = {
            let _inside = runtime.enter();
            (Scale::new()?, SerialUnits::new(Units::new(1, 1))?)
        };
        let ports = [scale.path().to_owned(), units.path().to_owned()];
        let (weighing, ending) = (weigh(scale, Arc::clone(&weighed)), stop.clone());
        let lines = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    weighed = weighing => weighed,
                    ended = units.run(ending) => Ok(ended?),
                }
            })
        });
        Ok(Self { stop, lines, weighed, ports, published: Arc::default(), publishing: None })
    }

    /// The adapters that ask them.
    #[must_use]
    pub fn tables(&self) -> String {
        let [scale, unit] = self.ports.each_ref().map(|port: &PathBuf| port.display());
        format!(
            "[adapter.scale]\ntype = \"serial\"\nport = \"{scale}\"\nbaud = 115200\ndevice = \"scale\"\nstream = \
             \"process\"\nframing = {{ kind = \"line\", ending = \"crlf\", max = 64 }}\ndecode = {{ as = \"json\" }}\n\
             poll = {{ send = \"P\\r\\n\", every = \"{POLL_MS}ms\" }}\n[adapter.rs485]\ntype = \"modbus-rtu\"\nport = \
             \"{unit}\"\nbaud = 115200\nparity = \"none\"\n[adapter.rs485.unit.1]\ndevice = \"unit\"\nstream = \
             \"process\"\ninterval = \"{POLL_MS}ms\"\npoints = [{{ name = \"n\", table = \"input\", address = 1, type \
             = \"u16\" }}]\n"
        )
    }

    /// Has devices publish to `broker` from now on.
    pub fn publish(&mut self, broker: SocketAddr) {
        let (stop, count) = (self.stop.clone(), Arc::clone(&self.published));
        self.publishing = Some(std::thread::spawn(move || {
            let mut devices = Publisher::connect(broker, "devices")?;
            let mut published = 0;
            while !stop.is_cancelled() {
                publish(&mut devices, &mut published, BURST)?;
                count.store(published, Ordering::Relaxed);
                sleep(EVERY);
            }
            Ok(())
        }));
    }

    /// How many readings were published so far.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Ends all of them; gives how many readings were published, and how often the scale has weighed.
    ///
    /// # Errors
    /// One of them ended before.
    pub fn stop(self) -> Result<(u64, u64)> {
        self.stop.cancel();
        let joined = |_| anyhow!("a device panicked");
        self.lines.join().map_err(joined)??;
        self.publishing.context("nobody published")?.join().map_err(joined)??;
        Ok((self.published.load(Ordering::Relaxed), self.weighed.load(Ordering::Relaxed)))
    }
}

/// Weighs whenever it is asked; the weights count up.
async fn weigh(mut scale: Scale, weighed: Arc<AtomicU64>) -> Result<()> {
    loop {
        for _ in scale.hear().await?.iter().filter(|byte| **byte == b'P') {
            let n = weighed.fetch_add(1, Ordering::Relaxed) + 1;
            scale.say(&format!("{{\"n\":{n}}}")).await?;
        }
    }
}

/// Publishes `many` readings, every other on the route with the device's own id, over four devices.
///
/// # Errors
/// The broker hangs up.
pub fn publish(devices: &mut Publisher, published: &mut u64, many: u64) -> Result<()> {
    let messages = readings(*published..*published + many);
    *published += many;
    devices.publish(&messages)
}

/// Readings with these numbers: topics and payloads.
#[must_use]
pub fn readings(numbers: Range<u64>) -> Vec<(String, String)> {
    let reading = |n| {
        let route = if n % 2 == 0 { "plain" } else { "own" };
        let topic = format!("{route}/{route}{}/{n}", n / 2 % 4);
        (topic, format!("{{\"n\":{n},\"seq\":{n}}}"))
    };
    numbers.map(reading).collect()
}

/// The number of the reading that was published to `topic`.
///
/// # Errors
/// It is none of ours.
pub fn number(topic: &str) -> Result<u64> {
    let n = topic.rsplit('/').next().and_then(|n| n.parse().ok());
    n.with_context(|| format!("not one of our topics: {topic}"))
}
