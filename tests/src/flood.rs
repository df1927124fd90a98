//! Numbered notifications from one atSign to another, and what became of them.
//!
//! A number counts as sent when its server has acknowledged it. Its id is of the form that servers know
//! again, so that saying it twice is harmless and hearing it twice is a fault.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::federation::Door;
use crate::process::PATIENCE;
use crate::scenario::Run;
use crate::wire::Wire;

/// Lines that are written before their answers are read.
const PIPELINE: u64 = 50;
/// Bytes of a value.
const VALUE: usize = 256;

/// Notifications with the numbers from 0 on.
#[derive(Debug)]
pub struct Flood {
    from: String,
    to: String,
    boot: u64,
    /// When each number was acknowledged, by number.
    acknowledged: Vec<Instant>,
}

impl Flood {
    /// Nothing is sent yet. `boot` tells floods of the same pair apart.
    #[must_use]
    pub fn new(from: &str, to: &str, boot: u64) -> Self {
        Self { from: from.to_owned(), to: to.to_owned(), boot, acknowledged: Vec::new() }
    }

    /// How many have been acknowledged: all numbers below.
    #[must_use]
    pub fn sent(&self) -> u64 {
        u64::try_from(self.acknowledged.len()).unwrap_or(u64::MAX)
    }

    /// When a number was acknowledged.
    #[must_use]
    pub fn acknowledged_at(&self, number: u64) -> Option<Instant> {
        self.acknowledged.get(usize::try_from(number).ok()?).copied()
    }

    /// Sends so many more, or until the server is gone; what was not acknowledged then is sent again at the
    /// next call, under the same id.
    ///
    /// # Errors
    /// An answer is another than the id.
    pub fn send(&mut self, more: u64, wire: &mut Wire) -> Result<()> {
        let end = self.sent() + more;
        while self.sent() < end {
            let first = self.sent();
            let batch: Vec<u64> = (first..end.min(first + PIPELINE)).collect();
            let text: String = batch.iter().map(|number| self.line(*number)).collect();
            if wire.say(text.as_bytes()).is_err() {
                return Ok(());
            }
            let mut open = batch.into_iter().peekable();
            while open.peek().is_some() {
                let Ok(Some(record)) = wire.hear() else { return Ok(()) };
                for line in record.lines() {
                    let Some(said) = line.find("data:").or_else(|| line.find("error:")) else { continue };
                    let number = open.next().context("an answer to nothing")?;
                    let expected = format!("data:{}", self.id(number));
                    ensure!(line[said..] == expected, "{number} was answered {:.200}", &line[said..]);
                    self.acknowledged.push(Instant::now());
                }
            }
        }
        Ok(())
    }

    /// All numbers that the recipient's server holds, in the order in which it has them.
    ///
    /// # Errors
    /// The server is not there.
    pub fn held(&self, wire: &mut Wire) -> Result<Vec<u64>> {
        let listed = wire.ask_long(&format!("notify:list:{}", self.key()), &self.to)?;
        let listed: Option<Vec<Value>> = serde_json::from_str(&listed)?;
        let frames = listed.unwrap_or_default();
        Ok(frames.iter().filter_map(|frame| self.number(frame)).collect())
    }

    fn id(&self, number: u64) -> String {
        format!("ae1-{}{}-{number}-1", self.boot, &self.from[1..])
    }

    fn key(&self) -> String {
        format!("flood{}.{}", self.boot, &self.from[1..])
    }

    fn line(&self, number: u64) -> String {
        let (from, to) = (&self.from, &self.to);
        let value = format!("{number}-{}", "x".repeat(VALUE - 20));
        format!("notify:id:{}:ttln:86400000:{to}:{}{from}:{value}\n", self.id(number), self.key())
    }

    /// The number in a notification's frame, if it is one of ours.
    fn number(&self, frame: &Value) -> Option<u64> {
        let id = frame["id"].as_str()?;
        let number = frame["value"].as_str()?.split('-').next()?.parse().ok()?;
        (id == self.id(number)).then_some(number)
    }
}

/// What an atSign is told, as it is told: a monitor that connects again whenever it is cut, and asks for
/// what came meanwhile.
pub struct Watch {
    frames: Receiver<(Value, Instant)>,
    stop: Arc<AtomicBool>,
    /// Numbers in the order in which they came, with when; by flood.
    arrived: Vec<Vec<(u64, Instant)>>,
}

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(20);

impl Watch {
    /// Watches all that comes, and what is there already.
    ///
    /// # Errors
    /// The atSign's server is not there.
    pub fn start(door: &Door) -> Result<Self> {
        let (said, frames) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let mut monitor = Monitor { door: door.clone(), newest: 0, said, stop: Arc::clone(&stop) };
        let mut wire = monitor.open()?;
        std::thread::spawn(move || {
            loop {
                // However it ends: cut, or a server that was killed.
                monitor.listen(&mut wire).ok();
                wire = loop {
                    if monitor.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    match monitor.open() {
                        Ok(wire) => break wire,
                        Err(_) => std::thread::sleep(PAUSE),
                    }
                };
            }
        });
        Ok(Self { frames, stop, arrived: Vec::new() })
    }

    /// Waits until all that was sent in `floods` has come.
    ///
    /// # Errors
    /// Something is missing, and nothing of ours came within [`PATIENCE`].
    pub fn all(&mut self, floods: &[Flood]) -> Result<()> {
        self.until(floods, |watch| {
            let missing =
                floods.iter().zip(&watch.arrived).map(|(flood, came)| flood.sent() - different(came));
            missing.sum::<u64>() == 0
        })
    }

    /// Waits until so many further notifications of `floods` have come.
    ///
    /// # Errors
    /// Nothing of ours came within [`PATIENCE`].
    pub fn more(&mut self, floods: &[Flood], many: usize) -> Result<()> {
        let until = self.arrived.iter().map(Vec::len).sum::<usize>() + many;
        self.until(floods, |watch| watch.arrived.iter().map(Vec::len).sum::<usize>() >= until)
    }

    fn until(&mut self, floods: &[Flood], enough: impl Fn(&Self) -> bool) -> Result<()> {
        self.arrived.resize_with(floods.len(), Vec::new);
        let mut last = Instant::now();
        while !enough(self) {
            let left = PATIENCE.saturating_sub(last.elapsed());
            let Ok((frame, at)) = self.frames.recv_timeout(left) else {
                let came: Vec<String> = floods
                    .iter()
                    .zip(&self.arrived)
                    .map(|(flood, came)| format!("{} of {}", different(came), flood.sent()))
                    .collect();
                bail!("nothing came for {PATIENCE:?}; there are {}", came.join(", "));
            };
            for (flood, arrived) in floods.iter().zip(&mut self.arrived) {
                if let Some(number) = flood.number(&frame) {
                    last = Instant::now();
                    arrived.push((number, at));
                }
            }
        }
        Ok(())
    }

    /// Numbers of the flood at this place that came more than once.
    #[must_use]
    pub fn twice(&self, place: usize) -> u64 {
        let came = &self.arrived[place];
        u64::try_from(came.len()).unwrap_or(u64::MAX) - different(came)
    }

    /// Neighbours of the flood at this place that came in the wrong order.
    #[must_use]
    pub fn inversions(&self, place: usize) -> usize {
        self.arrived[place].windows(2).filter(|pair| pair[1].0 < pair[0].0).count()
    }

    /// How long each took from its sender's acknowledgement on, shortest first; of the flood at this place.
    #[must_use]
    pub fn latencies(&self, place: usize, flood: &Flood) -> Vec<Duration> {
        self.latencies_from(place, flood, 0)
    }

    /// The same of the numbers from this one on.
    #[must_use]
    pub fn latencies_from(&self, place: usize, flood: &Flood, first: u64) -> Vec<Duration> {
        let took = |(number, at): &(u64, Instant)| {
            let acknowledged = flood.acknowledged_at(*number).filter(|_| *number >= first)?;
            Some(at.saturating_duration_since(acknowledged))
        };
        let mut took: Vec<Duration> = self.arrived[place].iter().filter_map(took).collect();
        took.sort_unstable();
        took
    }

    /// The longest time without a notification, from a moment on.
    #[must_use]
    pub fn longest_silence(&self, from: Instant) -> Duration {
        let mut came: Vec<Instant> = self.arrived.iter().flatten().map(|(_, at)| *at).collect();
        came.retain(|at| *at > from);
        came.push(from);
        came.sort_unstable();
        came.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// When the first notification came after a moment.
    #[must_use]
    pub fn first_after(&self, moment: Instant) -> Option<Instant> {
        self.arrived.iter().flatten().map(|(_, at)| *at).filter(|at| *at > moment).min()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The other end of a [`Watch`].
struct Monitor {
    door: Door,
    /// The moment of the newest notification, as the server counts it.
    newest: u64,
    said: Sender<(Value, Instant)>,
    stop: Arc<AtomicBool>,
}

impl Monitor {
    fn open(&self) -> Result<Wire> {
        let mut wire = self.door.enter()?;
        wire.say(format!("monitor:{}\n", self.newest).as_bytes())?;
        Ok(wire)
    }

    /// Passes on what comes, until nothing comes any more.
    fn listen(&mut self, wire: &mut Wire) -> Result<()> {
        const MARK: &str = "notification: ";
        let mut partial = String::new();
        while let Some(record) = wire.hear()? {
            let now = Instant::now();
            partial.push_str(&record);
            let Some(end) = partial.rfind('\n') else { continue };
            let rest = partial.split_off(end + 1);
            for line in std::mem::replace(&mut partial, rest).lines() {
                let Some(at) = line.find(MARK) else { continue };
                let frame: Value = serde_json::from_str(&line[at + MARK.len()..])?;
                // The counter of commits has no id of its own.
                if frame["id"].as_str() != Some("-1") {
                    self.newest = self.newest.max(frame["epochMillis"].as_u64().unwrap_or_default());
                    self.said.send((frame, now))?;
                }
            }
        }
        Ok(())
    }
}

/// Notes what came of `floods`, all to the recipient behind `door`, and holds it to the bar: nothing lost,
/// nothing twice, in order.
///
/// # Errors
/// It is not met.
pub fn settle(run: &mut Run, floods: &[Flood], watch: &mut Watch, door: &Door) -> Result<()> {
    let all = watch.all(floods);
    let places = 0..floods.len();
    let twice: u64 = places.clone().map(|place| watch.twice(place)).sum();
    let inversions: usize = places.map(|place| watch.inversions(place)).sum();
    run.note("sent", floods.iter().map(Flood::sent).sum::<u64>());
    run.note("twice", twice);
    run.note("inversions", inversions);
    all?;
    ensure!(twice == 0, "{twice} came twice");
    ensure!(inversions == 0, "{inversions} came out of order");
    let mut wire = door.enter()?;
    for flood in floods {
        let held = flood.held(&mut wire)?;
        let expected = flood.sent();
        ensure!(held.into_iter().eq(0..expected), "{} does not hold all {expected} in order", door.atsign());
    }
    Ok(())
}

fn different(came: &[(u64, Instant)]) -> u64 {
    let numbers: BTreeSet<u64> = came.iter().map(|(number, _)| *number).collect();
    u64::try_from(numbers.len()).unwrap_or(u64::MAX)
}

/// The value below which so many hundredths of a sorted list lie, in milliseconds.
#[must_use]
pub fn percentile_ms(sorted: &[Duration], hundredths: usize) -> u64 {
    let place = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
    let value = sorted.get(place).copied().unwrap_or_default();
    u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
}
