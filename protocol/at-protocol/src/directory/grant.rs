//! What a registrar grants a node.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{InvalidRecord, Pattern};
use crate::crypto::{Ed25519Public, Ed25519Secret, Ed25519Signature};
use crate::{AtSign, Timestamp};

/// What the signed bytes begin with, so that they are never taken for anything else that is signed.
const LABEL: &str = "atedge-grant-1";

/// A registrar's word that a node may speak for certain atSigns until a certain time.
///
/// `Display` and `FromStr` are one line of JSON. That it can be read says nothing of its truth: see
/// [`Registrars`](super::Registrars).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Grant {
    /// The key that the node proves itself by.
    pub node: Ed25519Public,
    /// Whom it may speak for.
    pub atsigns: Vec<Pattern>,
    /// When the grant ends.
    #[serde(with = "crate::time::iso")]
    pub not_after: Timestamp,
    /// Who granted it.
    pub registrar: Ed25519Public,
    sig: Ed25519Signature,
}

impl Grant {
    /// Grants, in the name of the registrar whose key this is.
    #[must_use]
    pub fn sign(
        registrar: &Ed25519Secret,
        node: Ed25519Public,
        atsigns: Vec<Pattern>,
        not_after: Timestamp,
    ) -> Self {
        let sig = registrar.sign(signed(&node, &atsigns, not_after).as_bytes());
        Self { node, atsigns, not_after, registrar: registrar.public(), sig }
    }

    /// Whether the registrar that is named has signed this.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.registrar.verify(signed(&self.node, &self.atsigns, self.not_after).as_bytes(), &self.sig)
    }

    /// Whether the node may speak for an atSign, if the grant holds at all.
    #[must_use]
    pub fn covers(&self, atsign: &AtSign) -> bool {
        self.atsigns.iter().any(|pattern| pattern.matches(atsign))
    }
}

/// The label and the fields in fixed order, one per line. No field can hold a line end or a space.
fn signed(node: &Ed25519Public, atsigns: &[Pattern], not_after: Timestamp) -> String {
    let atsigns: Vec<_> = atsigns.iter().map(Pattern::to_string).collect();
    format!("{LABEL}\n{node}\n{}\n{}\n", atsigns.join(" "), not_after.iso())
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Grant {
    type Err = InvalidRecord;

    fn from_str(text: &str) -> Result<Self, InvalidRecord> {
        Ok(serde_json::from_str(text)?)
    }
}
