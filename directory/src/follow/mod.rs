//! A directory that follows another: it has all its names, and answers when the other one is gone.
//!
//! The follower opens a stream on a QUIC connection by which both have proved their node keys, and says in one
//! line whose changes it has and how many. From then on it is told what has changed, a line each, and goes on
//! being told. The other's word counts for what operators have said; records that nodes have signed are checked
//! again. Who was too far behind, or followed another registry, is told everything anew, and forgets what was
//! not in it.

mod primary;
mod replica;

use std::fmt;
use std::str::FromStr;

use at_protocol::AtSign;
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Address, LONGEST_EXTENDED, SignedRecord};
use serde::Deserialize;

pub(crate) use primary::tell;
pub(crate) use replica::Replica;

/// Bytes of the longest line in either direction: a record and its verb.
const LONGEST_LINE: usize = LONGEST_EXTENDED + 16;

/// The `[replica]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaSettings {
    /// Host and port of the directory to follow; the port is that of its TLS, with the same number for UDP.
    pub of: Address,
    /// Its node key, as its `atedge-directory node` prints it.
    pub node: Ed25519Public,
}

/// The `[followers]` table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowersSettings {
    /// The node keys of the directories that may follow this one: they learn all its names.
    pub nodes: Vec<Ed25519Public>,
}

/// The first line: what the follower has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Whose changes; empty for nobody's.
    id: String,
    /// Up to which.
    change: i64,
}

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// All of the registry with this name follows.
    Anew(String),
    /// What has changed since the change that was named.
    On,
    /// An operator said where an atSign is served.
    At(AtSign, Address),
    /// A node has signed it.
    Record(Box<SignedRecord>),
    /// An atSign is served no more.
    Gone(AtSign),
    /// All up to this change was told, with more to come at once.
    Part(i64),
    /// All up to this change was told, and it is the last so far.
    Upto(i64),
}

/// The line is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} makes no sense")]
pub struct InvalidLine(String);

fn invalid(text: &str) -> InvalidLine {
    InvalidLine(text.chars().take(80).collect())
}

/// What registries are called.
fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl fmt::Display for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "follow:{}:{}", self.id, self.change)
    }
}

impl FromStr for Request {
    type Err = InvalidLine;

    fn from_str(text: &str) -> Result<Self, InvalidLine> {
        let (id, change) = text
            .strip_prefix("follow:")
            .and_then(|rest| rest.split_once(':'))
            .ok_or_else(|| invalid(text))?;
        match change.parse() {
            Ok(change) if id.is_empty() || is_id(id) => Ok(Self { id: id.to_owned(), change }),
            _ => Err(invalid(text)),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anew(id) => write!(out, "anew:{id}"),
            Self::On => out.write_str("on:"),
            Self::At(atsign, address) => write!(out, "at:{atsign} {address}"),
            Self::Record(record) => write!(out, "record:{record}"),
            Self::Gone(atsign) => write!(out, "gone:{atsign}"),
            Self::Part(change) => write!(out, "part:{change}"),
            Self::Upto(change) => write!(out, "upto:{change}"),
        }
    }
}

impl FromStr for Line {
    type Err = InvalidLine;

    fn from_str(text: &str) -> Result<Self, InvalidLine> {
        let (verb, rest) = text.split_once(':').ok_or_else(|| invalid(text))?;
        let line = match verb {
            "anew" if is_id(rest) => Some(Self::Anew(rest.to_owned())),
            "on" if rest.is_empty() => Some(Self::On),
            "at" => rest
                .split_once(' ')
                .and_then(|(atsign, address)| Some(Self::At(atsign.parse().ok()?, address.parse().ok()?))),
            "record" => rest.parse().ok().map(|record| Self::Record(Box::new(record))),
            "gone" => rest.parse().ok().map(Self::Gone),
            "part" => rest.parse().ok().map(Self::Part),
            "upto" => rest.parse().ok().map(Self::Upto),
            _ => None,
        };
        line.ok_or_else(|| invalid(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back_and_others_are_refused() {
        for text in
            ["anew:1F", "on:", "at:@alice a.example:1", "gone:@alice", "part:7", "upto:-1", "at:@b [::1]:2"]
        {
            assert_eq!(text.parse::<Line>().unwrap().to_string(), text);
        }
        for bad in
            ["", "anew:", "on:x", "at:@alice", "at:@alice nowhere", "gone:", "upto:x", "record:{}", "x:"]
        {
            assert!(bad.parse::<Line>().is_err(), "{bad}");
        }
        let request = Request { id: "1F".to_owned(), change: 7 };
        assert_eq!("follow:1F:7".parse(), Ok(request));
        assert!("follow:1F".parse::<Request>().is_err() && "follow:1F:x".parse::<Request>().is_err());
    }
}
