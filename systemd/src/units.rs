//! Values that are written with their unit: `"10s"`, `"64KiB"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

const TIMES: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A length of time as a whole number with its unit: `ms`, `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

/// A number of bytes as a whole number with its unit: `B`, `KiB`, `MiB` or `GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

/// A text that is not a number with one of the units.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a whole number with a unit, like \"{example}\" ({units})")]
pub struct NoUnit {
    example: &'static str,
    units: &'static str,
}

impl Span {
    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl Size {
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl FromStr for Span {
    type Err = NoUnit;

    fn from_str(text: &str) -> Result<Self, NoUnit> {
        let millis = scaled(text, &TIMES).ok_or(NoUnit { example: "10s", units: "ms, s, m, h, d" })?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl FromStr for Size {
    type Err = NoUnit;

    fn from_str(text: &str) -> Result<Self, NoUnit> {
        scaled(text, &SIZES).map(Self).ok_or(NoUnit { example: "64KiB", units: "B, KiB, MiB, GiB" })
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Written(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Written(std::marker::PhantomData))
    }
}

/// Text that `T` reads; anything else is answered with what `T` wants to see.
struct Written<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = NoUnit>> de::Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a number with its unit, in quotes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_scale() {
        assert_eq!("250ms".parse(), Ok(Span(Duration::from_millis(250))));
        assert_eq!("5 m".parse(), Ok(Span(Duration::from_secs(300))));
        assert_eq!("7d".parse(), Ok(Span(Duration::from_secs(7 * 86_400))));
        assert_eq!("64KiB".parse(), Ok(Size(65_536)));
        assert_eq!("0B".parse(), Ok(Size(0)));
    }

    #[test]
    fn a_bare_number_and_a_foreign_unit_are_refused() {
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "1.5h",
            "5 minutes",
            "5KiB",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert_eq!(
            "64K".parse::<Size>().unwrap_err().to_string(),
            "expected a whole number with a unit, like \"64KiB\" (B, KiB, MiB, GiB)"
        );
    }
}
