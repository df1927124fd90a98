//! The cryptography that every atPlatform client shares: AES for values, RSA for keys and signatures.
//!
//! There is one symmetric construction ([`AesKey`]), one way to hand a key to somebody ([`RsaPublicKey`]
//! wraps it) and one way to prove who one is ([`RsaPrivateKey::sign`], checked by [`PkamPublicKey`] or
//! [`RsaPublicKey`]). [`seal`] puts them together for values; [`envelope`] is what peers of ours add inside.
//!
//! Randomness is handed in: keys of AES and IVs come from the caller. The exceptions are inside aws-lc,
//! which offers no other way: [`RsaPrivateKey::generate`], the random padding of
//! [`RsaPublicKey::wrap_key`] and the blinding of private-key operations.
//!
//! Whatever cannot be opened is an [`OpenError`], and never tells why. An attacker who could distinguish
//! bad RSA padding from bad content could decrypt with our key.

mod aes;
mod cram;
mod ed25519;
mod encoding;
pub mod envelope;
mod gcm;
mod pkam;
mod rsa;
pub mod seal;
#[cfg(test)]
pub(crate) mod vectors;

pub use aes::{AesKey, Iv, KeyDigest};
pub use cram::{cram_digest, cram_matches};
pub use ed25519::{Ed25519Public, Ed25519Secret, Ed25519Signature, InvalidEd25519};
pub use gcm::{GCM_KEY, GCM_NONCE, GcmKey};
pub use pkam::{EccPublicKey, PkamPublicKey};
pub use rsa::{Hash, RsaPrivateKey, RsaPublicKey, UnknownHash};
pub use seal::{PairKey, Plain, Sealed, open};

/// A value, or a wrapped key, that this key does not open. It has one form on purpose: see [`crypto`](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot be opened with this key")]
pub struct OpenError;

/// Why a text is not the key that it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not base64.
    #[error("a key must be base64 text")]
    NotBase64,
    /// An AES key of another length than 32 bytes.
    #[error("an AES-256 key has 32 bytes, this one has {0}")]
    AesLength(usize),
    /// An initialisation vector of another length than 16 bytes.
    #[error("an initialisation vector has 16 bytes, this one has {0}")]
    IvLength(usize),
    /// Not PKCS#8, not RSA, not consistent, or not of 2048 to 8192 bits.
    #[error("not an RSA private key of 2048 to 8192 bits in PKCS#8 form")]
    NotRsaPrivate,
    /// Not a SubjectPublicKeyInfo, not RSA for any use, or not of 2048 to 8192 bits.
    #[error("not an RSA public key of 2048 to 8192 bits in SubjectPublicKeyInfo form")]
    NotRsaPublic,
    /// Hex, but not an uncompressed point on the curve.
    #[error("not an uncompressed point of secp256r1 in hex")]
    NotAPoint,
}
