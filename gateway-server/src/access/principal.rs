//! Who asks, and what of lists and streams it is shown.

use std::sync::Arc;

use at_protocol::response::Failure;
use at_protocol::{AtKey, AtSign, Timestamp};

use super::{Enrolled, is_reserved, is_signing_key, unauthorized};
use crate::enrollment::{MANAGE, Right};

/// Who asks, with all that bounds what it may do.
#[derive(Debug, Clone)]
pub enum Principal {
    /// Nobody in particular.
    Anonymous,
    /// Another atSign, proved by its server.
    Peer(AtSign),
    /// The owner, by the activation secret.
    Activation,
    /// The owner, by the first key.
    Owner,
    /// One of the owner's applications.
    Enrolled(Arc<Enrolled>),
}

impl Principal {
    /// Whether this is the owner, however it proved itself.
    #[must_use]
    pub fn is_owner(&self) -> bool {
        match self {
            Self::Activation | Self::Owner | Self::Enrolled(_) => true,
            Self::Anonymous | Self::Peer(_) => false,
        }
    }

    /// When the time of its enrollment is over.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        match self {
            Self::Enrolled(enrolled) => enrolled.expires,
            Self::Anonymous | Self::Peer(_) | Self::Activation | Self::Owner => None,
        }
    }

    /// Whether a look-up may show it this record, if the record is meant for its atSign.
    pub(crate) fn may_read(&self, key: &AtKey) -> bool {
        match self {
            Self::Enrolled(enrolled) => enrolled.reaches(key, Right::Read),
            Self::Anonymous | Self::Peer(_) | Self::Activation | Self::Owner => true,
        }
    }

    /// Whether `scan` shows the owner's connection this key (§4.11).
    #[must_use]
    pub fn may_list(&self, key: &AtKey) -> bool {
        match self {
            Self::Enrolled(enrolled) => enrolled.sees_all() || enrolled.reaches(key, Right::Read),
            Self::Activation | Self::Owner => true,
            Self::Anonymous | Self::Peer(_) => false,
        }
    }

    /// Whether `sync` shows the owner's connection this key (§7.4): what is in its namespaces or in none,
    /// and what all applications share.
    #[must_use]
    pub fn may_sync(&self, key: &AtKey) -> bool {
        match self {
            // A commit brings the value along.
            _ if is_signing_key(key) => false,
            Self::Enrolled(enrolled) => {
                let is_everybodys = is_reserved(key) || key.name().namespace().is_none();
                enrolled.sees_all()
                    || (enrolled.is_approved()
                        && (is_everybodys || enrolled.is_granted(key.name(), Right::Read)))
            }
            Self::Activation | Self::Owner => true,
            Self::Anonymous | Self::Peer(_) => false,
        }
    }

    /// Whether a notification with this record in its key is for this connection (§4.19): a key without
    /// a namespace, or a text, passes only with `*`; the pair keys that all share pass to all.
    #[must_use]
    pub fn may_watch(&self, record: Option<&AtKey>) -> bool {
        match self {
            Self::Enrolled(enrolled) => match record {
                Some(key) if key.name().is_in(MANAGE) => {
                    enrolled.is_approved() && enrolled.enrollment.manages(Right::Read)
                }
                Some(key) => enrolled.reaches(key, Right::Read),
                None => enrolled.sees_all(),
            },
            Self::Activation | Self::Owner => true,
            Self::Anonymous | Self::Peer(_) => false,
        }
    }

    /// Whether it may change what concerns this notification's record.
    #[must_use]
    pub fn may_manage(&self, record: Option<&AtKey>) -> bool {
        match (self, record) {
            (Self::Enrolled(enrolled), Some(key)) => enrolled.reaches(key, Right::Write),
            (Self::Enrolled(enrolled), None) => enrolled.writes_all(),
            _ => self.may_watch(record),
        }
    }

    /// The refusal for a notification that is none of this connection's business.
    #[must_use]
    pub fn denial(&self, word: &str, key: &str) -> Failure {
        match self {
            Self::Enrolled(enrolled) => enrolled.denial(word, key),
            Self::Anonymous | Self::Peer(_) | Self::Activation | Self::Owner => {
                unauthorized(format!("not authorized to {word} key: {key}"))
            }
        }
    }
}
