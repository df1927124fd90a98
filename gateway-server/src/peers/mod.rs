//! Other atServers: asking them, proving ourselves to them, having them prove themselves, and bringing
//! them notifications (atProtocol wire reference §3.6, §8.2).
//!
//! There are two ways. A server of old is known by its host, which the directory names: TLS, `from`, `pol`, a
//! call back, one line at a time ([`Links`]). A node of ours is known by its key, which a signed record names:
//! one connection for all that the two host, over QUIC or, where UDP does not pass, the same over TCP
//! ([`Nodes`], [`Visitor`]). Who has a record is spoken to in that way only.

mod arrival;
mod certificate;
pub mod claim;
mod cookies;
mod delivery;
pub mod fences;
pub mod inlet;
pub mod lane;
mod lanes;
mod links;
mod nodes;
pub mod outlet;
mod proof;
mod quic;
pub mod roads;
mod window;

use at_protocol::response::{Failure, RemoteError};
use at_protocol::{AtSign, ErrorCode};

pub(crate) use arrival::{Served, Visitor};
pub use certificate::Certificate;
pub(crate) use certificate::CertificateCheck;
pub(crate) use cookies::Cookies;
pub(crate) use delivery::{Waiting, deliver};
pub(crate) use fences::Fences;
pub(crate) use lanes::Lanes;
pub(crate) use links::{Links, Reach};
pub(crate) use nodes::Nodes;
pub(crate) use proof::ProofError;
pub(crate) use quic::{congestion, serve as serve_node, serve_made};

/// Why another atServer gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The directory does not know it.
    #[error("unable to find the secondary server of {0}")]
    NoSuchAtSign(AtSign),
    /// Neither directory nor server could be reached.
    #[error("{0}")]
    Unreachable(String),
    /// It does not believe that we are who we are.
    #[error("{0}")]
    Handshake(String),
    /// It was silent for too long.
    #[error("the other server did not answer in time")]
    Timeout,
    /// It has no such record.
    #[error("{0}")]
    Missing(String),
    /// It answered with another error.
    #[error("{}", .0.message)]
    Refused(RemoteError),
}

impl AskError {
    /// Whether the same words will be refused for ever.
    pub fn is_final(&self) -> bool {
        match self {
            Self::NoSuchAtSign(_) => true,
            Self::Refused(error) => matches!(
                error.code(),
                Some(
                    ErrorCode::InvalidSyntax
                        | ErrorCode::InvalidKey
                        | ErrorCode::IllegalArguments
                        | ErrorCode::BufferLimit
                        | ErrorCode::Unauthorized
                )
            ),
            Self::Unreachable(_) | Self::Handshake(_) | Self::Timeout | Self::Missing(_) => false,
        }
    }
}

impl From<RemoteError> for AskError {
    fn from(error: RemoteError) -> Self {
        if error.code() == Some(ErrorCode::KeyNotFound) {
            Self::Missing(error.message)
        } else {
            Self::Refused(error)
        }
    }
}

/// A tenant of this node refuses as any other server does.
impl From<Failure> for AskError {
    fn from(failure: Failure) -> Self {
        let message = format!("Exception: {}", failure.message);
        RemoteError { code: failure.code.name().to_owned(), message }.into()
    }
}
