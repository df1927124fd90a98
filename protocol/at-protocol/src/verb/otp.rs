//! `otp`: codes by which applications may ask for an enrollment (wire reference §4.24).

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::VerbError;

/// Fewest characters of a code.
const MIN_CODE: usize = 6;

/// `otp:get[:ttl:<ms>]` or `otp:put:<code>[:ttl:<ms>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Otp {
    /// Makes a code that is good for one request.
    Get {
        /// How long it is good for, in milliseconds.
        ttl: Option<u64>,
    },
    /// Sets the passcode that is good for any number of requests.
    Put {
        /// The passcode.
        code: Passcode,
        /// How long it is good for, in milliseconds; for ever where absent.
        ttl: Option<u64>,
    },
}

/// A secret between the owner and an application that is to be enrolled. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Passcode(Zeroizing<String>);

impl Passcode {
    /// The code as it was given.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Passcode {
    fn from(code: String) -> Self {
        Self(Zeroizing::new(code))
    }
}

impl From<Passcode> for String {
    fn from(code: Passcode) -> Self {
        code.0.as_str().to_owned()
    }
}

impl fmt::Debug for Passcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passcode(…)")
    }
}

const USAGE: &str = "e.g otp:get or otp:put:<at least six letters or digits>";

pub(super) fn parse(rest: &str) -> Result<Otp, VerbError> {
    let syntax = VerbError::Syntax { usage: USAGE };
    let mut parts = rest.split(':').skip(1);
    let word = parts.next().ok_or(syntax.clone())?.to_ascii_lowercase();
    let rest: Vec<&str> = parts.collect();
    match (word.as_str(), rest.as_slice()) {
        ("get", ttl) => Ok(Otp::Get { ttl: read_ttl(ttl)? }),
        ("put", [code, ttl @ ..]) if is_code(code) => {
            Ok(Otp::Put { code: Passcode::from((*code).to_owned()), ttl: read_ttl(ttl)? })
        }
        _ => Err(syntax),
    }
}

fn is_code(text: &str) -> bool {
    text.len() >= MIN_CODE && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn read_ttl(parts: &[&str]) -> Result<Option<u64>, VerbError> {
    match parts {
        [] => Ok(None),
        [name, digits] if name.eq_ignore_ascii_case("ttl") => {
            digits.parse().map(Some).map_err(|_| VerbError::Syntax { usage: USAGE })
        }
        _ => Err(VerbError::Syntax { usage: USAGE }),
    }
}

impl fmt::Display for Otp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ttl = match self {
            Self::Get { ttl } => {
                f.write_str("otp:get")?;
                ttl
            }
            Self::Put { code, ttl } => {
                write!(f, "otp:put:{}", code.reveal())?;
                ttl
            }
        };
        ttl.map_or(Ok(()), |ttl| write!(f, ":ttl:{ttl}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{refused, round_trip};
    use super::*;

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &["otp:get", "otp:get:ttl:1000", "otp:put:abc_123", "otp:put:ABC123:ttl:1000"],
            &[("OTP:Get:TTL:5", "otp:get:ttl:5")],
        );
    }

    #[test]
    fn refuses_what_is_too_short_or_no_code() {
        refused(&[
            "otp",
            "otp:",
            "otp:get:",
            "otp:get:ttl",
            "otp:get:ttl:x",
            "otp:put",
            "otp:put:abc12",
            "otp:put:abc-123",
            "otp:put:abc123:ttl",
            "otp:put:ttl:1000",
            "otp:take:abc123",
        ]);
    }

    #[test]
    fn a_passcode_is_not_shown() {
        assert!(!format!("{:?}", parse(":put:ABC123")).contains("ABC123"));
    }
}
