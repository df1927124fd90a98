//! A sender's word on the key that it uses towards a recipient.

use serde::{Deserialize, Serialize};

use super::{Caps, MOST_BYTES, VERSION};
use crate::crypto::{AesKey, Ed25519Public, Ed25519Secret, Ed25519Signature, KeyDigest};
use crate::{AtSign, Timestamp};

/// What the signed bytes begin with.
const LABEL: &str = "atedge-pair-1";

/// Which key `from` uses towards `to`, signed by a program of `from`.
///
/// Anybody can wrap a key of his own to a public key (client conventions §9.1), a server for example that lies
/// in between; this says which one is real. It names the key by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PairStatement {
    atedge: u32,
    /// Whose key.
    pub from: AtSign,
    /// Towards whom.
    pub to: AtSign,
    /// The key's name.
    pub key: KeyDigest,
    /// Grows with every statement of this pair.
    pub serial: u64,
    /// When it ends; it is renewed long before.
    #[serde(with = "crate::time::iso")]
    pub not_after: Timestamp,
    /// Who signs: a key of the [`Caps`] of `from`.
    pub by: Ed25519Public,
    sig: Ed25519Signature,
}

/// The text is no statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a statement on the key of a pair, or not of version 1")]
pub struct InvalidStatement;

impl PairStatement {
    /// Says, in the name of the program whose key this is, which key `from` uses towards `to`.
    #[must_use]
    pub fn sign(
        program: &Ed25519Secret,
        (from, to): (AtSign, AtSign),
        key: KeyDigest,
        serial: u64,
        not_after: Timestamp,
    ) -> Self {
        let by = program.public();
        let sig = program.sign(signed(&from, &to, key, serial, not_after, &by).as_bytes());
        Self { atedge: VERSION, from, to, key, serial, not_after, by, sig }
    }

    /// Whether this proves to `to`, at this time, that `key` is the one that `from` uses, whose capabilities are
    /// `caps`.
    #[must_use]
    pub fn proves(&self, caps: &Caps, to: &AtSign, key: &AesKey, now: Timestamp) -> bool {
        let message = signed(&self.from, &self.to, self.key, self.serial, self.not_after, &self.by);
        self.from == caps.atsign
            && self.to == *to
            && self.key == key.digest()
            && now < self.not_after
            && caps.has(&self.by)
            && self.by.verify(message.as_bytes(), &self.sig)
    }

    /// Reads what [`PairStatement::to_json`] wrote. That it can be read says nothing of its truth.
    ///
    /// # Errors
    /// It is something else, or of another version.
    pub fn parse(text: &str) -> Result<Self, InvalidStatement> {
        let short = Some(text).filter(|text| text.len() <= MOST_BYTES).ok_or(InvalidStatement)?;
        let statement: Self = serde_json::from_str(short).map_err(|_| InvalidStatement)?;
        if statement.atedge == VERSION { Ok(statement) } else { Err(InvalidStatement) }
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("names, numbers and keys are always JSON")
    }
}

/// The label and the fields in fixed order, one per line. No field can hold a line end.
fn signed(
    from: &AtSign,
    to: &AtSign,
    key: KeyDigest,
    serial: u64,
    not_after: Timestamp,
    by: &Ed25519Public,
) -> String {
    format!("{LABEL}\n{from}\n{to}\n{key}\n{serial}\n{}\n{by}\n", not_after.iso())
}
