//! Numbered notifications from one atSign to another, and what became of them.
//!
//! A number counts as sent when its server has acknowledged it. Its id is of the form that servers know
//! again, so that saying it twice is harmless and hearing it twice is a fault.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::federation::Federation;
use crate::process::PATIENCE;
use crate::wire::Wire;

/// Lines that are written before their answers are read.
const PIPELINE: u64 = 50;
/// Bytes of a value.
const VALUE: usize = 256;

/// A sender and a recipient.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Who sends.
    pub from: String,
    /// Who is told.
    pub to: String,
}

/// Numbers from one atSign to another; those sent are all below `next`.
#[derive(Debug)]
pub struct Flood {
    pair: Pair,
    boot: u64,
    /// When each number was acknowledged, by number.
    acknowledged: Vec<Instant>,
}

impl Flood {
    /// Nothing is sent yet. `boot` tells floods of the same pair apart.
    #[must_use]
    pub fn new(from: &str, to: &str, boot: u64) -> Self {
        Self { pair: Pair { from: from.to_owned(), to: to.to_owned() }, boot, acknowledged: Vec::new() }
    }

    /// Between whom.
    #[must_use]
    pub fn pair(&self) -> &Pair {
        &self.pair
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
        let listed = wire.ask_long(&format!("notify:list:{}", self.key()), &self.pair.to)?;
        let listed: Option<Vec<Value>> = serde_json::from_str(&listed)?;
        let frames = listed.unwrap_or_default();
        Ok(frames.iter().filter_map(|frame| self.number(frame)).collect())
    }

    fn id(&self, number: u64) -> String {
        format!("ae1-{}{}-{number}-1", self.boot, &self.pair.from[1..])
    }

    fn key(&self) -> String {
        format!("flood{}.{}", self.boot, &self.pair.from[1..])
    }

    fn line(&self, number: u64) -> String {
        let Pair { from, to } = &self.pair;
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

/// What an atSign is told, as it is told.
pub struct Watch {
    atsign: String,
    wire: Wire,
    partial: String,
    /// The moment of the newest notification, as the server counts it.
    newest: Option<u64>,
}

impl Watch {
    /// Watches from now on.
    ///
    /// # Errors
    /// The atSign's server is not there.
    pub fn start(federation: &Federation, atsign: &str) -> Result<Self> {
        Self::open(federation, atsign, None)
    }

    fn open(federation: &Federation, atsign: &str, since: Option<u64>) -> Result<Self> {
        let mut wire = federation.enter(atsign)?;
        match since {
            None => wire.say(b"monitor\n")?,
            Some(since) => wire.say(format!("monitor:{since}\n").as_bytes())?,
        }
        Ok(Self { atsign: atsign.to_owned(), wire, partial: String::new(), newest: since })
    }

    /// Connects again, and is told first what came meanwhile.
    ///
    /// # Errors
    /// The atSign's server is not there.
    pub fn again(&mut self, federation: &Federation) -> Result<()> {
        *self = Self::open(federation, &self.atsign, self.newest)?;
        Ok(())
    }

    /// The next notifications, at least one; `None` when the connection has ended.
    ///
    /// # Errors
    /// Nothing comes within [`PATIENCE`].
    pub fn frames(&mut self) -> Result<Option<Vec<Value>>> {
        loop {
            let Some(record) = self.wire.hear()? else { return Ok(None) };
            self.partial.push_str(&record);
            let Some(end) = self.partial.rfind('\n') else { continue };
            let rest = self.partial.split_off(end + 1);
            let whole = std::mem::replace(&mut self.partial, rest);
            let mut frames = Vec::new();
            for line in whole.lines() {
                let Some(at) = line.find("notification: ") else { continue };
                let frame: Value = serde_json::from_str(&line[at + "notification: ".len()..])?;
                if frame["id"].as_str() != Some("-1") {
                    self.newest = self.newest.max(frame["epochMillis"].as_u64());
                    frames.push(frame);
                }
            }
            if !frames.is_empty() {
                return Ok(Some(frames));
            }
        }
    }
}

/// What arrived of floods to one recipient, as a [`Watch`] saw it.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// Numbers in the order in which they came, by flood, with when.
    by_flood: Vec<Vec<(u64, Instant)>>,
}

impl Arrivals {
    /// Takes in until everything that was sent in `floods` has come, once or more, or nothing further does.
    ///
    /// # Errors
    /// The watch ends, or nothing of ours comes within [`PATIENCE`] though something is missing.
    pub fn take(&mut self, floods: &[Flood], watch: &mut Watch) -> Result<()> {
        self.by_flood.resize_with(floods.len(), Vec::new);
        let mut came = Instant::now();
        let missing = |arrivals: &Self| -> u64 {
            let pairs = floods.iter().zip(&arrivals.by_flood);
            pairs.map(|(flood, came)| flood.sent().saturating_sub(different(came))).sum()
        };
        while missing(self) > 0 {
            let frames = watch.frames()?.context("the monitor's connection ended")?;
            for frame in frames {
                for (flood, arrived) in floods.iter().zip(&mut self.by_flood) {
                    if let Some(number) = flood.number(&frame) {
                        came = Instant::now();
                        arrived.push((number, came));
                    }
                }
            }
            ensure!(
                came.elapsed() < PATIENCE,
                "nothing came for {PATIENCE:?}, and {} are missing",
                missing(self)
            );
        }
        Ok(())
    }

    /// Numbers of the flood at this place that came more than once.
    #[must_use]
    pub fn twice(&self, place: usize) -> u64 {
        let came = &self.by_flood[place];
        u64::try_from(came.len()).unwrap_or(u64::MAX) - different(came)
    }

    /// Neighbours of the flood at this place that came in the wrong order.
    #[must_use]
    pub fn inversions(&self, place: usize) -> usize {
        self.by_flood[place].windows(2).filter(|pair| pair[1].0 < pair[0].0).count()
    }

    /// How long each took from its sender's acknowledgement on, shortest first; of the flood at this place.
    #[must_use]
    pub fn latencies(&self, place: usize, flood: &Flood) -> Vec<Duration> {
        let took = |(number, at): &(u64, Instant)| {
            Some(at.saturating_duration_since(flood.acknowledged_at(*number)?))
        };
        let mut took: Vec<Duration> = self.by_flood[place].iter().filter_map(took).collect();
        took.sort_unstable();
        took
    }
}

fn different(came: &[(u64, Instant)]) -> u64 {
    let numbers: BTreeSet<u64> = came.iter().map(|(number, _)| *number).collect();
    u64::try_from(numbers.len()).unwrap_or(u64::MAX)
}

/// The value below which so many hundredths of a sorted list lie.
#[must_use]
pub fn percentile(sorted: &[Duration], hundredths: usize) -> Duration {
    let place = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}
