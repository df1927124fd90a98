//! Wall-clock time as the atProtocol writes it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A moment, in milliseconds since the Unix epoch.
///
/// `Display` and serde use the protocol's text form `2020-10-21 09:46:48.982Z` (wire reference §6.1);
/// parsing also takes the `T` form that clients send in asserted times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(i64);

/// The text is not a UTC date and time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time like 2020-10-21 09:46:48.982Z")]
pub struct InvalidTimestamp(String);

/// The years 1 to 9998: what the text form can show in every time zone.
const RANGE_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_370_764_799_999;

impl Timestamp {
    /// The moment `millis` after (or before) the Unix epoch, held within the years 1 to 9998.
    #[must_use]
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(*RANGE_MS.start(), *RANGE_MS.end()))
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The text form with a `T`, which has no space: `2020-10-21T09:46:48.982Z`.
    #[must_use]
    pub fn iso(self) -> String {
        self.to_string().replacen(' ', "T", 1)
    }

    /// This moment plus `millis`, which may be as large as a peer likes to claim.
    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        Self::from_millis(self.0.saturating_add(i64::try_from(millis).unwrap_or(i64::MAX)))
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        let millis = match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        Self::from_millis(millis)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = jiff::Timestamp::from_millisecond(self.0).map_err(|_| fmt::Error)?;
        let at = moment.to_zoned(jiff::tz::TimeZone::UTC).datetime();
        write!(
            f,
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            at.month(),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        )
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let moment: jiff::Timestamp = text.trim().parse().map_err(|_| InvalidTimestamp(text.to_owned()))?;
        Ok(Self::from_millis(moment.as_millisecond()))
    }
}

impl TryFrom<String> for Timestamp {
    type Error = InvalidTimestamp;

    fn try_from(text: String) -> Result<Self, InvalidTimestamp> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

/// Times in the form without a space, for records that are signed.
pub(crate) mod iso {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Timestamp;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&time.iso())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        Timestamp::deserialize(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_the_protocol_form() {
        let time = Timestamp::from_millis(1_603_273_608_982);
        assert_eq!(time.to_string(), "2020-10-21 09:46:48.982Z");
        assert_eq!(time.iso(), "2020-10-21T09:46:48.982Z");
        assert_eq!("2020-10-21 09:46:48.982Z".parse(), Ok(time));
        assert_eq!("2020-10-21T09:46:48.982Z".parse(), Ok(time));
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn absurd_lifetimes_stay_within_the_calendar() {
        let end = Timestamp::from_millis(0).plus_millis(u64::MAX);
        assert_eq!(end.to_string(), "9998-12-31 23:59:59.999Z");
        assert_eq!(Timestamp::from_millis(i64::MIN).to_string(), "0001-01-01 00:00:00.000Z");
    }
}
