//! How the sender of a reading may repeat it.

use sha2::{Digest, Sha256};

/// One QoS 1 delivery of MQTT, by which a repetition is recognised.
///
/// A PUBLISH with `dup` set that equals a remembered delivery in `session`, `packet` and `digest` is
/// the same capture: it is accepted again without being kept again. Without `dup` it is a new
/// capture, and takes the place of what was remembered under its packet identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The MQTT session: the adapter's name and the client identifier.
    pub session: String,
    /// The packet identifier; the sender may use it again once it has our PUBACK.
    pub packet: u16,
    /// Whether the sender says that it may have sent this before.
    pub dup: bool,
    /// SHA-256 over the topic's length (4 bytes, big endian), the topic and the payload.
    pub digest: [u8; 32],
}

impl Delivery {
    /// The digest of a publication.
    pub fn digest(topic: &str, payload: &[u8]) -> [u8; 32] {
        let length = u32::try_from(topic.len()).unwrap_or(u32::MAX);
        let mut sha = Sha256::new();
        sha.update(length.to_be_bytes());
        sha.update(topic.as_bytes());
        sha.update(payload);
        sha.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_tells_topic_from_payload() {
        assert_ne!(Delivery::digest("ab", b"c"), Delivery::digest("a", b"bc"));
        assert_eq!(Delivery::digest("a", b"b"), Delivery::digest("a", b"b"));
    }
}
