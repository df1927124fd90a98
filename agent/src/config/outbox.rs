//! `[outbox]`, and what a stream may say of it for itself.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use atedge_adapters::report::Summary;
use atedge_adapters::units::{Bytes, Duration, UnitError};
use serde::{Deserialize, Deserializer, de};

use crate::outbox::{MinFree, Priority, Thin, WhenFull};
use crate::uplink::DrainRules;

/// The queue on disk.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxConfig {
    /// Size of its database from which on it is full.
    pub max: Bytes,
    /// It is full as well when its file system has no more than this left: `"5%"` or `"1GiB"`.
    #[serde(deserialize_with = "min_free")]
    pub min_free: MinFree,
    /// What to do then, in this order: `"expire"`, `"thin"`, `"drop-oldest"`; `"block"` keeps all and lets
    /// devices wait. Streams may say otherwise.
    pub full: Vec<WhenFull>,
    /// Of `max`, what is kept for a priority and those before it: `{ 0 = "32MiB" }`.
    #[serde(deserialize_with = "by_priority")]
    pub reserve: BTreeMap<Priority, Bytes>,
    /// How old records are thinned. Streams may say otherwise.
    pub thin: ThinConfig,
    /// How what has piled up is sent.
    pub drain: DrainConfig,
    /// Wait up to this long so that more records share a commit; they are acknowledged that much later.
    pub spare_flash: Duration,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            max: Bytes::mib(512),
            min_free: MinFree::Percent(5),
            full: vec![WhenFull::Expire, WhenFull::Thin, WhenFull::DropOldest],
            reserve: BTreeMap::new(),
            thin: ThinConfig::default(),
            drain: DrainConfig::default(),
            spare_flash: Duration::from_millis(0),
        }
    }
}

/// A setting that is well-formed and makes no sense.
pub(super) struct Mistake {
    pub(super) setting: &'static str,
    pub(super) what: &'static str,
    pub(super) expected: &'static str,
}

impl OutboxConfig {
    /// The first setting that makes no sense.
    pub(super) fn mistake(&self) -> Option<Mistake> {
        let mistake = |setting, what, expected| Some(Mistake { setting, what, expected });
        if self.reserve.values().map(|bytes| bytes.get()).sum::<u64>() >= self.max.get()
            && !self.reserve.is_empty()
        {
            return mistake(
                "reserve",
                "nothing is left for the other priorities",
                "expected less than `max` in all",
            );
        }
        if self.thin.with.is_empty() {
            return mistake(
                "thin",
                "nothing of a number would be left",
                "expected with = [\"mean\", \"min\", \"max\"]",
            );
        }
        if self.thin.to.get().is_zero() {
            return mistake("thin", "a window of no length", "expected to = \"1m\"");
        }
        if !(0.0..=1.0).contains(&self.drain.live) {
            return mistake("drain", "this is no share", "expected live = 0.0 to 1.0");
        }
        None
    }
}

/// How old records are thinned.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ThinConfig {
    /// Records younger than this stay as they are.
    pub after: Duration,
    /// The length of a window, of which one record is left.
    pub to: Duration,
    /// What that says of each number: `"mean"`, `"min"`, `"max"`, `"last"`.
    pub with: Vec<Summary>,
}

impl Default for ThinConfig {
    fn default() -> Self {
        let Thin { after, to, with } = Thin::default();
        Self { after: Duration::from_secs(after.as_secs()), to: Duration::from_secs(to.as_secs()), with }
    }
}

impl ThinConfig {
    /// The rules.
    pub fn rules(&self) -> Thin {
        Thin { after: self.after.get(), to: self.to.get(), with: self.with.clone() }
    }
}

/// How what has piled up is sent.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// At most so much: `"200KiB/s"`; as fast as it goes without.
    pub rate: Option<Rate>,
    /// The share of sends under way that is kept for what is new, from 0 to 1.
    pub live: f64,
    /// After a start, and when the server is reached again, it begins within this time, at random.
    pub jitter: Duration,
}

impl Default for DrainConfig {
    fn default() -> Self {
        let DrainRules { live, .. } = DrainRules::default();
        Self { rate: None, live, jitter: Duration::from_millis(0) }
    }
}

impl DrainConfig {
    /// The rules.
    pub fn rules(&self) -> DrainRules {
        DrainRules { rate: self.rate.map(|rate| rate.0.get()), live: self.live, jitter: self.jitter.get() }
    }
}

/// Bytes a second: `"200KiB/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate(Bytes);

/// A text that is no [`Rate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRate {
    /// It says nothing about time.
    #[error("expected bytes a second, as in \"200KiB/s\", found {0:?}")]
    Time(String),
    /// What is before `/s` is no size.
    #[error(transparent)]
    Size(#[from] UnitError),
}

impl TryFrom<String> for Rate {
    type Error = InvalidRate;

    fn try_from(text: String) -> Result<Self, InvalidRate> {
        let size = text.strip_suffix("/s").ok_or_else(|| InvalidRate::Time(text.clone()))?;
        Ok(Self(Bytes::from_str(size.trim_end())?))
    }
}

fn min_free<'de, D: Deserializer<'de>>(from: D) -> Result<MinFree, D::Error> {
    let text = String::deserialize(from)?;
    match text.strip_suffix('%') {
        Some(percent) => match percent.trim_end().parse() {
            Ok(percent @ 0..=90) => Ok(MinFree::Percent(percent)),
            _ => Err(de::Error::custom(format_args!("expected 0% to 90%, found {text:?}"))),
        },
        None => Bytes::from_str(&text).map(|bytes| MinFree::Bytes(bytes.get())).map_err(de::Error::custom),
    }
}

/// A table with priorities as keys, which TOML has as text.
fn by_priority<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Priority, Bytes>, D::Error> {
    struct Table;

    impl<'de> de::Visitor<'de> for Table {
        type Value = BTreeMap<Priority, Bytes>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("sizes by priority, as in { 0 = \"32MiB\" }")
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut table = BTreeMap::new();
            while let Some((key, size)) = map.next_entry::<String, Bytes>()? {
                let priority = key.parse().ok().and_then(|number: u8| Priority::try_from(number).ok());
                let unknown =
                    || de::Error::custom(format_args!("expected a priority from 0 to 9, found {key}"));
                table.insert(priority.ok_or_else(unknown)?, size);
            }
            Ok(table)
        }
    }

    from.deserialize_map(Table)
}
