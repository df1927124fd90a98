//! `stream`: bytes through the server while both ends are there (wire reference §4.22).

use std::fmt;

use super::VerbError;
use crate::{AtSign, KeyName};

/// `stream:init…`, `stream:receive …`, `stream:done …`, `stream:resume…`. Ids are the sender's choice: who
/// knows one may receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stream {
    /// The connection has something to send.
    Init(Box<Announcement>),
    /// The connection takes what is sent.
    Receive {
        /// Which stream.
        id: String,
    },
    /// All has arrived.
    Done {
        /// Which stream.
        id: String,
    },
    /// Asks the receiver to come again for the rest.
    Resume {
        /// Who receives.
        receiver: AtSign,
        /// Which stream.
        id: String,
        /// How much has arrived, in bytes.
        start_byte: u64,
    },
}

/// `stream:init@<receiver>[ namespace:<ns>][ startByte:<n>] <id> <file name> <length>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Who receives.
    pub receiver: AtSign,
    /// The namespace of the notification.
    pub namespace: Option<KeyName>,
    /// Where in the file the stream begins, in bytes; beyond 0 it takes the place of one that broke off.
    pub start_byte: u64,
    /// The sender's name for the stream.
    pub id: String,
    /// The file's name.
    pub file: String,
    /// The file's length, in bytes.
    pub length: u64,
}

const USAGE: &str = "e.g stream:init@bob namespace:wavi <id> <file name> <length>";
const SYNTAX: VerbError = VerbError::Syntax { usage: USAGE };

pub(super) fn parse(rest: &str) -> Result<Stream, VerbError> {
    let rest = rest.strip_prefix(':').ok_or(SYNTAX)?;
    let (head, mut rest) = rest.split_once(' ').ok_or(SYNTAX)?;
    let (operation, receiver) = match head.split_once('@') {
        Some((operation, receiver)) => (operation, Some(receiver.parse::<AtSign>()?)),
        None => (head, None),
    };
    let namespace = option(&mut rest, "namespace:").map(str::parse::<KeyName>).transpose()?;
    let start_byte = option(&mut rest, "startByte:").map(str::parse).transpose().map_err(|_| SYNTAX)?;
    let (id, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if id.is_empty() || !id.chars().all(is_word) {
        return Err(SYNTAX);
    }
    let id = id.to_owned();
    match (operation.to_ascii_lowercase().as_str(), receiver) {
        ("init", Some(receiver)) => {
            let (file, length) = rest.rsplit_once(' ').ok_or(SYNTAX)?;
            let length = length.parse().map_err(|_| SYNTAX)?;
            if file.trim().is_empty() {
                return Err(SYNTAX);
            }
            let (file, start_byte) = (file.to_owned(), start_byte.unwrap_or(0));
            Ok(Stream::Init(Box::new(Announcement { receiver, namespace, start_byte, id, file, length })))
        }
        ("resume", Some(receiver)) if rest.is_empty() => {
            Ok(Stream::Resume { receiver, id, start_byte: start_byte.ok_or(SYNTAX)? })
        }
        ("receive", None) if rest.is_empty() => Ok(Stream::Receive { id }),
        ("done", None) if rest.is_empty() => Ok(Stream::Done { id }),
        _ => Err(SYNTAX),
    }
}

/// Consumes `<name><value> `, in any case, if that comes next.
fn option<'a>(rest: &mut &'a str, name: &str) -> Option<&'a str> {
    let found = rest.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name));
    let (value, tail) = found.then(|| rest[name.len()..].split_once(' '))??;
    *rest = tail;
    Some(value)
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init(announced) => {
                write!(f, "stream:init{}", announced.receiver)?;
                if let Some(namespace) = &announced.namespace {
                    write!(f, " namespace:{namespace}")?;
                }
                if announced.start_byte > 0 {
                    write!(f, " startByte:{}", announced.start_byte)?;
                }
                write!(f, " {} {} {}", announced.id, announced.file, announced.length)
            }
            Self::Receive { id } => write!(f, "stream:receive {id}"),
            Self::Done { id } => write!(f, "stream:done {id}"),
            Self::Resume { receiver, id, start_byte } => {
                write!(f, "stream:resume{receiver} startByte:{start_byte} {id}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "stream:init@bob namespace:wavi 4a16-0d33 cat picture.jpg 1024",
                "stream:init@bob startByte:512 4a16 cat.jpg 1024",
                "stream:init@bob 4a16 cat.jpg 0",
                "stream:receive 4a16-0d33",
                "stream:done 4a16_0d33",
                "stream:resume@bob startByte:512 4a16",
            ],
            &[(
                "STREAM:Init@Bob Namespace:wavi startByte:0 4a16 a 1",
                "stream:init@bob namespace:wavi 4a16 a 1",
            )],
        );
    }

    #[test]
    fn refuses_what_names_no_stream() {
        refused(&[
            "stream",
            "stream:",
            "stream:init@bob",
            "stream:init 4a16 cat.jpg 1",
            "stream:init@bob 4a16 cat.jpg",
            "stream:init@bob 4a16 cat.jpg x",
            "stream:init@bob 4a/16 cat.jpg 1",
            "stream:receive",
            "stream:receive ",
            "stream:receive@bob 4a16",
            "stream:done 4a16 more",
            "stream:resume@bob 4a16",
            "stream:send 4a16",
        ]);
    }
}
