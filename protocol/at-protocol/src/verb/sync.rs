//! `sync:from`: reads the commit log (wire reference §7.4).

use std::fmt;

use super::VerbError;
use super::params::Params;

/// `sync:from:<n>[:limit:<l>][:skipDeletesUntil:<m>][:<regex>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// Entries with a commit id above this; -1 gives everything.
    pub from: i64,
    /// How many at most.
    pub limit: Option<usize>,
    /// Deletions up to this commit id are left out.
    pub skip_deletes_until: Option<i64>,
    /// Only keys in which this matches, anywhere.
    pub regex: Option<String>,
}

const USAGE: &str = "e.g sync:from:-1:limit:10:.wavi";

pub(super) fn parse(rest: &str) -> Result<Sync, VerbError> {
    let syntax = VerbError::Syntax { usage: USAGE };
    // The old form `sync:<n>` has no meaning any more.
    let rest = rest.strip_prefix(":from:").ok_or(VerbError::Unknown)?;
    let (from, rest) = rest.split_once(':').unwrap_or((rest, ""));
    let from = from.parse().ok().filter(|from| *from >= -1).ok_or(syntax.clone())?;
    // One colon more makes the last parameter like the others; the regex then loses it again.
    let spelled = format!("{rest}:");
    let mut params = Params { rest: if rest.is_empty() { "" } else { &spelled } };
    let limit = params.named("limit").map(str::parse).transpose().map_err(|_| syntax.clone())?;
    let skip = params.named("skipDeletesUntil").map(str::parse).transpose().map_err(|_| syntax)?;
    let regex = Some(params.rest.strip_suffix(':').unwrap_or(params.rest)).filter(|regex| !regex.is_empty());
    Ok(Sync { from, limit, skip_deletes_until: skip, regex: regex.map(str::to_owned) })
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sync:from:{}", self.from)?;
        if let Some(limit) = self.limit {
            write!(f, ":limit:{limit}")?;
        }
        if let Some(skip) = self.skip_deletes_until {
            write!(f, ":skipDeletesUntil:{skip}")?;
        }
        self.regex.as_ref().map_or(Ok(()), |regex| write!(f, ":{regex}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verb, VerbError, refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "sync:from:-1",
                "sync:from:-1:limit:10",
                "sync:from:5:limit:10:.wavi",
                "sync:from:5:skipDeletesUntil:3:a:b",
                "sync:from:0:.*",
            ],
            &[],
        );
    }

    #[test]
    fn refuses_the_old_form_and_wrong_numbers() {
        assert_eq!("sync:5".parse::<Verb>(), Err(VerbError::Unknown));
        refused(&["sync:from:", "sync:from:-2", "sync:from:1:limit:x"]);
    }
}
