//! What nodes say to each other at the beginning of a stream.
//!
//! Two nodes share one connection, on which both have proved their keys. Each stream on it begins with one
//! line, an [`Opening`], that says for whom it speaks; it is answered like a request, `data:success` or an error
//! that ends the stream. From then on it is a session as one that is authenticated by `pol`.

use std::fmt;
use std::str::FromStr;

use crate::AtSign;

/// The name for ALPN, over QUIC and over TLS alike.
pub const ALPN: &[u8] = b"atp-peer/1";

/// How many lines of a stream for notifications may be without an answer.
pub const WINDOW: usize = 256;

/// The first line of a stream between nodes, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// `from:@alice to:@bob`: notifications from one to the other, in their order. A newer stream for the same
    /// pair ends this one.
    Notify {
        /// Who sends; the node that opens the stream serves it.
        from: AtSign,
        /// Who receives.
        to: AtSign,
    },
    /// `ask:@alice to:@bob`, or `ask to:@bob` in nobody's name: look-ups.
    Ask {
        /// Who asks, if it says so.
        from: Option<AtSign>,
        /// Who is asked.
        to: AtSign,
    },
    /// `move:@alice`: all that @alice has, who is to be served there.
    Move {
        /// Who moves.
        atsign: AtSign,
    },
}

/// The line is no opening.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a stream between nodes begins with from:@alice to:@bob, ask:@alice to:@bob, or move:@alice")]
pub struct InvalidOpening;

impl Opening {
    /// For whom the stream speaks.
    #[must_use]
    pub fn from(&self) -> Option<&AtSign> {
        match self {
            Self::Notify { from, .. } => Some(from),
            Self::Ask { from, .. } => from.as_ref(),
            Self::Move { .. } => None,
        }
    }

    /// Of whose atServer it speaks.
    #[must_use]
    pub fn to(&self) -> &AtSign {
        match self {
            Self::Notify { to, .. } | Self::Ask { to, .. } => to,
            Self::Move { atsign } => atsign,
        }
    }
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Notify { from, to } => write!(f, "from:{from} to:{to}"),
            Self::Ask { from: Some(from), to } => write!(f, "ask:{from} to:{to}"),
            Self::Ask { from: None, to } => write!(f, "ask to:{to}"),
            Self::Move { atsign } => write!(f, "move:{atsign}"),
        }
    }
}

impl FromStr for Opening {
    type Err = InvalidOpening;

    fn from_str(line: &str) -> Result<Self, InvalidOpening> {
        let atsign = |text: &str| text.parse().map_err(|_| InvalidOpening);
        if let Some(moves) = line.trim().strip_prefix("move:") {
            return Ok(Self::Move { atsign: atsign(moves)? });
        }
        let (from, to) = line.trim().split_once(" to:").ok_or(InvalidOpening)?;
        let to = atsign(to)?;
        if let Some(from) = from.strip_prefix("from:") {
            return Ok(Self::Notify { from: atsign(from)?, to });
        }
        if let Some(from) = from.strip_prefix("ask:") {
            return Ok(Self::Ask { from: Some(atsign(from)?), to });
        }
        if from == "ask" { Ok(Self::Ask { from: None, to }) } else { Err(InvalidOpening) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_read_back_and_other_lines_are_none() {
        for line in ["from:@alice to:@bob", "ask:@alice to:@bob", "ask to:@bob", "move:@alice"] {
            assert_eq!(line.parse::<Opening>().unwrap().to_string(), line);
        }
        for line in ["", "from:@alice", "from:@alice to:", "to:@bob", "asks to:@bob", "from:@a b to:@bob"] {
            assert_eq!(line.parse::<Opening>(), Err(InvalidOpening), "{line}");
        }
    }
}
