//! What was found.

use std::fmt;

use serde::Serialize;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Good,
    /// It works, and could be better.
    Note,
    /// It does not work.
    Bad,
    /// It was not looked at.
    Skipped,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What.
    pub(super) what: &'static str,
    pub(super) verdict: Verdict,
    /// What was seen; where it is bad, why.
    pub(super) says: String,
    /// What to do.
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn good(what: &'static str, says: impl ToString) -> Self {
        Self { what, verdict: Verdict::Good, says: says.to_string(), fix: None }
    }

    pub(super) fn note(what: &'static str, says: impl ToString, fix: impl ToString) -> Self {
        Self { what, verdict: Verdict::Note, says: says.to_string(), fix: Some(fix.to_string()) }
    }

    pub(super) fn bad(what: &'static str, why: impl ToString, fix: impl ToString) -> Self {
        Self { what, verdict: Verdict::Bad, says: why.to_string(), fix: Some(fix.to_string()) }
    }

    pub(super) fn skipped(what: &'static str, why: impl ToString) -> Self {
        Self { what, verdict: Verdict::Skipped, says: why.to_string(), fix: None }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Good => "ok",
            Verdict::Note => "note",
            Verdict::Bad => "BAD",
            Verdict::Skipped => "skipped",
        };
        let indent = " ".repeat(24);
        let says = self.says.replace('\n', &format!("\n{indent}"));
        write!(out, "{verdict:8}{:16}{says}", self.what)?;
        self.fix.iter().try_for_each(|fix| write!(out, "\n{indent}fix: {fix}"))
    }
}
