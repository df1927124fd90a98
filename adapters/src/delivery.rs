//! How the sender of a reading may repeat it.

use std::hash::Hasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use siphasher::sip::SipHasher13;

/// One QoS 1 delivery of MQTT, by which a repetition is recognised.
///
/// A PUBLISH with `dup` set that equals a remembered delivery in `session`, `packet` and `digest` is
/// the same capture: it is accepted again without being kept again. Without `dup` it is a new
/// capture, and takes the place of what was remembered under its packet identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The MQTT session: the adapter's name and the client identifier.
    pub session: Arc<str>,
    /// Its number among all deliveries since the process began, repeats counted: they ascend.
    pub number: u64,
    /// The packet identifier; the sender may use it again once it has our PUBACK.
    pub packet: u16,
    /// Whether the sender says that it may have sent this before.
    pub dup: bool,
    /// What [`Delivery::digest`] says.
    pub digest: Digest,
}

/// What tells one publication from another.
pub type Digest = [u8; 8];

impl Delivery {
    /// A number that no delivery of this process had, from 1.
    pub(crate) fn next_number() -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The digest of a publication: SipHash-1-3 without a key, over the topic's length (4 bytes, big
    /// endian), the topic and the payload. It tells apart what one sender says under one packet identifier; whoever
    /// made two of its own messages alike would lose nothing but one of them.
    pub fn digest(topic: &str, payload: &[u8]) -> Digest {
        let length = u32::try_from(topic.len()).unwrap_or(u32::MAX);
        let mut hasher = SipHasher13::new();
        hasher.write(&length.to_be_bytes());
        hasher.write(topic.as_bytes());
        hasher.write(payload);
        hasher.finish().to_be_bytes()
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

    /// It is on disk, and compared with what a later version of the program makes.
    #[test]
    fn the_digest_stays_the_same() {
        let digest = Delivery::digest("site/boiler", b"{\"t\":21}");
        assert_eq!(u64::from_be_bytes(digest), 0x7263_6ac5_5f0b_9e88);
    }
}
