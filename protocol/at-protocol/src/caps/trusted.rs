//! What is believed of a peer's capabilities, and what may follow it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Caps, InvalidCaps};
use crate::crypto::{Hash, RsaPublicKey};
use crate::{AtSign, Timestamp};

/// What a look-up has brought: a text that claims to be [`Caps`], and who is said to have signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The exact bytes that were signed.
    pub text: String,
    /// The record's `dataSignature`.
    pub signature: String,
    /// The public encryption key of the peer, as found now: base64 of a SubjectPublicKeyInfo.
    pub owner: String,
}

/// Capabilities that were verified, with what proves them again.
///
/// `Display` and `FromStr` are one line of JSON, in which nothing needs to be believed: reading verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    caps: Caps,
    proof: Proof,
}

/// The line on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Proof {
    caps: String,
    sig: String,
    owner: String,
}

/// Why a peer's capabilities are not believed. Until that is mended, nothing is sent that relies on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CapsFault {
    /// There was a record, and is none any more.
    #[error("the record of its capabilities is gone")]
    Vanished,
    /// An older record than the one known, or another one with the same number.
    #[error("the record of its capabilities has number {found}, and number {known} is known")]
    Fell {
        /// The number of what was found.
        found: u64,
        /// The number of what is believed.
        known: u64,
    },
    /// Signed by another key than before, or the key of the atSign was exchanged.
    #[error("its public key is another one than before")]
    OtherKey,
    /// Not signed by the atSign's key, of another atSign, or nothing of the kind.
    #[error("the record of its capabilities is not its own")]
    Forged,
    /// Its time is over.
    #[error("the record of its capabilities ended on {0}")]
    Ended(Timestamp),
}

impl From<InvalidCaps> for CapsFault {
    fn from(InvalidCaps: InvalidCaps) -> Self {
        Self::Forged
    }
}

impl Trusted {
    /// What is believed of `peer` from now on, where `known` was believed before.
    ///
    /// The first record that its atSign's key has signed is believed (as is that key); after that, numbers only
    /// grow, the key stays, and a record does not vanish.
    ///
    /// # Errors
    /// See [`CapsFault`]: the server shows something else than the peer would.
    pub fn follow(
        known: Option<&Self>,
        found: Option<Found>,
        peer: &AtSign,
        now: Timestamp,
    ) -> Result<Option<Self>, CapsFault> {
        let Some(found) = found else {
            return if known.is_some() { Err(CapsFault::Vanished) } else { Ok(None) };
        };
        if known.is_some_and(|known| known.proof.owner != found.owner) {
            return Err(CapsFault::OtherKey);
        }
        let Found { text, signature, owner } = found;
        let found = Self::verified(Proof { caps: text, sig: signature, owner })?;
        if found.caps.atsign != *peer {
            return Err(CapsFault::Forged);
        }
        if let Some(known) = known
            && (found.caps.serial < known.caps.serial
                || (found.caps.serial == known.caps.serial && found.proof.caps != known.proof.caps))
        {
            return Err(CapsFault::Fell { found: found.caps.serial, known: known.caps.serial });
        }
        found.lasts(now)?;
        Ok(Some(found))
    }

    /// What was verified.
    #[must_use]
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// That its time is not over.
    ///
    /// # Errors
    /// [`CapsFault::Ended`].
    pub fn lasts(&self, now: Timestamp) -> Result<(), CapsFault> {
        if now < self.caps.not_after { Ok(()) } else { Err(CapsFault::Ended(self.caps.not_after)) }
    }

    /// The public key by which the peer is known: base64 of a SubjectPublicKeyInfo.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.proof.owner
    }

    fn verified(proof: Proof) -> Result<Self, CapsFault> {
        let owner = RsaPublicKey::from_spki_base64(&proof.owner).map_err(|_| CapsFault::Forged)?;
        if !owner.verify(proof.caps.as_bytes(), Hash::Sha256, &proof.sig) {
            return Err(CapsFault::Forged);
        }
        Ok(Self { caps: Caps::parse(&proof.caps)?, proof })
    }
}

impl fmt::Display for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.proof).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Trusted {
    type Err = CapsFault;

    fn from_str(line: &str) -> Result<Self, CapsFault> {
        Self::verified(serde_json::from_str(line).map_err(|_| CapsFault::Forged)?)
    }
}
