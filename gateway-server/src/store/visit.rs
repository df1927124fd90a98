//! The access log as the store keeps it (atProtocol wire reference §10.2).

use at_protocol::{AtSign, Timestamp};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// To whose server something was said.
    pub tenant: AtSign,
    /// When.
    pub at: Timestamp,
    /// Who said it, where that is known. Of `from` it is a claim, of the others it was proved.
    pub who: Option<AtSign>,
    /// Which verb.
    pub verb: &'static str,
    /// Which record was wanted.
    pub key: Option<String>,
}

/// What a tenant's entries come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visits {
    /// The other atSigns that were there most often, and how often.
    pub atsigns: Vec<(AtSign, u64)>,
    /// The keys that were looked up most often, and how often.
    pub keys: Vec<(String, u64)>,
    /// When the owner last proved itself.
    pub last_login: Option<Timestamp>,
    /// When the owner last proved itself by a key.
    pub last_pkam: Option<Timestamp>,
}
