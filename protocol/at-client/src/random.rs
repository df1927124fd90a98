//! What must not be guessed, from the operating system.

use at_protocol::crypto::{AesKey, Ed25519Secret, Iv};
use zeroize::Zeroizing;

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness once it has booted");
    bytes
}

/// A key for a pair of atSigns, for oneself, or for an enrollment.
pub(crate) fn key() -> AesKey {
    AesKey::from_bytes(bytes())
}

/// An initialisation vector, never used before.
pub(crate) fn iv() -> Iv {
    Iv::from_bytes(bytes())
}

/// A nonce of an envelope, never used before.
pub(crate) fn nonce() -> [u8; 12] {
    bytes()
}

/// A key to sign with.
pub(crate) fn signing_key() -> Ed25519Secret {
    Ed25519Secret::from_seed(&Zeroizing::new(bytes()))
}

/// A UUID of version 4, for notifications that bring no id of their own.
pub(crate) fn uuid() -> String {
    uuid::Builder::from_random_bytes(bytes()).into_uuid().to_string()
}

/// A number from 0 to `most`.
pub(crate) fn up_to(most: u64) -> u64 {
    let drawn = u64::from_le_bytes(bytes());
    most.checked_add(1).map_or(drawn, |count| drawn % count)
}
