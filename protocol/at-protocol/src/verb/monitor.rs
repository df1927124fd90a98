//! `monitor`: a stream of notifications (wire reference §4.19).

use std::fmt;

use super::VerbError;
use super::params::regex;
use crate::Timestamp;

/// `monitor[:strict][:selfNotifications][:multiplexed][:<epochMillis>][ <regex>]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Monitor {
    /// Whether stats notifications must match the regex too.
    pub strict: bool,
    /// Whether notifications of the owner to itself are wanted.
    pub self_notifications: bool,
    /// Historical, without effect.
    pub multiplexed: bool,
    /// Replay what came after this moment, first.
    pub since: Option<Timestamp>,
    /// Only notifications in whose key or sender this matches, anywhere.
    pub regex: Option<String>,
}

const USAGE: &str = "e.g monitor:selfNotifications:1606200000000 .wavi";

pub(super) fn parse(rest: &str) -> Result<Monitor, VerbError> {
    let (head, regex) = regex(rest);
    let mut monitor = Monitor { regex, ..Monitor::default() };
    for word in head.split(':').skip(1) {
        match word.to_ascii_lowercase().as_str() {
            "strict" => monitor.strict = true,
            "selfnotifications" => monitor.self_notifications = true,
            "multiplexed" => monitor.multiplexed = true,
            digits if monitor.since.is_none() => {
                let millis: u64 = digits.parse().map_err(|_| VerbError::Syntax { usage: USAGE })?;
                monitor.since = Some(Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX)));
            }
            _ => return Err(VerbError::Syntax { usage: USAGE }),
        }
    }
    Ok(monitor)
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("monitor")?;
        for (set, word) in [
            (self.strict, ":strict"),
            (self.self_notifications, ":selfNotifications"),
            (self.multiplexed, ":multiplexed"),
        ] {
            f.write_str(if set { word } else { "" })?;
        }
        if let Some(since) = self.since {
            write!(f, ":{}", since.as_millis())?;
        }
        self.regex.as_ref().map_or(Ok(()), |regex| write!(f, " {regex}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "monitor",
                "monitor .*",
                "monitor:0 .*",
                "monitor:selfNotifications:1606200000000",
                "monitor:strict:selfNotifications:multiplexed:5 a:b",
            ],
            &[("MONITOR:SELFNOTIFICATIONS", "monitor:selfNotifications")],
        );
    }

    #[test]
    fn refuses_other_words() {
        refused(&["monitor:", "monitor:loud", "monitor:1:2", "monitor:-1"]);
    }
}
