//! Values that are written with their unit: `"2s"`, `"64KiB"`.
//!
//! A bare number is refused, so that nobody has to guess what it counts.

use std::fmt;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is not a value with a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// The text does not begin with a whole number.
    #[error("expected a whole number and a unit, as in {example:?}, found {text:?}")]
    NoNumber {
        /// What was written.
        text: String,
        /// What it might look like.
        example: &'static str,
    },
    /// The unit is missing or not known.
    #[error("expected one of the units {known}, as in {example:?}, found {text:?}")]
    Unit {
        /// What was written.
        text: String,
        /// The units there are.
        known: &'static str,
        /// What it might look like.
        example: &'static str,
    },
    /// The value does not fit into 64 bits.
    #[error("{text:?} is too large")]
    TooLarge {
        /// What was written.
        text: String,
    },
}

/// A unit's name and how many of the smallest unit it has, largest first.
type Scale = &'static [(&'static str, u64)];

fn parse(text: &str, scale: Scale, known: &'static str, example: &'static str) -> Result<u64, UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::NoNumber { text: text.to_owned(), example });
    }
    let (_, each) = scale
        .iter()
        .find(|(name, _)| *name == unit.trim_start())
        .ok_or_else(|| UnitError::Unit { text: text.to_owned(), known, example })?;
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*each))
        .ok_or_else(|| UnitError::TooLarge { text: text.to_owned() })
}

/// Writes `value` in the largest unit that leaves no fraction.
fn write(value: u64, scale: Scale, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let whole = scale.iter().find(|(_, each)| value != 0 && value.is_multiple_of(*each));
    let (unit, each) = whole.or(scale.last()).expect("every scale has units");
    write!(f, "{}{unit}", value / each)
}

/// A length of time, in whole milliseconds: `"250ms"`, `"2s"`, `"5m"`, `"24h"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(StdDuration);

impl Duration {
    const SCALE: Scale = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(StdDuration::from_millis(millis))
    }

    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(StdDuration::from_secs(seconds))
    }

    /// The same for `std` and `tokio`.
    pub const fn get(self) -> StdDuration {
        self.0
    }
}

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, Self::SCALE, "ms, s, m, h, d", "5s").map(Self::from_millis)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), Self::SCALE, f)
    }
}

/// A number of bytes: `"512B"`, `"64KiB"`, `"512MiB"`, `"2GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(u64);

impl Bytes {
    const SCALE: Scale = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many times 1024 bytes.
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    /// So many times 1024² bytes.
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as a size in memory, at most what the machine can address.
    pub fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, Self::SCALE, "B, KiB, MiB, GiB", "64KiB").map(Self)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, Self::SCALE, f)
    }
}

macro_rules! written {
    ($name:ident, $expecting:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Written;
                impl de::Visitor<'_> for Written {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Written)
            }
        }
    };
}

written!(Duration, "a duration with its unit, as in \"5s\"");
written!(Bytes, "a size with its unit, as in \"64KiB\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in ["250ms", "2s", "90s", "5m", "24h", "7d", "0ms"] {
            let read: Duration = text.parse().unwrap();
            assert_eq!(read.to_string().parse::<Duration>().unwrap(), read, "{text}");
        }
        assert_eq!("24h".parse::<Duration>().unwrap().to_string(), "1d");
        assert_eq!("90s".parse::<Duration>().unwrap().get(), StdDuration::from_secs(90));
        assert_eq!("64KiB".parse::<Bytes>().unwrap().get(), 65_536);
        assert_eq!("1000B".parse::<Bytes>().unwrap().to_string(), "1000B");
    }

    #[test]
    fn a_value_without_a_unit_is_refused() {
        assert!(matches!("5".parse::<Duration>(), Err(UnitError::Unit { .. })));
        assert!(matches!("5 minutes".parse::<Duration>(), Err(UnitError::Unit { .. })));
        assert!(matches!("s".parse::<Duration>(), Err(UnitError::NoNumber { .. })));
        assert!(matches!("-5s".parse::<Duration>(), Err(UnitError::NoNumber { .. })));
        assert!(matches!("64kb".parse::<Bytes>(), Err(UnitError::Unit { .. })));
        assert!(matches!("99999999999999999999s".parse::<Duration>(), Err(UnitError::TooLarge { .. })));
        assert!(matches!("18446744073709551615KiB".parse::<Bytes>(), Err(UnitError::TooLarge { .. })));
        assert!(serde_json::from_str::<Duration>("5").is_err());
    }
}
