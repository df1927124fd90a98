//! What an atSign's programs can do beyond the protocol, as its owner signs it, and who vouches for the keys
//! of pairs.
//!
//! `public:caps.atedge@alice` is one JSON object ([`Caps`]), signed as public values are: `dataSignature`,
//! RSA-SHA256 with the atSign's *encryption* key over the exact bytes (client conventions §4.2). The server has
//! keys of its own, but not this one. The signature covers neither name nor time, so the record names its
//! atSign, counts its versions and ends.
//!
//! A server can still show an older record, or none. So what was believed once is remembered ([`Trusted`]), and
//! what follows must fit to it: see [`Trusted::follow`].
//!
//! `@bob:pair.atedge@alice` is a [`PairStatement`]: which key @alice uses towards @bob.

mod statement;
mod trusted;

use serde::{Deserialize, Serialize};

pub use statement::{InvalidStatement, PairStatement};
pub use trusted::{CapsFault, Found, Trusted};

use crate::crypto::Ed25519Public;
use crate::{AtSign, Timestamp};

/// The key name of [`Caps`], public.
pub const CAPS: &str = "caps.atedge";
/// The key name of a [`PairStatement`], shared with the recipient.
pub const PAIR: &str = "pair.atedge";

/// The version of what is written and read here, the member `atedge` of each record.
const VERSION: u32 = 1;
/// Most bytes of a record.
pub const MOST_BYTES: usize = 32 * 1024;
/// Most programs that one atSign announces; a further one takes the place of the oldest.
pub const MOST_ENROLMENTS: usize = 64;
/// Most bytes of an id or a name.
const MOST_NAME: usize = 128;

/// What an atSign's programs can do, for peers to rely on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caps {
    atedge: u32,
    /// Whose.
    pub atsign: AtSign,
    /// Grows with every record of this atSign.
    pub serial: u64,
    /// When it ends; it is renewed long before.
    #[serde(with = "crate::time::iso")]
    pub not_after: Timestamp,
    /// The programs that act for the atSign, in the order in which they came.
    pub enrolments: Vec<Enrolment>,
    /// What all of them can do that read.
    #[serde(flatten)]
    pub claims: Claims,
}

/// A program that acts for an atSign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The id of its enrollment, or `owner`.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The key by which it vouches for keys of pairs, and signs commands.
    pub sign: Ed25519Public,
}

/// What peers may rely on. On the wire the version of each, where 0, or nothing, is *no*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// Confirms telemetry by receipts, once committed.
    #[serde(with = "version")]
    pub receipts: bool,
    /// Opens [envelopes](crate::crypto::envelope), and speaks in nothing else to whoever announces the same.
    #[serde(with = "version")]
    pub aead: bool,
    /// Opens envelopes with compressed content.
    #[serde(with = "version")]
    pub zstd: bool,
}

/// The text is no record of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a record of capabilities, or not of version 1")]
pub struct InvalidCaps;

impl Claims {
    /// What both can do.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            receipts: self.receipts && other.receipts,
            aead: self.aead && other.aead,
            zstd: self.zstd && other.zstd,
        }
    }
}

impl Caps {
    /// What follows `before` when the program `own`, which claims `claims`, joins or stays. A capability is
    /// claimed only when every program can honour it.
    ///
    /// `serial` must be above that of any record of this atSign before.
    #[must_use]
    pub fn joined(
        before: Option<&Self>,
        atsign: AtSign,
        own: Enrolment,
        claims: Claims,
        serial: u64,
        not_after: Timestamp,
    ) -> Self {
        let mut enrolments = before.map(|before| before.enrolments.clone()).unwrap_or_default();
        enrolments.retain(|other| other.sign != own.sign);
        let claims = match before {
            Some(before) if !enrolments.is_empty() => before.claims.and(claims),
            _ => claims,
        };
        enrolments.drain(..enrolments.len().saturating_sub(MOST_ENROLMENTS - 1));
        enrolments.push(own);
        Self { atedge: VERSION, atsign, serial, not_after, enrolments, claims }
    }

    /// Reads what [`Caps::to_json`] wrote. That it can be read says nothing of its truth: see
    /// [`Trusted::follow`].
    ///
    /// # Errors
    /// It is something else, of another version, or larger than it may be.
    pub fn parse(text: &str) -> Result<Self, InvalidCaps> {
        if text.len() > MOST_BYTES {
            return Err(InvalidCaps);
        }
        let caps: Self = serde_json::from_str(text).map_err(|_| InvalidCaps)?;
        let fits = |text: &String| !text.is_empty() && text.len() <= MOST_NAME;
        let named = caps.enrolments.iter().all(|one| fits(&one.id) && fits(&one.name));
        let few = caps.enrolments.len() <= MOST_ENROLMENTS;
        if caps.atedge == VERSION && named && few { Ok(caps) } else { Err(InvalidCaps) }
    }

    /// The JSON to sign and publish.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("names, numbers and keys are always JSON")
    }

    /// Whether the program with this key is one of those that act for the atSign.
    #[must_use]
    pub fn has(&self, key: &Ed25519Public) -> bool {
        self.enrolments.iter().any(|one| one.sign == *key)
    }
}

/// A capability as the highest version of it, which includes those before.
mod version {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(is: &bool, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32((*is).into())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
        u32::deserialize(from).map(|version| version > 0)
    }
}

#[cfg(test)]
mod tests;
