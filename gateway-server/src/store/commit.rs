//! The commit log, from which clients learn what has changed (atProtocol wire reference §7).

use std::fmt;
use std::str::FromStr;

use at_protocol::verb::Operation;
use at_protocol::{AtKey, Timestamp};

use super::Record;

/// The newest commit of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The commit's id: 0, 1, 2 … per tenant.
    pub id: i64,
    /// Whose change.
    pub key: AtKey,
    /// What happened.
    pub operation: Change,
    /// When it happened, as its author asserts.
    pub time: Timestamp,
    /// The record as it is now, if it is.
    pub record: Option<Record>,
}

/// What happened to a record. `Display` is the log's letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// `+`: its value was written, and nothing said about it. This server always says something.
    Value,
    /// `*`: value and metadata were written.
    Whole,
    /// `#`: metadata was written.
    Metadata,
    /// `-`: it was removed.
    Gone,
}

impl Change {
    /// What monitors are told.
    #[must_use]
    pub fn operation(self) -> Operation {
        match self {
            Self::Value | Self::Whole | Self::Metadata => Operation::Update,
            Self::Gone => Operation::Delete,
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "+",
            Self::Whole => "*",
            Self::Metadata => "#",
            Self::Gone => "-",
        })
    }
}

impl FromStr for Change {
    type Err = ();

    fn from_str(letter: &str) -> Result<Self, ()> {
        match letter {
            "+" => Ok(Self::Value),
            "*" => Ok(Self::Whole),
            "#" => Ok(Self::Metadata),
            "-" => Ok(Self::Gone),
            _ => Err(()),
        }
    }
}
