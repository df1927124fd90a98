//! Readings as they come in, for who looks on: bounded, and never slowing what it shows. Whoever is slow loses
//! some and is told how many.

use std::fmt;
use std::sync::Arc;

use atedge_adapters::{DeviceName, Point, Value};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::sync::broadcast;

use crate::outbox::Capture;

/// Lines that a tapper may lag behind.
const BEHIND: usize = 64;
/// Tappers at once.
const AT_ONCE: usize = 4;

/// What came in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tap", rename_all = "snake_case")]
pub enum Tapped {
    /// A reading that goes into the queue.
    Reading {
        /// Through which adapter.
        adapter: String,
        /// Of which device.
        device: String,
        /// Into which stream.
        stream: String,
        /// When, in milliseconds since 1970.
        time_ms: i64,
        /// What was read.
        points: Vec<Shown>,
    },
    /// Something that could not be kept.
    Refused {
        /// Through which adapter.
        adapter: String,
        /// Of which device, where that is known.
        device: Option<String>,
        /// When, in milliseconds since 1970.
        time_ms: i64,
        /// Why.
        why: String,
    },
    /// Lines that were not shown: the tapper was too slow.
    Lost {
        /// How many.
        lines: u64,
    },
}

/// A point of a reading.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Its name.
    pub n: String,
    /// Its value; bytes in base64.
    pub v: Json,
    /// Its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub u: Option<String>,
}

impl From<&Point> for Shown {
    fn from(point: &Point) -> Self {
        let v = match &point.value {
            Value::Float(number) => json!(number),
            Value::Integer(number) => json!(number),
            Value::Bool(truth) => json!(truth),
            Value::Text(text) => json!(text),
            Value::Data { bytes, .. } => json!(URL_SAFE_NO_PAD.encode(bytes)),
        };
        Self { n: point.name.to_string(), v, u: point.unit.clone() }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}={}", self.n, self.v)?;
        self.u.iter().try_for_each(|unit| write!(out, " {unit}"))
    }
}

impl Tapped {
    /// Whether it is of this adapter or device.
    pub fn is_of(&self, name: &str) -> bool {
        match self {
            Self::Reading { adapter, device, .. } => adapter == name || device == name,
            Self::Refused { adapter, device, .. } => adapter == name || device.as_deref() == Some(name),
            Self::Lost { .. } => true,
        }
    }
}

/// Where what comes in can be tapped.
#[derive(Debug, Clone)]
pub struct Taps(broadcast::Sender<Arc<Tapped>>);

impl Default for Taps {
    fn default() -> Self {
        Self(broadcast::channel(BEHIND).0)
    }
}

/// A tap, until it is dropped.
pub struct Tap(broadcast::Receiver<Arc<Tapped>>);

impl Taps {
    /// A reading came through `adapter`. Costs nothing while nobody looks on.
    pub fn reading(&self, adapter: &str, capture: &Capture) {
        self.show(|| Tapped::Reading {
            adapter: adapter.to_owned(),
            device: capture.device.to_string(),
            stream: capture.stream.to_string(),
            time_ms: capture.taken.wall_ms(),
            points: capture.points.iter().map(Shown::from).collect(),
        });
    }

    /// Something could not be kept.
    pub fn refused(&self, adapter: &str, device: Option<&DeviceName>, time_ms: i64, why: &str) {
        self.show(|| Tapped::Refused {
            adapter: adapter.to_owned(),
            device: device.map(ToString::to_string),
            time_ms,
            why: why.to_owned(),
        });
    }

    fn show(&self, tapped: impl FnOnce() -> Tapped) {
        if self.0.receiver_count() > 0 {
            // The last tapper may have gone meanwhile.
            self.0.send(Arc::new(tapped())).ok();
        }
    }

    /// Looks on from now; `None` while four do already.
    pub fn tap(&self) -> Option<Tap> {
        (self.0.receiver_count() < AT_ONCE).then(|| Tap(self.0.subscribe()))
    }
}

impl Tap {
    /// What comes in next; `None` when the agent has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arc<Tapped>> {
        match self.0.recv().await {
            Ok(tapped) => Some(tapped),
            Err(broadcast::error::RecvError::Lagged(lines)) => Some(Arc::new(Tapped::Lost { lines })),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_is_slow_is_told_how_much_was_lost() {
        let taps = Taps::default();
        let adapter = "shop";
        taps.refused(adapter, None, 0, "nobody looks on");
        let mut tap = taps.tap().unwrap();
        for number in 0..100 {
            taps.refused(adapter, None, number, "no route");
        }
        assert_eq!(*tap.next().await.unwrap(), Tapped::Lost { lines: 36 });
        let Tapped::Refused { time_ms, .. } = *tap.next().await.unwrap() else { panic!("not a refusal") };
        assert_eq!(time_ms, 36, "and goes on with the oldest that is left");
    }

    #[test]
    fn so_many_may_look_on_and_no_more() {
        let taps = Taps::default();
        let open: Vec<Tap> = (0..AT_ONCE).map(|_| taps.tap().unwrap()).collect();
        assert!(taps.tap().is_none());
        drop(open);
        assert!(taps.tap().is_some());
    }

    #[test]
    fn a_name_means_the_adapter_or_the_device() {
        let of = |device: Option<&str>| Tapped::Refused {
            adapter: "shop".into(),
            device: device.map(str::to_owned),
            time_ms: 0,
            why: String::new(),
        };
        assert!(of(None).is_of("shop") && !of(None).is_of("boiler"));
        assert!(of(Some("boiler")).is_of("boiler"));
    }
}
