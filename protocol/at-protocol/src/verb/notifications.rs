//! `notify:list`, `notify:status`, `notify:fetch`, `notify:remove`: what became of notifications
//! (wire reference §4.15 to §4.18); and the choice among them, `notify:all` and `notify` itself.

use std::fmt;

use super::params::Params;
use super::{Verb, VerbError, notify, notify_all};
use crate::Timestamp;

/// `notify:list[:<from>[:<to>]][:<regex>]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotifyList {
    /// Received on this day or later.
    pub from: Option<Day>,
    /// Received on this day or earlier.
    pub to: Option<Day>,
    /// Only those in whose key or sender this matches, anywhere.
    pub regex: Option<String>,
}

/// A day in UTC, as `2024-01-31`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(jiff::civil::Date);

/// `notify:status:<id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyStatus {
    /// Which notification.
    pub id: String,
}

/// `notify:fetch:<id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyFetch {
    /// Which notification.
    pub id: String,
}

/// `notify:remove:<id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyRemove {
    /// Which notification.
    pub id: String,
}

const USAGE: &str = "e.g notify:list:2024-01-01:2024-01-31:.wavi";

pub(super) fn parse(rest: &str) -> Result<Verb, VerbError> {
    let syntax = VerbError::Syntax { usage: USAGE };
    let params = Params::after_colon(rest).ok_or(syntax.clone())?;
    let (word, tail) = params.rest.split_once(':').unwrap_or((params.rest, ""));
    let id = || if tail.is_empty() { Err(syntax.clone()) } else { Ok(tail.trim().to_owned()) };
    match word.to_ascii_lowercase().as_str() {
        "all" => notify_all::parse(tail).map(|all| Verb::NotifyAll(Box::new(all))),
        "list" => list(tail).map(Verb::NotifyList),
        "status" => Ok(Verb::NotifyStatus(NotifyStatus { id: id()? })),
        "fetch" => Ok(Verb::NotifyFetch(NotifyFetch { id: id()? })),
        "remove" => Ok(Verb::NotifyRemove(NotifyRemove { id: id()? })),
        _ => notify::parse(params).map(|notify| Verb::Notify(Box::new(notify))),
    }
}

fn list(tail: &str) -> Result<NotifyList, VerbError> {
    let mut list = NotifyList::default();
    let mut rest = tail;
    for slot in [&mut list.from, &mut list.to] {
        let (head, after) = rest.split_once(':').unwrap_or((rest, ""));
        let Ok(day) = head.parse::<jiff::civil::Date>() else { break };
        *slot = Some(Day(day));
        rest = after;
    }
    if rest.contains(':') {
        return Err(VerbError::Syntax { usage: USAGE });
    }
    list.regex = Some(rest.to_owned()).filter(|regex| !regex.is_empty());
    Ok(list)
}

impl Day {
    /// The first moment of the day, and the first after it.
    #[must_use]
    pub fn bounds(self) -> (Timestamp, Timestamp) {
        let start = self.0.to_datetime(jiff::civil::Time::midnight());
        let start = jiff::tz::TimeZone::UTC.to_timestamp(start).map_or(0, jiff::Timestamp::as_millisecond);
        let start = Timestamp::from_millis(start);
        (start, start.plus_millis(24 * 60 * 60 * 1000))
    }
}

impl fmt::Display for NotifyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("notify:list")?;
        for Day(day) in [self.from, self.to].into_iter().flatten() {
            write!(f, ":{day}")?;
        }
        self.regex.as_ref().map_or(Ok(()), |regex| write!(f, ":{regex}"))
    }
}

impl fmt::Display for NotifyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "notify:status:{}", self.id)
    }
}

impl fmt::Display for NotifyFetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "notify:fetch:{}", self.id)
    }
}

impl fmt::Display for NotifyRemove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "notify:remove:{}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "notify:list",
                "notify:list:.wavi",
                "notify:list:2024-01-01",
                "notify:list:2024-01-01:2024-01-31:.wavi",
                "notify:status:4a160d33",
                "notify:fetch:4a160d33",
                "notify:remove:4a160d33",
            ],
            &[],
        );
    }

    #[test]
    fn refuses_what_names_no_notification() {
        refused(&["notify:status", "notify:fetch:", "notify:remove", "notify:list:a:b"]);
    }
}
