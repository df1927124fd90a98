//! A node's word on where an atSign is served.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Address, Grant};
use crate::crypto::{Ed25519Public, Ed25519Secret, Ed25519Signature};
use crate::{AtSign, Timestamp};

/// What the signed bytes begin with.
const LABEL: &str = "atedge-record-1";

/// Where an atSign is served, signed by the node that serves it, with the [`Grant`] that lets the node.
///
/// `Display` and `FromStr` are one line of JSON. That it can be read says nothing of its truth: see
/// [`Registrars`](super::Registrars).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SignedRecord {
    /// Who is served.
    pub atsign: AtSign,
    /// Where, and since when.
    #[serde(flatten)]
    pub at: Location,
    /// Why the node may say so.
    pub grant: Grant,
    sig: Ed25519Signature,
}

/// The changing part of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// Host and TCP port, as in answers of old.
    pub address: Address,
    /// The port, at the same host, on which the node speaks QUIC (UDP), and the same over TLS (TCP) where
    /// UDP does not pass.
    pub quic: u16,
    /// Grows with every record of this atSign, whichever node signs it.
    pub seq: u64,
    /// When the record ends.
    #[serde(with = "crate::time::iso")]
    pub not_after: Timestamp,
}

/// The text is no record, or no grant.
#[derive(Debug, thiserror::Error)]
#[error("not a signed record: {0}")]
pub struct InvalidRecord(#[from] serde_json::Error);

impl SignedRecord {
    /// Says where an atSign is served, in the name of the node whose key this is and whose grant it has.
    #[must_use]
    pub fn sign(node: &Ed25519Secret, atsign: AtSign, at: Location, grant: Grant) -> Self {
        let sig = node.sign(signed(&atsign, &at, &grant.node).as_bytes());
        Self { atsign, at, grant, sig }
    }

    /// The key that the node proves itself by.
    #[must_use]
    pub fn node(&self) -> &Ed25519Public {
        &self.grant.node
    }

    /// Whether the node of the grant has signed this.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.node().verify(signed(&self.atsign, &self.at, self.node()).as_bytes(), &self.sig)
    }

    /// Where the node speaks QUIC, and the same over TLS.
    #[must_use]
    pub fn quic(&self) -> Address {
        self.at.address.with_port(self.at.quic)
    }
}

/// The label and the fields in fixed order, one per line. No field can hold a line end.
fn signed(atsign: &AtSign, at: &Location, node: &Ed25519Public) -> String {
    let (address, quic, seq, not_after) = (&at.address, at.quic, at.seq, at.not_after.iso());
    let (host, port) = (address.host(), address.port());
    format!("{LABEL}\n{atsign}\n{host}\n{port}\n{quic}\n{node}\n{seq}\n{not_after}\n")
}

impl fmt::Display for SignedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for SignedRecord {
    type Err = InvalidRecord;

    fn from_str(text: &str) -> Result<Self, InvalidRecord> {
        Ok(serde_json::from_str(text)?)
    }
}
