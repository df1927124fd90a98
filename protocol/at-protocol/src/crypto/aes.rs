//! The one symmetric construction: AES-256-CTR over PKCS#7-padded text.

use std::fmt;

use aes::Aes256;
use aws_lc_rs::digest;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{KeyError, OpenError, encoding};

/// Block length of AES, which CTR does not need but every atSDK pads to.
const BLOCK: usize = 16;

/// A key of AES-256: a self key, the key of a pair of atSigns, or one enrolment's.
///
/// It has no `Debug` and no `Clone`, and is zeroed when dropped.
pub struct AesKey(Zeroizing<[u8; 32]>);

/// SHA-256 of an AES key's 32 bytes: names the key and does not give it away. Its text is lower-case hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyDigest([u8; 32]);

/// Where the 128-bit big-endian counter of CTR starts. Public, but never to be used twice with one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iv([u8; BLOCK]);

impl AesKey {
    /// Takes 32 bytes from a cryptographic random source, or from a key derivation.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads the form in which keys are stored and wrapped: base64 of the raw bytes.
    ///
    /// # Errors
    /// The text is not base64, or not of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let bytes = encoding::decode(text).ok_or(KeyError::NotBase64)?;
        let bytes = bytes.as_slice().try_into().map_err(|_| KeyError::AesLength(bytes.len()))?;
        Ok(Self::from_bytes(bytes))
    }

    /// The 44 characters that [`AesKey::from_base64`] reads.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(encoding::encode(self.0.as_slice()))
    }

    /// What names this key without giving it away.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        let digest = digest::digest(&digest::SHA256, self.as_bytes());
        KeyDigest(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Encrypts and gives base64. Nobody notices when the result is altered on its way: CTR has no tag.
    #[must_use]
    pub fn encrypt(&self, iv: &Iv, plain: &[u8]) -> String {
        let padding = BLOCK - plain.len() % BLOCK;
        let mut text = Vec::with_capacity(plain.len() + padding);
        text.extend_from_slice(plain);
        text.resize(plain.len() + padding, u8::try_from(padding).expect("padding is at most one block"));
        self.apply_keystream(iv, &mut text);
        encoding::encode(&text)
    }

    /// Decrypts what [`AesKey::encrypt`] gave, under the same IV.
    ///
    /// # Errors
    /// Not base64, not whole blocks, or without correct padding. With a wrong key or IV the padding is
    /// correct by chance once in 256 times, and the result is then noise: this is no authentication.
    pub fn decrypt(&self, iv: &Iv, text: &str) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let mut bytes = encoding::decode(text).ok_or(OpenError)?;
        self.apply_keystream(iv, &mut bytes);
        let len = unpadded_len(&bytes).ok_or(OpenError)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    fn apply_keystream(&self, iv: &Iv, bytes: &mut [u8]) {
        Ctr128BE::<Aes256>::new((&*self.0).into(), (&iv.0).into()).apply_keystream(bytes);
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl TryFrom<String> for KeyDigest {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map(|()| Self(bytes))
    }
}

impl From<KeyDigest> for String {
    fn from(digest: KeyDigest) -> Self {
        digest.to_string()
    }
}

impl Iv {
    /// What older clients used for everything. Needed to read, in key files and in enrolments.
    pub const ZERO: Self = Self([0; BLOCK]);

    /// Takes 16 bytes from a random source.
    #[must_use]
    pub fn from_bytes(bytes: [u8; BLOCK]) -> Self {
        Self(bytes)
    }

    /// Reads base64 of 16 bytes.
    ///
    /// # Errors
    /// The text is not base64, or not of 16 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let bytes = encoding::decode(text).ok_or(KeyError::NotBase64)?;
        bytes.as_slice().try_into().map(Self).map_err(|_| KeyError::IvLength(bytes.len()))
    }

    /// Reads the `ivNonce` of a record. Where it is absent, or the text `null`, the IV is zero.
    ///
    /// # Errors
    /// There is an `ivNonce`, but it is not base64 of 16 bytes.
    pub fn from_nonce(nonce: Option<&str>) -> Result<Self, OpenError> {
        match nonce {
            None | Some("null") => Ok(Self::ZERO),
            Some(text) => Self::from_base64(text).map_err(|_| OpenError),
        }
    }

    /// The form in which it travels as `ivNonce`.
    #[must_use]
    pub fn to_base64(&self) -> String {
        encoding::encode(&self.0)
    }
}

/// The length of the text in front of its PKCS#7 padding (RFC 5652 §6.3), if that is as it must be.
fn unpadded_len(padded: &[u8]) -> Option<usize> {
    let last = *padded.last()?;
    let padding = usize::from(last);
    if !padded.len().is_multiple_of(BLOCK) || !(1..=BLOCK).contains(&padding) {
        return None;
    }
    let (text, tail) = padded.split_at(padded.len() - padding);
    let difference = tail.iter().fold(0, |sum, byte| sum | (byte ^ last));
    (difference == 0).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const IV: &str = "8PHy8/T19vf4+fr7/P3+/w==";

    fn key() -> AesKey {
        AesKey::from_base64(KEY).unwrap()
    }

    /// Encrypts `raw` as it stands, without padding it.
    fn unpadded(raw: &[u8]) -> String {
        let mut bytes = raw.to_vec();
        key().apply_keystream(&Iv::ZERO, &mut bytes);
        encoding::encode(&bytes)
    }

    #[test]
    fn agrees_with_the_other_sdks() {
        for (nonce, plain, sealed) in [
            (None, "hello", "mvVs2kVClNui+JFh1iV8iw=="),
            (Some("null"), "hello", "mvVs2kVClNui+JFh1iV8iw=="),
            (Some(IV), "hello", "+mWh4Uydi8BRYu1fSzloHw=="),
            (Some(IV), "0123456789abcdef", "ojH/vhejtvxiUIc2I1YGctpPa1DhOiTRfrdFMVpnlp4="),
        ] {
            let iv = Iv::from_nonce(nonce).unwrap();
            assert_eq!(key().encrypt(&iv, plain.as_bytes()), sealed);
            assert_eq!(key().decrypt(&iv, sealed).unwrap().as_slice(), plain.as_bytes());
        }
    }

    #[test]
    fn the_counter_carries_through_all_sixteen_bytes() {
        let zeros = [0; 2 * BLOCK];
        let last = key().encrypt(&Iv::from_bytes([0xff; BLOCK]), &zeros);
        let first = key().encrypt(&Iv::ZERO, &zeros);
        let (last, first) = (encoding::decode(&last).unwrap(), encoding::decode(&first).unwrap());
        assert_eq!(last[BLOCK..2 * BLOCK], first[..BLOCK]);
    }

    #[test]
    fn padding_is_required_and_exact() {
        assert_eq!(key().decrypt(&Iv::ZERO, &unpadded(&[16; 16])).unwrap().as_slice(), b"");
        for raw in [
            b"".as_slice(),
            b"0123456789abcdef",
            &[0; 16],
            &[17; 32],
            b"0123456789abc\x03\x02\x03",
            b"0123456789abc\x01",
            &[1; 15],
        ] {
            assert_eq!(key().decrypt(&Iv::ZERO, &unpadded(raw)), Err(OpenError), "{raw:?}");
        }
        assert_eq!(key().decrypt(&Iv::ZERO, "not base64!"), Err(OpenError));
    }

    #[test]
    fn keys_and_ivs_have_their_lengths() {
        assert_eq!(key().to_base64().as_str(), KEY);
        assert_eq!(AesKey::from_base64("AAAA").err(), Some(KeyError::AesLength(3)));
        assert_eq!(AesKey::from_base64("?").err(), Some(KeyError::NotBase64));
        assert_eq!(Iv::from_base64(IV).unwrap().to_base64(), IV);
        assert_eq!(Iv::from_base64(KEY), Err(KeyError::IvLength(32)));
        assert_eq!(Iv::from_nonce(Some("AAAA")), Err(OpenError));
        assert_eq!(Iv::from_nonce(Some("")), Err(OpenError));
    }

    proptest! {
        #[test]
        fn what_is_encrypted_comes_back(bytes: [u8; 32], iv: [u8; 16], plain: Vec<u8>) {
            let (key, iv) = (AesKey::from_bytes(bytes), Iv::from_bytes(iv));
            let sealed = key.encrypt(&iv, &plain);
            let opened = key.decrypt(&iv, &sealed).unwrap();
            prop_assert_eq!(opened.as_slice(), plain);
        }

        #[test]
        fn any_text_is_opened_or_refused(iv: [u8; 16], text: String) {
            if let Ok(plain) = key().decrypt(&Iv::from_bytes(iv), &text) {
                prop_assert!(plain.len() < text.len());
            }
        }
    }
}
