//! Whether a node speaks for an atSign: pure, without the directory.

use at_client::Found;
use at_protocol::crypto::Ed25519Public;
use at_protocol::response::Failure;
use at_protocol::{AtSign, ErrorCode};

use super::AskError;

/// What a node that has proved its key says: that it serves an atSign.
#[derive(Debug)]
pub struct Claim {
    key: Ed25519Public,
    atsign: AtSign,
    was_asked_anew: bool,
}

/// What it comes to.
#[derive(Debug)]
pub enum Verdict {
    /// The record says so, too.
    Holds,
    /// It may have moved there a moment ago: what is known is suspect, and is to be found once more.
    AskAnew,
    /// The refusal.
    Fails(Failure),
}

impl Claim {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(key: Ed25519Public, atsign: AtSign) -> Self {
        Self { key, atsign, was_asked_anew: false }
    }

    /// Where the atSign is served.
    pub fn on_found(&mut self, found: Result<Found, AskError>) -> Verdict {
        let Self { key, atsign, .. } = self;
        if found.as_ref().is_ok_and(|found| found.node() == Some(&*key)) {
            return Verdict::Holds;
        }
        if !std::mem::replace(&mut self.was_asked_anew, true) {
            return Verdict::AskAnew;
        }
        Verdict::Fails(Failure::new(
            ErrorCode::NotAuthenticated,
            match found {
                Ok(_) => format!("the node {key} does not speak for {atsign}"),
                Err(error) => format!("it is not known which node speaks for {atsign}: {error}"),
            },
        ))
    }
}
