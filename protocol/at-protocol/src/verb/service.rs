//! `noop`, `info`, `stats`: the server about itself (wire reference §4.21, §4.26).

use std::fmt;

use super::VerbError;

/// `noop:<delayMillis>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noop {
    /// How long to wait before the answer, in milliseconds.
    pub delay_ms: u64,
}

/// `info[:brief]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Version and uptime only.
    pub brief: bool,
}

/// `stats[:<id>,<id>…[:<regex>]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Which; all where empty.
    pub ids: Vec<u32>,
    /// For ids 3 and 15: only keys in which this matches.
    pub regex: Option<String>,
}

const NOOP: &str = "e.g noop:0";
const INFO: &str = "e.g info:brief";
const STATS: &str = "e.g stats:3";

pub(super) fn noop(rest: &str) -> Result<Noop, VerbError> {
    let delay = rest.strip_prefix(':').and_then(|digits| digits.parse().ok());
    delay.map(|delay_ms| Noop { delay_ms }).ok_or(VerbError::Syntax { usage: NOOP })
}

pub(super) fn info(rest: &str) -> Result<Info, VerbError> {
    match rest.to_ascii_lowercase().as_str() {
        "" => Ok(Info { brief: false }),
        ":brief" => Ok(Info { brief: true }),
        _ => Err(VerbError::Syntax { usage: INFO }),
    }
}

pub(super) fn stats(rest: &str) -> Result<Stats, VerbError> {
    let Some(rest) = rest.strip_prefix(':') else {
        return if rest.is_empty() { Ok(Stats::default()) } else { Err(VerbError::Syntax { usage: STATS }) };
    };
    let (ids, regex) = match rest.split_once(':') {
        Some((ids, regex)) if matches!(ids, "3" | "15") && !regex.is_empty() => (ids, Some(regex.to_owned())),
        Some(_) => return Err(VerbError::Syntax { usage: STATS }),
        None => (rest, None),
    };
    let ids = ids.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>();
    let ids = ids.map_err(|_| VerbError::Syntax { usage: STATS })?;
    if ids.contains(&0) {
        return Err(VerbError::Syntax { usage: STATS });
    }
    Ok(Stats { ids, regex })
}

impl fmt::Display for Noop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "noop:{}", self.delay_ms)
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.brief { "info:brief" } else { "info" })
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stats")?;
        for (place, id) in self.ids.iter().enumerate() {
            write!(f, "{}{id}", if place == 0 { ':' } else { ',' })?;
        }
        self.regex.as_ref().map_or(Ok(()), |regex| write!(f, ":{regex}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &["noop:0", "info", "info:brief", "stats", "stats:3", "stats:3:.wavi", "stats:1,2,11"],
            &[],
        );
    }

    #[test]
    fn refuses_what_is_no_number() {
        refused(&["noop", "noop:", "noop:x", "info:long", "stats:", "stats:0", "stats:1:x", "stats:a"]);
    }
}
