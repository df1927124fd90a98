//! Which of all that devices say is reported: everything, or what has changed, or a summary now and again.
//!
//! It stands between an adapter and the gateway, whatever kind the adapter is. `filter` and `window` decide
//! and are pure. What is not reported is acknowledged to its device and counted ([`Captured::Suppressed`]);
//! nothing is remembered over a restart, so that the first value after one is always reported.
//!
//! A window is in memory until its end: what was said in it is acknowledged at once, and a crash loses it. It
//! is for what may be lost in part, and there is nothing to it that needs every value.

mod filter;
mod summary;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Deserialize;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::summary::{Sum, Summary};

use self::filter::Filter;
use self::window::Windows;
use crate::units::Duration;
use crate::{
    Ack, Adapter, Captured, Command, ConfigError, DeviceName, Intake, PointName, Reading, Running, Verdict,
};

/// Captures between an adapter and what decides about them.
const WAITING: usize = 16;
/// The points whose last value is remembered, and of whose windows there are, at most. What is said of further
/// points is all reported.
const MOST_POINTS: usize = 16_384;

/// Settings `report` of an adapter, or of `[defaults]`. What an adapter leaves out is as the defaults have it,
/// each by itself; a point's own `deadband` goes before both.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportConfig {
    /// What is reported: `"every"` reading, which is the default; of each reading the points that `"change"`d;
    /// or `"both"`: the whole reading when one of its points changed.
    pub on: Option<ReportOn>,
    /// A number has changed when it differs by more than this from the one last reported; 0 by default.
    pub deadband: Option<f64>,
    /// The same for points of these names.
    pub deadbands: BTreeMap<PointName, f64>,
    /// A point that has not been reported for so long is reported when it is said again, changed or not. Left
    /// out, it is not.
    pub heartbeat: Option<Duration>,
    /// Report a summary of each window of time, instead of what is said in it.
    pub window: Option<WindowConfig>,
}

/// What is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportOn {
    /// All that is said.
    #[default]
    Every,
    /// The points that changed.
    Change,
    /// Whole readings of which a point changed.
    Both,
}

/// A window of time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    /// How long it is, from `"1s"`.
    pub every: Duration,
    /// What is reported of each number: `"mean"`, `"min"`, `"max"` as points `NAME_mean` and so on, and `"last"`
    /// by the point's own name. Of texts and truth values it is the last in any case.
    pub with: Vec<Summary>,
}

/// What adapters leave out: the table `[defaults]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// How often Modbus units are asked that have no `interval` of their own; 5 s where this is left out, too.
    pub interval: Option<Duration>,
    /// What is reported.
    pub report: ReportConfig,
}

impl ReportConfig {
    /// Takes over from `defaults` what is left out.
    pub(crate) fn fill(&mut self, defaults: &Self) {
        self.on = self.on.or(defaults.on);
        self.deadband = self.deadband.or(defaults.deadband);
        self.heartbeat = self.heartbeat.or(defaults.heartbeat);
        if self.window.is_none() {
            self.window = defaults.window.clone();
        }
        for (point, deadband) in &defaults.deadbands {
            self.deadbands.entry(point.clone()).or_insert(*deadband);
        }
    }

    /// Checks what the form of the settings alone does not show.
    ///
    /// # Errors
    /// Names the first setting that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut deadbands = self.deadbands.values().chain(&self.deadband);
        if deadbands.any(|deadband| !deadband.is_finite() || *deadband < 0.0) {
            return Err(ConfigError::at("report.deadband", "expected a number from 0"));
        }
        if self.heartbeat.is_some_and(|heartbeat| heartbeat < Duration::from_secs(1)) {
            return Err(ConfigError::at("report.heartbeat", "expected at least \"1s\""));
        }
        if let Some(window) = &self.window {
            if window.every < Duration::from_secs(1) {
                return Err(ConfigError::at("report.window.every", "expected at least \"1s\""));
            }
            if window.with.is_empty() {
                let expected = "expected some of \"mean\", \"min\", \"max\", \"last\"";
                return Err(ConfigError::at("report.window.with", expected));
            }
            if self.on.is_some_and(|on| on != ReportOn::Every) {
                let what = "a window's summary is always reported: expected `on = \"every\"` beside it";
                return Err(ConfigError::at("report.on", what));
            }
        }
        Ok(())
    }

    /// Whether everything is reported as it is said.
    fn is_plain(&self) -> bool {
        self.window.is_none() && self.on.unwrap_or_default() == ReportOn::Every
    }
}

/// Deadbands of points of certain devices, which go before all others.
pub(crate) type OwnDeadbands = BTreeMap<(DeviceName, PointName), f64>;

/// Puts the rules before an adapter. Where there are none, it stays as it is.
pub(crate) fn reported(
    adapter: Box<dyn Adapter>,
    rules: ReportConfig,
    own: OwnDeadbands,
) -> Box<dyn Adapter> {
    if rules.is_plain() { adapter } else { Box::new(Reported { adapter, rules, own }) }
}

struct Reported {
    adapter: Box<dyn Adapter>,
    rules: ReportConfig,
    own: OwnDeadbands,
}

impl Adapter for Reported {
    fn run(
        self: Box<Self>,
        intake: Intake,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Running {
        let Self { adapter, rules, own } = *self;
        let (said, heard) = mpsc::channel(WAITING);
        let running = adapter.run(said, commands, stop);
        let now = Instant::now().into_std();
        let reporter = match rules.window.clone() {
            Some(window) => Reporter::Summary(Windows::new(window, now)),
            None => Reporter::Changes { filter: Filter::new(rules, own), abandoned: Arc::default() },
        };
        Box::pin(async move {
            let (ended, ()) = tokio::join!(running, pass_on(reporter, heard, intake));
            ended
        })
    }
}

enum Reporter {
    Summary(Windows),
    Changes {
        filter: Filter,
        /// That a reading was given up which the filter believes to be reported.
        abandoned: Arc<AtomicBool>,
    },
}

/// Passes on what is to be reported until the adapter has ended, or nobody takes it any more.
async fn pass_on(mut reporter: Reporter, mut heard: mpsc::Receiver<Captured>, intake: Intake) {
    loop {
        let deadline = reporter.deadline();
        let captured = select! {
            captured = heard.recv() => match captured {
                Some(captured) => reporter.decide(captured),
                None => break,
            },
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                reporter.summaries(false)
            }
        };
        for captured in captured {
            if intake.send(captured).await.is_err() {
                return;
            }
        }
    }
    for captured in reporter.summaries(true) {
        if intake.send(captured).await.is_err() {
            return;
        }
    }
}

impl Reporter {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Summary(windows) => windows.end().map(Into::into),
            Self::Changes { .. } => None,
        }
    }

    /// The summaries of the window that has ended; of the one that is open, too, when there will be no more.
    fn summaries(&mut self, last: bool) -> Vec<Captured> {
        let Self::Summary(windows) = self else { return Vec::new() };
        let readings = windows.close(Instant::now().into_std(), last);
        readings.into_iter().map(|reading| Captured::Reading { reading, ack: Ack::nobody_waits() }).collect()
    }

    /// What becomes of a capture.
    fn decide(&mut self, captured: Captured) -> Vec<Captured> {
        let Captured::Reading { reading, ack } = captured else { return vec![captured] };
        let now = Instant::now().into_std();
        let device = reading.device.clone();
        match self {
            Self::Summary(windows) => match windows.take(reading, now) {
                None => {
                    ack.accept();
                    vec![Captured::Suppressed { device }]
                }
                Some(rest) => vec![Captured::Reading { reading: rest, ack }],
            },
            Self::Changes { filter, abandoned } => {
                if abandoned.swap(false, Ordering::Relaxed) {
                    filter.forget();
                }
                match filter.take(reading, now) {
                    None => {
                        ack.accept();
                        vec![Captured::Suppressed { device }]
                    }
                    Some(reading) => vec![Captured::Reading { reading, ack: watched(ack, abandoned) }],
                }
            }
        }
    }
}

/// Notes when a reading is given up: what was believed to be reported then is not.
fn watched(ack: Ack, abandoned: &Arc<AtomicBool>) -> Ack {
    if !ack.is_waited_for() {
        return ack;
    }
    let abandoned = Arc::clone(abandoned);
    Ack::new(move |verdict| match verdict {
        Verdict::Accepted => ack.accept(),
        Verdict::Abandoned => {
            abandoned.store(true, Ordering::Relaxed);
            drop(ack);
        }
    })
}

/// Whose points, and of which stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Source {
    device: DeviceName,
    stream: crate::StreamName,
}

impl Source {
    fn of(reading: &Reading) -> Self {
        Self { device: reading.device.clone(), stream: reading.stream.clone() }
    }
}

#[cfg(test)]
mod tests;
