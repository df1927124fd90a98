//! A gateway in its town: a real agent that listens for devices, a Modbus unit and a scale at its serial lines, a
//! server, and a reader that confirms.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atedge_adapters::sim::{Scale, SerialUnits, Units};
use atedge_adapters::{Point, Value};
use atedge_agent::clock::{Clock as _, SystemClock};
use atedge_agent::outbox::{Capture, Durability, Opened, Outbox, OutboxOptions, StreamPolicy};
use atedge_tests::gateway::{Gateway, READER, gateway_town};
use atedge_tests::process::{PATIENCE, Process, program};
use atedge_tests::town::{Town, free_address};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ground::VALUE;
use crate::mqtt::Mqtt;
use crate::report::progress;

/// Devices that are connected at the same time; the others share their connections.
const CONNECTIONS: usize = 16;
/// Records that are on their way into a queue that is being filled.
const FILL: usize = 1000;
/// What has piled up goes as soon as it can.
const AT_ONCE: &str = "0s";
/// Between two looks at a queue.
const LOOK: Duration = Duration::from_millis(10);

/// Where the agent stands.
pub(super) struct Site {
    folder: TempDir,
    pub(super) town: Town,
    pub(super) gateway: Gateway,
    /// Where its devices publish.
    devices: SocketAddr,
    /// What is at its serial lines.
    _lines: JoinSet<()>,
}

/// What a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Queue {
    /// Numbers that were never sent.
    pub(super) unsent: usize,
    /// Numbers that the reader has not confirmed.
    pub(super) unconfirmed: usize,
}

impl Site {
    /// A site whose agent does not run yet; with serial lines or without.
    pub(super) fn new(serial: bool) -> Result<Self> {
        Self::with(&[], serial, AT_ONCE)
    }

    /// The same with an agent that runs under another program.
    pub(super) fn under(under: &[&str]) -> Result<Self> {
        Self::with(under, false, AT_ONCE)
    }

    /// A site with serial lines, whose agent is in no hurry to send what has piled up.
    pub(super) fn unhurried() -> Result<Self> {
        Self::with(&[], true, "1h")
    }

    fn with(under: &[&str], serial: bool, jitter: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("atedge-load-").tempdir()?;
        let town = gateway_town(folder.path())?;
        let devices = free_address()?;
        let mut tables = format!(
            "[outbox]\nmax = \"8GiB\"\nmin_free = \"1MiB\"\ndrain = {{ jitter = \"{jitter}\" }}\n[stream.live]\nto = \
             [\"{READER}\"]\nrequire = [\"receipts\"]\npriority = 0\nbatch = {{ linger = \"10ms\" }}\n\
             [adapter.shop]\ntype = \"mqtt\"\nlisten = \"{devices}\"\nversion = \"3.1.1\"\nmax = \"1MiB\"\n"
        );
        for (stream, topic) in [("process", "plain"), ("live", "live")] {
            tables += &format!(
                "[adapter.shop.route.{topic}]\ntopic = \"{topic}/{{dev}}\"\ndevice = \"{{dev}}\"\nstream = \
                 \"{stream}\"\ndecode = {{ as = \"json\" }}\npick = {{ n = \"/n\", pad = \"/pad\" }}\n"
            );
        }
        let mut lines = JoinSet::new();
        if serial {
            tables += &wire(&mut lines)?;
        }
        // A copy of its own, so that no other process has the same pages of it in memory.
        let agent = folder.path().join("atedge-agent");
        std::fs::copy(packaged()?, &agent)?;
        let agent = agent.to_str().context("a path in UTF-8")?;
        let program = under.iter().copied().chain([agent]).map(str::to_owned).collect();
        let gateway = Gateway::with_program(program, &town, &tables)?;
        Ok(Self { folder, town, gateway, devices, _lines: lines })
    }

    /// Starts the agent, whose queue may hold something, and waits until it takes readings.
    pub(super) async fn start(&mut self) -> Result<()> {
        self.gateway.start()?;
        let began = Instant::now();
        while let Err(error) = Mqtt::connect(self.devices, "first", false).await {
            ensure!(began.elapsed() < PATIENCE, "the agent does not listen: {error:#}");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The agent's process id.
    pub(super) fn agent(&self) -> Result<u32> {
        Ok(self.gateway.process()?.id())
    }

    /// A folder for what goes with the site.
    pub(super) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The folder of the agent's state.
    pub(super) fn state(&self) -> PathBuf {
        self.town.folder.join("agent")
    }

    /// The reader, which confirms what it prints.
    pub(super) fn reader(&self) -> Result<Process> {
        let mut command = self.town.tool(&["watch", READER, "--json", "--confirm"])?;
        let reader = Process::start("watch", &mut command, self.folder.path())?;
        reader.line()?.context("atedge watch ended")?;
        Ok(reader)
    }

    /// A device by itself.
    pub(super) async fn device(&self) -> Result<Mqtt> {
        Mqtt::connect(self.devices, "device", false).await
    }

    /// Devices that publish so many bytes at a time.
    pub(super) async fn crew(&self, devices: usize, bytes: usize) -> Result<Crew> {
        let mut clients = Vec::new();
        for number in 0..devices.min(CONNECTIONS) {
            clients.push(Mqtt::connect(self.devices, &format!("crew{bytes}-{number}"), false).await?);
        }
        Ok(Crew { clients, devices, bytes, next: 0 })
    }

    /// Puts records into the queue of the agent, which does not run, as an earlier run of it would have left them.
    pub(super) async fn fill(&self, devices: usize, many: usize) -> Result<()> {
        if many == 0 {
            return Ok(());
        }
        progress(format_args!("a queue of {many} is made"));
        let clock = SystemClock::start();
        let policy =
            StreamPolicy { readers: [READER.parse()?].into(), receipts: true, ..StreamPolicy::default() };
        let streams = BTreeMap::from([("process".parse()?, policy)]);
        let options = OutboxOptions {
            durability: Durability::None,
            max_bytes: u64::MAX,
            ..OutboxOptions::new(self.state(), streams)
        };
        let Opened { outbox, thread, .. } = Outbox::open(options, clock.now())?;
        for numbers in chunks(0..many, FILL) {
            let mut on_the_way = Vec::with_capacity(FILL);
            for number in numbers {
                let capture = Capture {
                    device: format!("d{}", number % devices).parse()?,
                    stream: "process".parse()?,
                    taken: clock.now(),
                    own_time_us: None,
                    points: vec![Point {
                        name: "n".parse()?,
                        value: Value::Integer(i64::try_from(number)?),
                        unit: None,
                    }],
                    device_id: None,
                    delivery: None,
                };
                on_the_way.push(outbox.submit(Arc::new(capture)).await?);
            }
            for append in on_the_way {
                append.await?;
            }
        }
        drop(outbox);
        tokio::task::spawn_blocking(move || thread.join()).await?;
        Ok(())
    }

    /// What the queue holds now.
    pub(super) fn queue(&self) -> Result<Queue> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(self.state().join("outbox.db"), flags)?;
        db.busy_timeout(PATIENCE)?;
        let sums = "SELECT ifnull(sum(next - 1 - max(sent, upto)), 0), ifnull(sum(next - 1 - upto), 0) FROM lane JOIN \
                    cursor ON cursor.lane = lane.id";
        Ok(db.query_row(sums, [], |row| Ok(Queue { unsent: row.get(0)?, unconfirmed: row.get(1)? }))?)
    }

    /// Waits until the reader has confirmed all but so many.
    pub(super) async fn until_left(&self, left: usize) -> Result<()> {
        self.until(|queue| queue.unconfirmed <= left).await
    }

    /// Waits until all was sent.
    pub(super) async fn until_sent(&self) -> Result<()> {
        self.until(|queue| queue.unsent == 0).await
    }

    async fn until(&self, is_so: impl Fn(&Queue) -> bool) -> Result<()> {
        let mut changed = (Instant::now(), self.queue()?);
        while !is_so(&changed.1) {
            tokio::time::sleep(LOOK).await;
            let now = self.queue()?;
            if now != changed.1 {
                changed = (Instant::now(), now);
            }
            ensure!(changed.0.elapsed() < PATIENCE, "the queue stands still: {now:?}");
        }
        Ok(())
    }
}

/// Devices, over a few connections.
pub(super) struct Crew {
    clients: Vec<Mqtt>,
    devices: usize,
    bytes: usize,
    next: usize,
}

impl Crew {
    /// The same devices at another place, a broker say.
    pub(super) fn of(clients: Vec<Mqtt>, devices: usize, bytes: usize) -> Self {
        Self { clients, devices, bytes, next: 0 }
    }

    /// Publishes this many readings, as fast as they are acknowledged.
    pub(super) async fn publish(&mut self, many: usize) -> Result<()> {
        let (devices, bytes) = (self.devices, self.bytes);
        let share = many.div_ceil(self.clients.len());
        let mut floods = JoinSet::new();
        for (mut client, numbers) in
            std::mem::take(&mut self.clients).into_iter().zip(chunks(self.next..self.next + many, share))
        {
            floods.spawn(async move {
                client.flood(numbers, |number| (topic(number % devices), reading(number, bytes))).await?;
                anyhow::Ok(client)
            });
        }
        while let Some(client) = floods.join_next().await {
            self.clients.push(client??);
        }
        self.next += many;
        Ok(())
    }
}

/// Where a device publishes.
pub(super) fn topic(device: usize) -> String {
    format!("plain/d{device}")
}

/// What it publishes.
pub(super) fn reading(number: usize, bytes: usize) -> Vec<u8> {
    let head = format!("{{\"n\":{number},\"pad\":\"");
    let pad = bytes.saturating_sub(head.len() + 2);
    format!("{head}{}\"}}", "p".repeat(pad)).into_bytes()
}

/// So many numbers at a time.
fn chunks(numbers: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = numbers.end;
    numbers.step_by(most.max(1)).map(move |first| first..end.min(first + most))
}

/// A unit and a scale at serial lines, and the tables of the adapters that read them.
fn wire(lines: &mut JoinSet<()>) -> Result<String> {
    let units = SerialUnits::new(Units::new(1, 1))?;
    let mut scale = Scale::new()?;
    let tables = format!(
        "[adapter.rs485]\ntype = \"modbus-rtu\"\nport = {:?}\nbaud = 115200\n[adapter.rs485.unit.1]\ndevice = \
         \"boiler\"\nstream = \"process\"\ninterval = \"60s\"\npoints = [{{ name = \"setpoint\", table = \
         \"holding\", address = 3, type = \"u16\", write = {{ min = 0, max = 999 }} }}]\n[adapter.scale]\ntype = \
         \"serial\"\nport = {:?}\nbaud = 9600\ndevice = \"scale\"\nstream = \"process\"\nframing = {{ kind = \
         \"line\", ending = \"crlf\", max = 512 }}\ndecode = {{ as = \"regex\", pattern = \
         '^(?<gross>[+-][0-9.]+)\\s*kg', types = {{ gross = \"f64\" }} }}\n[command.\"boiler.setpoint\"]\nallow = \
         [\"{READER}\"]\nargs = {{ value = {{ type = \"i64\", min = 0, max = 999 }} }}\ndo = {{ write = {{ point = \
         \"boiler.setpoint\", value = \"{{value}}\" }} }}\nexpires = \"1m\"\nsigned = false\n",
        units.path(),
        scale.path(),
    );
    lines.spawn(async move { units.run(CancellationToken::new()).await.unwrap_or_default() });
    lines.spawn(async move {
        // It is never asked, and keeps its line open.
        while scale.hear().await.is_ok() {}
    });
    Ok(tables)
}

/// The agent as it is packaged, where that was built; else as built beside this program.
pub(super) fn packaged() -> Result<PathBuf> {
    let beside = program("atedge-agent");
    let packaged =
        std::env::current_exe()?.parent().and_then(|folder| Some(folder.parent()?.join("dist/atedge-agent")));
    match packaged.filter(|path| path.exists()) {
        Some(path) => Ok(path),
        None => beside,
    }
}

/// Bytes of a reading where nothing else is said.
pub(super) const BYTES: usize = VALUE;
