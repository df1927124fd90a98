//! A tenant's beginnings: its first records, its label in host names, its signing key.

use at_protocol::crypto::RsaPrivateKey;
use at_protocol::{AtKey, AtSign, Metadata};
use sha2::{Digest, Sha256};

use crate::node::Node;
use crate::store::{Edit, StoreError, Write};

/// Longest label of a host name (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;
/// Characters of a hashed label: 160 bits.
const HASHED: usize = 32;

/// One of the server's own records.
pub(crate) fn private_key(name: &str) -> AtKey {
    AtKey::PrivateKey { name: name.parse().expect("our own names are key names") }
}

fn owned(name: &str) -> at_protocol::KeyName {
    name.parse().expect("our own names are key names")
}

fn plain(key: AtKey, value: String) -> Edit {
    Edit::Update { key, value, metadata: Metadata::default() }
}

/// What a tenant begins with: the secret by which its owner will activate it.
pub(crate) fn first_records(secret: &str) -> Vec<Edit> {
    vec![plain(private_key("at_secret"), secret.to_owned())]
}

/// The key by which others encrypt what is for this tenant's owner.
pub(crate) fn public_key(atsign: &AtSign) -> AtKey {
    AtKey::Public { name: owned("publickey"), owner: atsign.clone() }
}

/// The public half of the signing key, by which other servers know this tenant's.
pub(crate) fn signing_public_key(atsign: &AtSign) -> AtKey {
    AtKey::Public { name: owned("signing_publickey"), owner: atsign.clone() }
}

/// The private half.
pub(crate) fn signing_private_key(atsign: &AtSign) -> AtKey {
    AtKey::Shared { name: owned("signing_privatekey"), owner: atsign.clone(), with: atsign.clone() }
}

/// Makes the tenant's signing key if it has none (atProtocol wire reference §3.5). Takes seconds of a
/// thread of its own, after those who asked before.
///
/// # Errors
/// The store failed.
pub(crate) async fn ensure_signing_key(node: &Node, atsign: &AtSign) -> Result<(), StoreError> {
    let marker = private_key("signing_keypair_generated");
    let Ok(_turn) = node.key_maker.acquire().await else { return Err(StoreError::Closed) };
    if node.store.record(atsign, &marker).await?.is_some() {
        return Ok(());
    }
    let Ok(key) = tokio::task::spawn_blocking(RsaPrivateKey::generate).await else {
        return Err(StoreError::Closed);
    };
    let edits = vec![
        plain(signing_public_key(atsign), key.public().to_base64().to_owned()),
        plain(signing_private_key(atsign), key.to_pkcs8_base64().to_string()),
        plain(marker, "true".to_owned()),
    ];
    let write = Write { edits, notification: None, now: node.now() };
    if let Err(refused) = node.store.write(atsign, write).await? {
        tracing::warn!(%atsign, %refused, "the signing key could not be kept");
    }
    Ok(())
}

/// What stands for the atSign in host names below a node's domain: the atSign itself where it is a label,
/// else `x-` and a hash.
#[must_use]
pub fn label(atsign: &AtSign) -> String {
    let text = atsign.as_str();
    let is_label = text.len() <= MAX_LABEL
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label && !text.starts_with("x-") && !text.starts_with("xn--") {
        return text.to_owned();
    }
    format!("x-{}", base32(&Sha256::digest(text.as_bytes())))
}

/// The first characters of the bytes in base32, lower case, without padding (RFC 4648 §6).
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |at: usize| usize::from(bytes[at / 8] >> (7 - at % 8) & 1);
    (0..HASHED)
        .map(|place| (0..5).fold(0, |value, offset| value << 1 | bit(place * 5 + offset)))
        .map(|value| char::from(ALPHABET[value]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        label(&text.parse().unwrap())
    }

    #[test]
    fn what_is_no_label_is_hashed() {
        assert_eq!(of("@alice"), "alice");
        assert_eq!(of("@plant7gw1"), "plant7gw1");
        for text in ["@🦄", "@a_b", "@x-y", "@xn--a", "@-a"] {
            assert!(of(text).starts_with("x-") && of(text).len() == 34, "{text}");
        }
        assert_ne!(of("@a_b"), of("@a_c"));
    }

    #[test]
    fn base32_is_the_published_one() {
        // RFC 4648 §10: "foobar" is MZXW6YTBOI.
        let mut bytes = [0; 32];
        bytes[..6].copy_from_slice(b"foobar");
        assert!(base32(&bytes).starts_with("mzxw6ytboi"));
    }
}
