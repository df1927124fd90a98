//! The names of devices, streams and points.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text cannot be a name. Names are refused, never folded into something that fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// The text has no characters.
    #[error("a {what} name cannot be empty")]
    Empty {
        /// `device`, `stream` or `point`.
        what: &'static str,
    },
    /// The text is longer than the name may be.
    #[error("a {what} name has at most {max} characters, this one has {length}")]
    TooLong {
        /// `device`, `stream` or `point`.
        what: &'static str,
        /// The length found, in bytes.
        length: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// A character is not one of `a-z`, `0-9`, `_` and `-`.
    #[error("a {what} name has only a-z, 0-9, `_` and `-`, not {found:?}")]
    Character {
        /// `device`, `stream` or `point`.
        what: &'static str,
        /// The first character that does not fit.
        found: char,
    },
}

fn checked(text: &str, what: &'static str, max: usize) -> Result<Box<str>, InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty { what });
    }
    if text.len() > max {
        return Err(InvalidName::TooLong { what, length: text.len(), max });
    }
    match text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '_' | '-')) {
        Some(found) => Err(InvalidName::Character { what, found }),
        None => Ok(text.into()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The most characters this name may have.
            pub const MAX: usize = $max;

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                checked(text, $what, $max).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

name! {
    /// The name of a device behind the gateway: 1 to 48 of `a-z`, `0-9`, `_` and `-`.
    DeviceName, "device", 48
}
name! {
    /// The name of a stream of readings: 1 to 32 of `a-z`, `0-9`, `_` and `-`.
    StreamName, "stream", 32
}
name! {
    /// The name of a measured point: 1 to 48 of `a-z`, `0-9`, `_` and `-`.
    PointName, "point", 48
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_text() {
        assert_eq!("boiler-7_a".parse::<DeviceName>().unwrap().to_string(), "boiler-7_a");
    }

    #[test]
    fn names_that_do_not_fit_are_refused_and_not_folded() {
        for text in ["Boiler", "a.b", "a b", "ä", "a/b", "a@b"] {
            assert!(
                matches!(text.parse::<DeviceName>(), Err(InvalidName::Character { .. })),
                "{text} was taken"
            );
        }
        assert_eq!("".parse::<PointName>(), Err(InvalidName::Empty { what: "point" }));
        assert!("x".repeat(48).parse::<DeviceName>().is_ok());
        assert!("x".repeat(49).parse::<DeviceName>().is_err());
        assert!("x".repeat(32).parse::<StreamName>().is_ok());
        assert!("x".repeat(33).parse::<StreamName>().is_err());
    }
}
