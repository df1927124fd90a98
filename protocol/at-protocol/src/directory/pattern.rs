//! Which atSigns somebody may speak for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::AtSign;
use crate::atsign::InvalidAtSign;

/// One atSign, or all that begin alike: `@alice`, `@plant7*`, `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    /// Without `@`; empty for everybody.
    start: Box<str>,
    is_open: bool,
}

/// The text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pattern like @alice, @plant7* or *: {1}")]
pub struct InvalidPattern(String, InvalidAtSign);

impl Pattern {
    /// Whether an atSign is meant.
    #[must_use]
    pub fn matches(&self, atsign: &AtSign) -> bool {
        if self.is_open { atsign.as_str().starts_with(&*self.start) } else { atsign.as_str() == &*self.start }
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let (start, is_open) = match text.trim().strip_suffix('*') {
            Some("" | "@") => return Ok(Self { start: "".into(), is_open: true }),
            Some(start) => (start, true),
            None => (text, false),
        };
        let start: AtSign = start.parse().map_err(|error| InvalidPattern(text.to_owned(), error))?;
        Ok(Self { start: start.as_str().into(), is_open })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = if self.start.is_empty() { "" } else { "@" };
        write!(f, "{at}{}{}", self.start, if self.is_open { "*" } else { "" })
    }
}

impl TryFrom<String> for Pattern {
    type Error = InvalidPattern;

    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_atsign_or_all_that_begin_alike() {
        let matches = |pattern: &str, atsign: &str| {
            pattern.parse::<Pattern>().unwrap().matches(&atsign.parse().unwrap())
        };
        assert!(matches("@Plant7", "@plant7") && !matches("@plant7", "@plant71"));
        assert!(matches("@plant7*", "@plant7") && matches("plant7*", "@plant7gw1"));
        assert!(!matches("@plant7*", "@plant") && !matches("@plant7*", "@aplant7"));
        assert!(matches("*", "@anybody") && matches("@*", "@anybody"));
    }

    #[test]
    fn patterns_read_back_and_others_are_refused() {
        for (text, shown) in [("@A.lice", "@alice"), ("plant7*", "@plant7*"), ("@*", "*")] {
            let pattern: Pattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), shown);
            assert_eq!(shown.parse(), Ok(pattern));
        }
        for bad in ["", "@", "**", "@a*b", "@a b", "*a"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }
}
