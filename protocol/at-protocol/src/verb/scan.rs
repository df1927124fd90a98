//! `scan`: lists keys (wire reference §4.11).

use std::fmt;

use super::VerbError;
use super::params::{Params, regex};
use crate::AtSign;

/// `scan[:cl][:showhidden:<b>][:<@atSign>][:page:<n>][ <regex>]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Whether the commit log is listed instead of keys; it is the owner's own only.
    pub commit_log: bool,
    /// Whether hidden keys are listed too.
    pub show_hidden: bool,
    /// Whose keys, when not one's own.
    pub of: Option<AtSign>,
    /// Only keys in which this matches, anywhere.
    pub regex: Option<String>,
}

const USAGE: &str = "e.g scan:showhidden:true .wavi";

pub(super) fn parse(rest: &str) -> Result<Scan, VerbError> {
    let (head, regex) = regex(rest);
    // Every parameter ends in a colon once one is added, which makes the last like the others.
    let spelled = format!("{}:", head.strip_prefix(':').unwrap_or(head));
    let mut params = Params { rest: if head.is_empty() { "" } else { &spelled } };
    let commit_log = params.flag("cl");
    let show_hidden = match params.named("showhidden").map(str::to_ascii_lowercase).as_deref() {
        Some("true") => true,
        Some("false") | None => false,
        Some(_) => return Err(VerbError::Syntax { usage: USAGE }),
    };
    let of = params.atsign()?;
    // Accepted and without effect, as in the reference.
    if params.named("page").is_some_and(|page| page.parse::<u32>().is_err()) || !params.rest.is_empty() {
        return Err(VerbError::Syntax { usage: USAGE });
    }
    if commit_log && of.is_some() {
        return Err(VerbError::Syntax { usage: USAGE });
    }
    Ok(Scan { commit_log, show_hidden, of, regex })
}

impl fmt::Display for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.commit_log { "scan:cl" } else { "scan" })?;
        if self.show_hidden {
            f.write_str(":showhidden:true")?;
        }
        if let Some(of) = &self.of {
            write!(f, ":{of}")?;
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
                "scan",
                "scan .wavi",
                "scan:showhidden:true",
                "scan:@bob",
                "scan:showhidden:true:@bob a:b",
                "scan:cl",
                "scan:cl a:b",
            ],
            &[
                ("scan:showHidden:true .*", "scan:showhidden:true .*"),
                ("scan:showhidden:false:page:2", "scan"),
            ],
        );
    }

    #[test]
    fn refuses_what_is_not_a_parameter() {
        refused(&["scan:", "scan:x", "scan:cl:@bob", "scan:page:x", "scan:showhidden:maybe"]);
    }
}
