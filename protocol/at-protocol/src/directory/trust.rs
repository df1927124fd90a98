//! Whom to believe about where an atSign is served.

use std::ops::Deref;

use super::{Grant, Pattern, SignedRecord};
use crate::crypto::Ed25519Public;
use crate::{AtSign, Timestamp};

/// A registrar that somebody trusts, and about whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrar {
    /// Its key.
    pub key: Ed25519Public,
    /// The atSigns that are its own: about these it is believed, and about these nobody else is. None: it is
    /// believed about all that it has granted, and what it has not is left to directories of old.
    pub atsigns: Vec<Pattern>,
}

/// The registrars that somebody trusts; none for who believes directories as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registrars(Vec<Registrar>);

/// A record whose chain has been checked, and which was valid then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRecord(SignedRecord);

/// Why a record is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The record is about somebody else than was asked for.
    #[error("the record is that of {0}")]
    AnotherAtSign(AtSign),
    /// Nobody trusts who granted.
    #[error("the registrar {0} is not trusted")]
    UnknownRegistrar(Ed25519Public),
    /// The registrar is trusted, but not about this atSign.
    #[error("the registrar {0} is not trusted about {1}")]
    BeyondRegistrar(Ed25519Public, AtSign),
    /// The registrar did not grant this.
    #[error("the grant was not signed by the registrar that it names")]
    GrantSignature,
    /// The grant is over.
    #[error("the grant of the node ended at {0}")]
    GrantExpired(Timestamp),
    /// The node may not speak for this atSign.
    #[error("the node {0} was not granted {1}")]
    BeyondGrant(Ed25519Public, AtSign),
    /// The node did not say this.
    #[error("the record was not signed by the node that it names")]
    RecordSignature,
    /// The record is over.
    #[error("the record ended at {0}")]
    RecordExpired(Timestamp),
    /// A newer one has been seen.
    #[error("the record has number {found}, and number {known} is known already")]
    Older {
        /// The number of this one.
        found: u64,
        /// The highest number that was seen before.
        known: u64,
    },
}

impl Registrars {
    /// Those who are trusted.
    #[must_use]
    pub fn new(registrars: Vec<Registrar>) -> Self {
        Self(registrars)
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a registrar is among them.
    #[must_use]
    pub fn know(&self, key: &Ed25519Public) -> bool {
        self.0.iter().any(|registrar| registrar.key == *key)
    }

    /// Whether an atSign is one of theirs: then its name is nobody else's business, and what has no signed
    /// record is not believed.
    #[must_use]
    pub fn govern(&self, atsign: &AtSign) -> bool {
        self.0.iter().any(|registrar| registrar.owns(atsign))
    }

    /// Checks the whole chain: registrar, grant, record, their ends, and what each may speak for.
    ///
    /// # Errors
    /// With the first link that does not hold.
    pub fn verify(&self, record: SignedRecord, now: Timestamp) -> Result<VerifiedRecord, Distrust> {
        self.grants(&record.grant, &record.atsign, now)?;
        if !record.is_signed() {
            return Err(Distrust::RecordSignature);
        }
        if record.at.not_after <= now {
            return Err(Distrust::RecordExpired(record.at.not_after));
        }
        Ok(VerifiedRecord(record))
    }

    /// Checks whether a grant lets its node speak for an atSign.
    ///
    /// # Errors
    /// With the first link that does not hold.
    pub fn grants(&self, grant: &Grant, atsign: &AtSign, now: Timestamp) -> Result<(), Distrust> {
        let mut trusted = self.0.iter().filter(|registrar| registrar.key == grant.registrar).peekable();
        if trusted.peek().is_none() {
            return Err(Distrust::UnknownRegistrar(grant.registrar.clone()));
        }
        if !trusted.any(|registrar| registrar.atsigns.is_empty() || registrar.owns(atsign)) {
            return Err(Distrust::BeyondRegistrar(grant.registrar.clone(), atsign.clone()));
        }
        if !grant.is_signed() {
            return Err(Distrust::GrantSignature);
        }
        if grant.not_after <= now {
            return Err(Distrust::GrantExpired(grant.not_after));
        }
        if !grant.covers(atsign) {
            return Err(Distrust::BeyondGrant(grant.node.clone(), atsign.clone()));
        }
        Ok(())
    }
}

impl Registrar {
    fn owns(&self, atsign: &AtSign) -> bool {
        self.atsigns.iter().any(|pattern| pattern.matches(atsign))
    }
}

impl VerifiedRecord {
    /// Whether it still holds: a record is kept for longer than a moment.
    #[must_use]
    pub fn holds_at(&self, now: Timestamp) -> bool {
        now < self.at.not_after && now < self.grant.not_after
    }

    /// Whether it is new to who knows `known` of the same atSign: `false` for the same record again.
    ///
    /// # Errors
    /// It is older, or another of the same number: a replay, or a directory that was set back.
    pub fn follows(&self, known: &Self) -> Result<bool, Distrust> {
        if self.at.seq > known.at.seq {
            return Ok(true);
        }
        if self == known {
            return Ok(false);
        }
        Err(Distrust::Older { found: self.at.seq, known: known.at.seq })
    }
}

impl Deref for VerifiedRecord {
    type Target = SignedRecord;

    fn deref(&self) -> &SignedRecord {
        &self.0
    }
}
