//! The name of a party on the atPlatform.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest atSign, in code points without the `@` (atProtocol wire reference §5.1).
pub const MAX_CODE_POINTS: usize = 55;

/// Characters that no atSign contains (wire reference §5.1).
const FORBIDDEN: &str = "!*'`();:&=+$,/?#[]{}@";

/// An atSign: lower case, without dots, `@`, `:` or white space, 1 to 55 code points.
///
/// `Display` adds the `@`; [`AtSign::as_str`] does not. Parsing accepts both and folds case and dots, so
/// `@A.lice` and `alice` are the same atSign.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AtSign(Box<str>);

/// Why a text is no atSign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAtSign {
    /// Nothing is left after the `@` and the dots are taken away.
    #[error("an atSign needs at least one character after the @")]
    Empty,
    /// More than [`MAX_CODE_POINTS`] code points.
    #[error("an atSign has at most {MAX_CODE_POINTS} characters, this one has {0}")]
    TooLong(usize),
    /// A character that the platform does not allow.
    #[error("an atSign cannot contain {0:?}")]
    Character(char),
}

impl AtSign {
    /// The atSign without its `@`, as directories and file names want it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AtSign {
    type Err = InvalidAtSign;

    fn from_str(text: &str) -> Result<Self, InvalidAtSign> {
        let trimmed = text.trim();
        let bare = trimmed.strip_prefix('@').unwrap_or(trimmed);
        // Most are written as they are meant.
        let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        if (1..=MAX_CODE_POINTS).contains(&bare.len()) && bare.bytes().all(is_plain) {
            return Ok(Self(bare.into()));
        }
        let name: String = bare.chars().filter(|c| *c != '.').flat_map(char::to_lowercase).collect();
        if let Some(bad) =
            name.chars().find(|c| c.is_whitespace() || c.is_control() || FORBIDDEN.contains(*c))
        {
            return Err(InvalidAtSign::Character(bad));
        }
        match name.chars().count() {
            0 => Err(InvalidAtSign::Empty),
            n if n > MAX_CODE_POINTS => Err(InvalidAtSign::TooLong(n)),
            _ => Ok(Self(name.into())),
        }
    }
}

impl TryFrom<String> for AtSign {
    type Error = InvalidAtSign;

    fn try_from(text: String) -> Result<Self, InvalidAtSign> {
        text.parse()
    }
}

impl From<AtSign> for String {
    fn from(atsign: AtSign) -> Self {
        atsign.to_string()
    }
}

impl fmt::Display for AtSign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_case_and_dots_and_adds_the_at() {
        for text in ["alice", "@alice", " @ALICE ", "@a.li.ce"] {
            assert_eq!(text.parse::<AtSign>().unwrap().to_string(), "@alice");
        }
        assert_eq!("@🦄".parse::<AtSign>().unwrap().as_str(), "🦄");
    }

    #[test]
    fn refuses_what_the_platform_refuses() {
        assert_eq!("@".parse::<AtSign>(), Err(InvalidAtSign::Empty));
        assert_eq!("@...".parse::<AtSign>(), Err(InvalidAtSign::Empty));
        assert_eq!("@a@b".parse::<AtSign>(), Err(InvalidAtSign::Character('@')));
        assert_eq!("a b".parse::<AtSign>(), Err(InvalidAtSign::Character(' ')));
        assert_eq!("a:b".parse::<AtSign>(), Err(InvalidAtSign::Character(':')));
        assert_eq!("x".repeat(56).parse::<AtSign>(), Err(InvalidAtSign::TooLong(56)));
        assert!("x".repeat(55).parse::<AtSign>().is_ok());
    }
}
