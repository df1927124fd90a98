use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value as Json;

use super::{DecodeError, Pointer};

/// Where the device's own time stands, and how it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeFrom {
    /// A JSON Pointer (RFC 6901). Where it leads nowhere, or to null, the reading has no time of its
    /// own; where it leads to something that is no time, the reading is refused.
    pub from: Pointer,
    /// How the time is written.
    #[serde(rename = "as")]
    pub notation: TimeNotation,
}

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeNotation {
    /// Milliseconds since 1970, a number or a string of digits.
    UnixMs,
    /// Seconds since 1970, with or without a fraction.
    UnixS,
    /// As in `2026-11-22T18:50:00.25+01:00` (RFC 3339).
    Rfc3339,
}

/// The end of the year 9999 in seconds since 1970: what lies beyond is no time of a reading.
const END_OF_TIME: f64 = 253_402_300_800.0;

impl TimeNotation {
    fn describe(self) -> &'static str {
        match self {
            Self::UnixMs => "milliseconds since 1970",
            Self::UnixS => "seconds since 1970",
            Self::Rfc3339 => "an RFC 3339 time",
        }
    }

    pub(super) fn read(self, value: &Json) -> Result<SystemTime, DecodeError> {
        let time = match self {
            Self::UnixMs => number(value).and_then(|millis| since_1970(millis / 1000.0)),
            Self::UnixS => number(value).and_then(since_1970),
            Self::Rfc3339 => value.as_str().and_then(|text| {
                let time: jiff::Timestamp = text.parse().ok()?;
                Some(SystemTime::from(time))
            }),
        };
        time.ok_or(DecodeError::Time { expected: self.describe() })
    }
}

fn number(value: &Json) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

fn since_1970(seconds: f64) -> Option<SystemTime> {
    if !(0.0..END_OF_TIME).contains(&seconds) {
        return None;
    }
    // A double holds today's time to a quarter of a microsecond.
    let micros = Duration::try_from_secs_f64(seconds).ok()?.as_micros();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(u64::try_from(micros).ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn millis(notation: TimeNotation, value: &Json) -> Option<u128> {
        let time = notation.read(value).ok()?;
        Some(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis())
    }

    #[test]
    fn all_notations_name_the_same_moment() {
        let moment = Some(1_795_350_000_250);
        assert_eq!(millis(TimeNotation::UnixMs, &json!(1_795_350_000_250_u64)), moment);
        assert_eq!(millis(TimeNotation::UnixMs, &json!("1795350000250")), moment);
        assert_eq!(millis(TimeNotation::UnixS, &json!(1_795_350_000.25)), moment);
        assert_eq!(millis(TimeNotation::Rfc3339, &json!("2026-11-22T12:20:00.25Z")), moment);
        assert_eq!(millis(TimeNotation::Rfc3339, &json!("2026-11-22T13:20:00.25+01:00")), moment);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for (notation, value) in [
            (TimeNotation::UnixMs, json!(-1)),
            (TimeNotation::UnixMs, json!(1e18)),
            (TimeNotation::UnixS, json!("nan")),
            (TimeNotation::UnixS, json!(true)),
            (TimeNotation::Rfc3339, json!("yesterday")),
            (TimeNotation::Rfc3339, json!(1_795_350_000)),
        ] {
            assert!(notation.read(&value).is_err(), "{value} was taken");
        }
    }
}
