//! The access log: who called, and what was looked up (atProtocol wire reference §10.2).
//!
//! An entry costs the request no commit. It waits in memory for the next flush, of which there is one
//! every few seconds; what a crash takes with it is a few seconds of statistics.

use std::sync::{Mutex, PoisonError};

use at_protocol::session::server::Proof;
use at_protocol::{AtSign, Timestamp, Verb};

use crate::access::Principal;
use crate::node::Node;
use crate::store::{StoreError, Visit};

/// Entries that wait for the next flush.
#[derive(Default)]
pub(crate) struct Visits {
    waiting: Mutex<Vec<Visit>>,
}

/// The verbs that leave an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visited {
    From,
    Cram,
    Pkam,
    Pol,
    Lookup,
    PLookup,
}

impl Visited {
    /// What a proof was said with.
    pub(crate) fn of(proof: &Proof) -> Self {
        match proof {
            Proof::Cram(_) => Self::Cram,
            Proof::Pkam(_) => Self::Pkam,
            Proof::Pol => Self::Pol,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::Cram => "cram",
            Self::Pkam => "pkam",
            Self::Pol => "pol",
            Self::Lookup => "lookup",
            Self::PLookup => "plookup",
        }
    }
}

impl Node {
    /// Notes that `who` has said `verb` to the server of `tenant`. Beyond the configured number of entries
    /// none is kept until the next flush.
    pub(crate) fn note_visit(
        &self,
        tenant: &AtSign,
        who: Option<&AtSign>,
        verb: Visited,
        key: Option<String>,
        now: Timestamp,
    ) {
        let mut waiting = self.visits.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < self.config.access_log.waiting {
            let (tenant, who) = (tenant.clone(), who.cloned());
            waiting.push(Visit { tenant, at: now, who, verb: verb.word(), key });
        }
    }

    /// Notes a look-up, if the verb is one.
    #[expect(clippy::wildcard_enum_match_arm, reason = "only look-ups name a record that somebody wants")]
    pub(crate) fn note_lookup(&self, tenant: &AtSign, who: &Principal, verb: &Verb, now: Timestamp) {
        let (word, key) = match verb {
            Verb::Lookup(lookup) => (Visited::Lookup, format!("{}{}", lookup.name, lookup.owner)),
            Verb::PLookup(lookup) => (Visited::PLookup, format!("{}{}", lookup.name, lookup.owner)),
            _ => return,
        };
        let who = match who {
            Principal::Anonymous => None,
            Principal::Peer(peer) => Some(peer),
            Principal::Activation | Principal::Owner | Principal::Enrolled(_) => Some(tenant),
        };
        self.note_visit(tenant, who, word, Some(key), now);
    }

    /// Puts what waits into the store.
    ///
    /// # Errors
    /// The store failed; what waited is lost.
    pub(crate) async fn flush_visits(&self) -> Result<(), StoreError> {
        let waiting =
            std::mem::take(&mut *self.visits.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.is_empty() {
            return Ok(());
        }
        let config = &self.config.access_log;
        self.store.log_visits(waiting, config.entries, config.keep).await
    }
}
