//! Ed25519, by which registrars grant, nodes prove themselves, and callers sign commands (RFC 8032).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, spki::der::pem::LineEnding};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What the texts of public keys begin with.
const PREFIX: &str = "ed25519:";

/// A public key. Its text is `ed25519:` and the 32 bytes in URL-safe base64 without padding.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ed25519Public([u8; 32]);

/// A secret key. It cannot be shown or copied, and is zeroed when it is dropped.
pub struct Ed25519Secret(SigningKey);

/// A signature. Its text is 64 bytes in URL-safe base64 without padding.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ed25519Signature([u8; 64]);

/// The text is no key or no signature of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEd25519 {
    /// Not `ed25519:` and 43 characters of base64, or no point of the curve.
    #[error("not a public key like ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")]
    Public,
    /// Not a PKCS#8 document in PEM with such a key.
    #[error("not an Ed25519 private key in PEM")]
    Secret,
    /// Not 86 characters of base64.
    #[error("not an Ed25519 signature in base64")]
    Signature,
}

impl Ed25519Public {
    /// The key of these 32 bytes (RFC 8032 §5.1.5).
    ///
    /// # Errors
    /// They are no point of the curve, or one of small order, for which anybody can sign.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, InvalidEd25519> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| InvalidEd25519::Public)?;
        if key.is_weak() { Err(InvalidEd25519::Public) } else { Ok(Self(bytes)) }
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether the holder of the secret half signed exactly this. Signatures that only a forger would make
    /// are refused.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &Ed25519Signature) -> bool {
        let key = VerifyingKey::from_bytes(&self.0).expect("checked when it was made");
        key.verify_strict(message, &Signature::from_bytes(&signature.0)).is_ok()
    }
}

impl Ed25519Secret {
    /// The key of 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: &Zeroizing<[u8; 32]>) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Reads a PKCS#8 document in PEM (RFC 8410).
    ///
    /// # Errors
    /// It is none, or of another kind of key.
    pub fn from_pem(text: &str) -> Result<Self, InvalidEd25519> {
        SigningKey::from_pkcs8_pem(text).map(Self).map_err(|_| InvalidEd25519::Secret)
    }

    /// A PKCS#8 document in PEM.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.0.to_pkcs8_pem(LineEnding::LF).expect("a key of fixed size can be written")
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> Ed25519Public {
        Ed25519Public(self.0.verifying_key().to_bytes())
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Ed25519Signature {
        Ed25519Signature(self.0.sign(message).to_bytes())
    }
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    (length == N).then_some(bytes)
}

impl fmt::Display for Ed25519Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Ed25519Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Ed25519Public {
    type Err = InvalidEd25519;

    fn from_str(text: &str) -> Result<Self, InvalidEd25519> {
        let bytes = text.trim().strip_prefix(PREFIX).and_then(decode).ok_or(InvalidEd25519::Public)?;
        Self::from_bytes(bytes)
    }
}

impl TryFrom<String> for Ed25519Public {
    type Error = InvalidEd25519;

    fn try_from(text: String) -> Result<Self, InvalidEd25519> {
        text.parse()
    }
}

impl From<Ed25519Public> for String {
    fn from(key: Ed25519Public) -> Self {
        key.to_string()
    }
}

impl fmt::Debug for Ed25519Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl TryFrom<String> for Ed25519Signature {
    type Error = InvalidEd25519;

    fn try_from(text: String) -> Result<Self, InvalidEd25519> {
        decode(&text).map(Self).ok_or(InvalidEd25519::Signature)
    }
}

impl From<Ed25519Signature> for String {
    fn from(signature: Ed25519Signature) -> Self {
        URL_SAFE_NO_PAD.encode(signature.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: u8) -> Ed25519Secret {
        Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
    }

    #[test]
    fn the_standards_first_vector_holds() {
        // RFC 8032 §7.1, test 1.
        let seed: [u8; 32] = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
            .unwrap()
            .try_into()
            .unwrap();
        let secret = Ed25519Secret::from_seed(&Zeroizing::new(seed));
        assert_eq!(secret.public().to_string(), "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        let signature = secret.sign(b"");
        assert_eq!(hex::encode(&signature.0[..4]), "e5564300");
        assert!(secret.public().verify(b"", &signature));
    }

    #[test]
    fn keys_and_signatures_read_back() {
        let secret = key(7);
        let public = secret.public();
        assert_eq!(public.to_string().parse(), Ok(public.clone()));
        let again = Ed25519Secret::from_pem(&secret.to_pem()).unwrap();
        let signature = again.sign(b"words");
        let text: String = signature.clone().into();
        assert_eq!(text.clone().try_into(), Ok(signature.clone()));
        assert!(public.verify(b"words", &signature));
        assert!(!public.verify(b"other words", &signature) && !key(8).public().verify(b"words", &signature));
        assert_eq!(Ed25519Signature::try_from(format!("{text}A")), Err(InvalidEd25519::Signature));
    }

    #[test]
    fn other_texts_and_weak_points_are_no_keys() {
        let good = key(1).public().to_string();
        let standard = good.replace("ed25519:", "");
        for bad in ["", "ed25519:", &standard, &good[..50], &format!("{good}="), &format!("{good}A")] {
            assert_eq!(bad.parse::<Ed25519Public>(), Err(InvalidEd25519::Public), "{bad}");
        }
        // The neutral element: every signature of a certain form holds for it.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(Ed25519Public::from_bytes(neutral), Err(InvalidEd25519::Public));
        assert_eq!(Ed25519Secret::from_pem("no key").err(), Some(InvalidEd25519::Secret));
    }
}
