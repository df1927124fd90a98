//! What a client says: one line, one [`Verb`].
//!
//! Text becomes a `Verb` once, at the door ([`Verb::from_str`]), and prints back to a line that parses to
//! the same `Verb`. Each verb has a file of its own; grammar and semantics are in the wire reference, §4.

mod authentication;
mod batch;
mod config;
mod delete;
mod enroll;
mod keys;
mod lookup;
mod monitor;
mod notifications;
mod notify;
mod notify_all;
mod otp;
mod params;
mod scan;
mod service;
mod stream;
mod sync;
mod update;

use std::fmt;
use std::str::FromStr;

pub use authentication::{ClientConfig, Cram, From, Pkam, SigningAlgo, To};
pub use batch::{Batch, Command};
pub use config::Config;
pub use delete::Delete;
pub use enroll::{Decision, Enroll, EnrollFilter, EnrollRequest, EnrollTarget};
pub use keys::{KeyVisibility, Keys, NewKey};
pub use lookup::{LLookup, Lookup, PLookup, Shape};
pub use monitor::Monitor;
pub use notifications::{NotifyFetch, NotifyList, NotifyRemove, NotifyStatus};
pub use notify::{MessageType, Notify, Operation, Priority, Strategy};
pub use notify_all::NotifyAll;
pub use otp::{Otp, Passcode};
pub use scan::Scan;
pub use service::{Info, Noop, Stats};
pub use stream::{Announcement, Stream};
pub use sync::Sync;
pub use update::Update;

use crate::key::InvalidKey;
use crate::metadata::InvalidParameter;

/// Longest first word of a line, in characters (wire reference §4.0).
const MAX_WORD: usize = 64;

/// A parsed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// Who is calling; asks for a challenge.
    From(From),
    /// Who is wanted; asks for its public keys.
    To(To),
    /// Answers the challenge with the activation secret.
    Cram(Cram),
    /// Answers the challenge with a key.
    Pkam(Pkam),
    /// Answers the challenge as an atServer, with a cookie in its own store.
    Pol,
    /// Lists keys.
    Scan(Scan),
    /// Writes a record.
    Update(Box<Update>),
    /// Removes a record.
    Delete(Delete),
    /// Reads an own record.
    LLookup(LLookup),
    /// Reads what somebody shared, or a public record.
    Lookup(Lookup),
    /// Reads somebody's public record.
    PLookup(PLookup),
    /// Sends a notification.
    Notify(Box<Notify>),
    /// Sends a notification to several.
    NotifyAll(Box<NotifyAll>),
    /// Lists received notifications.
    NotifyList(NotifyList),
    /// Asks how a sent notification fares.
    NotifyStatus(NotifyStatus),
    /// Fetches one notification whole.
    NotifyFetch(NotifyFetch),
    /// Forgets one notification.
    NotifyRemove(NotifyRemove),
    /// Turns the connection into a stream of notifications.
    Monitor(Monitor),
    /// Waits, then says ok.
    Noop(Noop),
    /// What the server is.
    Info(Info),
    /// What the server counts.
    Stats(Stats),
    /// Reads the commit log.
    Sync(Sync),
    /// Enrolls an application's keys.
    Enroll(Box<Enroll>),
    /// Whom the server turns away, and its settings under test.
    Config(Config),
    /// Several commands in one.
    Batch(Batch),
    /// Sends bytes through the server while both ends are there.
    Stream(Stream),
    /// Makes codes for those who want to enroll.
    Otp(Otp),
    /// Keeps an application's keys.
    Keys(Keys),
}

/// Who may say a verb at all (wire reference §4.0). What it may touch is decided by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Anyone,
    /// The owner, or another atSign's server.
    OwnerOrPeer,
    /// The owner only.
    Owner,
}

/// Why a line is no verb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerbError {
    /// The first word is no verb that we know.
    #[error("invalid command")]
    Unknown,
    /// The verb is known, what follows it does not fit.
    #[error("Invalid syntax. {usage}")]
    Syntax {
        /// How the verb is written.
        usage: &'static str,
    },
    /// An `enroll` without its parameters.
    #[error("Enroll parameters not provided")]
    NoEnrollParameters,
    /// A parameter's value is out of its range.
    #[error("{0}")]
    Parameter(#[from] InvalidParameter),
    /// The key that the verb names is none.
    #[error("Invalid syntax. {0}")]
    Key(#[from] InvalidKey),
    /// An atSign that the verb names is none.
    #[error("invalid atsign: {0}")]
    AtSign(#[from] crate::atsign::InvalidAtSign),
    /// The JSON that the verb carries is none, or of another shape; the connection ends (§2.4).
    #[error("invalid JSON")]
    Json,
}

impl Verb {
    /// Who may say this verb.
    #[must_use]
    pub fn access(&self) -> Access {
        match self {
            Self::From(_)
            | Self::To(_)
            | Self::Cram(_)
            | Self::Pkam(_)
            | Self::Pol
            | Self::Enroll(_)
            | Self::Info(_)
            | Self::Lookup(_)
            | Self::Noop(_)
            | Self::Scan(_)
            | Self::Stream(Stream::Receive { .. } | Stream::Done { .. }) => Access::Anyone,
            Self::Notify(_) | Self::Stream(Stream::Init(_) | Stream::Resume { .. }) => Access::OwnerOrPeer,
            Self::Update(_)
            | Self::Delete(_)
            | Self::LLookup(_)
            | Self::PLookup(_)
            | Self::NotifyAll(_)
            | Self::NotifyList(_)
            | Self::NotifyStatus(_)
            | Self::NotifyFetch(_)
            | Self::NotifyRemove(_)
            | Self::Monitor(_)
            | Self::Otp(_)
            | Self::Keys(_)
            | Self::Stats(_)
            | Self::Sync(_)
            | Self::Config(_)
            | Self::Batch(_) => Access::Owner,
        }
    }
}

impl FromStr for Verb {
    type Err = VerbError;

    fn from_str(line: &str) -> Result<Self, VerbError> {
        let line = line.trim();
        let end = line.find([':', ' ']).unwrap_or(line.len());
        let (word, rest) = line.split_at(end);
        if word.chars().count() > MAX_WORD {
            return Err(VerbError::Unknown);
        }
        match Self::read(word, rest) {
            // Spaces before the first colon may be strewn into the word itself.
            Err(VerbError::Unknown) if rest.starts_with(' ') => {
                let (head, rest) = line.split_at(line.find(':').unwrap_or(line.len()));
                let word: String = head.chars().filter(|c| *c != ' ').take(MAX_WORD).collect();
                Self::read(&word, rest)
            }
            read => read,
        }
    }
}

impl Verb {
    fn read(word: &str, rest: &str) -> Result<Self, VerbError> {
        // `rest` keeps its separator, by which a verb tells `scan x` from `scan:x`.
        match word.to_ascii_lowercase().as_str() {
            "from" => authentication::from(rest).map(Self::From),
            "to" => authentication::to(rest).map(Self::To),
            "cram" => authentication::cram(rest).map(Self::Cram),
            "pkam" => authentication::pkam(rest).map(Self::Pkam),
            "pol" if rest.is_empty() => Ok(Self::Pol),
            "scan" => scan::parse(rest).map(Self::Scan),
            "update" => update::parse(rest).map(|update| Self::Update(Box::new(update))),
            "delete" => delete::parse(rest).map(Self::Delete),
            "llookup" => lookup::llookup(rest).map(Self::LLookup),
            "lookup" => lookup::lookup(rest).map(Self::Lookup),
            "plookup" => lookup::plookup(rest).map(Self::PLookup),
            "notify" => notifications::parse(rest),
            "monitor" => monitor::parse(rest).map(Self::Monitor),
            "noop" => service::noop(rest).map(Self::Noop),
            "info" => service::info(rest).map(Self::Info),
            "stats" => service::stats(rest).map(Self::Stats),
            "sync" => sync::parse(rest).map(Self::Sync),
            "enroll" => enroll::parse(rest).map(|enroll| Self::Enroll(Box::new(enroll))),
            "config" => config::parse(rest).map(Self::Config),
            "batch" => batch::parse(rest).map(Self::Batch),
            "stream" => stream::parse(rest).map(Self::Stream),
            "otp" => otp::parse(rest).map(Self::Otp),
            "keys" => keys::parse(rest).map(Self::Keys),
            _ => Err(VerbError::Unknown),
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(verb) => verb.fmt(f),
            Self::To(verb) => verb.fmt(f),
            Self::Cram(verb) => verb.fmt(f),
            Self::Pkam(verb) => verb.fmt(f),
            Self::Pol => f.write_str("pol"),
            Self::Scan(verb) => verb.fmt(f),
            Self::Update(verb) => verb.fmt(f),
            Self::Delete(verb) => verb.fmt(f),
            Self::LLookup(verb) => verb.fmt(f),
            Self::Lookup(verb) => verb.fmt(f),
            Self::PLookup(verb) => verb.fmt(f),
            Self::Notify(verb) => verb.fmt(f),
            Self::NotifyAll(verb) => verb.fmt(f),
            Self::NotifyList(verb) => verb.fmt(f),
            Self::NotifyStatus(verb) => verb.fmt(f),
            Self::NotifyFetch(verb) => verb.fmt(f),
            Self::NotifyRemove(verb) => verb.fmt(f),
            Self::Monitor(verb) => verb.fmt(f),
            Self::Noop(verb) => verb.fmt(f),
            Self::Info(verb) => verb.fmt(f),
            Self::Stats(verb) => verb.fmt(f),
            Self::Sync(verb) => verb.fmt(f),
            Self::Enroll(verb) => verb.fmt(f),
            Self::Config(verb) => verb.fmt(f),
            Self::Batch(verb) => verb.fmt(f),
            Self::Stream(verb) => verb.fmt(f),
            Self::Otp(verb) => verb.fmt(f),
            Self::Keys(verb) => verb.fmt(f),
        }
    }
}

/// Asserts that each line parses, and prints back to a line that parses to the same verb; where it was
/// canonical, to itself.
#[cfg(test)]
fn round_trip(canonical: &[&str], accepted: &[(&str, &str)]) {
    for line in canonical {
        let verb: Verb = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(&verb.to_string(), line);
    }
    for (line, printed) in accepted {
        let verb: Verb = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(&verb.to_string(), printed, "{line}");
        assert_eq!(printed.parse::<Verb>().as_ref(), Ok(&verb));
    }
}

/// Asserts that each line is refused as syntax, not as unknown.
#[cfg(test)]
fn refused(lines: &[&str]) {
    for line in lines {
        match line.parse::<Verb>() {
            Err(error) => assert_ne!(error, VerbError::Unknown, "{line}"),
            Ok(verb) => panic!("{line} was taken as {verb:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_case_and_bounded() {
        assert!(matches!("FROM:@alice".parse(), Ok(Verb::From(_))));
        assert!(matches!("Scan".parse(), Ok(Verb::Scan(_))));
        assert_eq!("hello".parse::<Verb>(), Err(VerbError::Unknown));
        assert_eq!("pol:x".parse::<Verb>(), Err(VerbError::Unknown));
        assert_eq!("x".repeat(10_000).parse::<Verb>(), Err(VerbError::Unknown));
        assert_eq!("no op: 0".parse::<Verb>(), Err(VerbError::Syntax { usage: "e.g noop:0" }));
        assert_eq!(" n oop :0".parse::<Verb>(), "noop:0".parse());
        assert_eq!("x ".repeat(10_000).parse::<Verb>(), Err(VerbError::Unknown));
    }
}
