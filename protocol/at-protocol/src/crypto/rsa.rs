//! RSA: whose key pairs identify an atSign, wrap AES keys and sign.
//!
//! The wire demands RSAES-PKCS1-v1_5, whose padding must not become an oracle. A wrapped key that does
//! not unwrap is therefore answered with a *substitute* key (implicit rejection): it depends on the
//! private key and the ciphertext alone, so that it is the same at every try, and nobody else can compute
//! it. What was sealed under the real key then fails to open, later and like any other damaged value. What
//! remains to be measured is the checking of 44 characters beside a private-key operation of milliseconds.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{
    KeySize, Pkcs1PrivateDecryptingKey, Pkcs1PublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    KeyPair, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair, UnparsedPublicKey,
};
use aws_lc_rs::{hmac, rand};
use subtle::{Choice, ConditionallySelectable};
use zeroize::Zeroizing;

use super::{AesKey, KeyError, OpenError, encoding};

/// Length of what is wrapped: not the 32 bytes of an AES key, but its base64 text.
const KEY_TEXT: usize = 44;

/// The hash under a signature: `hashingAlgo` on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hash {
    /// `sha256`, meant where nothing is said.
    #[default]
    Sha256,
    /// `sha512`.
    Sha512,
}

/// A `hashingAlgo` that this protocol does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hash is sha256 or sha512")]
pub struct UnknownHash;

/// The private half of an RSA key pair. It has no `Debug` and no `Clone`; aws-lc zeroes its memory.
pub struct RsaPrivateKey {
    signing: RsaKeyPair,
    unwrapping: Pkcs1PrivateDecryptingKey,
    /// Turns a ciphertext into its substitute key.
    rejection: hmac::Key,
    public: RsaPublicKey,
}

/// The public half of an RSA key pair, with the text in which it was published.
#[derive(Clone, Debug)]
pub struct RsaPublicKey {
    text: Box<str>,
    der: Box<[u8]>,
    /// The same, ready to check signatures over SHA-256, which nearly all are.
    checking: ParsedPublicKey,
}

impl RsaPrivateKey {
    /// Makes a new key of 2048 bits, the only size that every atSDK reads. Takes seconds on a small
    /// machine.
    #[must_use]
    pub fn generate() -> Self {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).expect("aws-lc has memory for an RSA key");
        let der: Pkcs8V1Der<'_> = key.as_der().expect("aws-lc writes the key that it made");
        Self::from_pkcs8(der.as_ref()).expect("aws-lc reads the key that it wrote")
    }

    /// Reads base64 of an unencrypted PKCS#8 `PrivateKeyInfo`.
    ///
    /// # Errors
    /// The text is not base64, or not a consistent RSA key of 2048 to 8192 bits.
    pub fn from_pkcs8_base64(text: &str) -> Result<Self, KeyError> {
        let der = encoding::decode(text).ok_or(KeyError::NotBase64)?;
        Self::from_pkcs8(&der).ok_or(KeyError::NotRsaPrivate)
    }

    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let signing = RsaKeyPair::from_pkcs8(der).ok()?;
        let unwrapping = PrivateDecryptingKey::from_pkcs8(der).ok()?;
        let secret: Pkcs8V1Der<'_> = unwrapping.as_der().ok()?;
        let public: PublicKeyX509Der<'_> = signing.public_key().as_der().ok()?;
        Some(Self {
            rejection: hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()),
            unwrapping: Pkcs1PrivateDecryptingKey::new(unwrapping).ok()?,
            signing,
            public: RsaPublicKey::from_spki_base64(&encoding::encode(public.as_ref())).ok()?,
        })
    }

    /// The form that [`RsaPrivateKey::from_pkcs8_base64`] reads.
    #[must_use]
    pub fn to_pkcs8_base64(&self) -> Zeroizing<String> {
        let der: Pkcs8V1Der<'_> = self.signing.as_der().expect("aws-lc writes the key that it read");
        Zeroizing::new(encoding::encode(der.as_ref()))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &RsaPublicKey {
        &self.public
    }

    /// Signs by RSASSA-PKCS1-v1_5 and gives base64: the answer to a challenge, or the `dataSignature` of
    /// a public value.
    #[must_use]
    pub fn sign(&self, message: &[u8], hash: Hash) -> String {
        let mut signature = vec![0; self.signing.public_modulus_len()];
        self.signing
            .sign(hash.signing(), &rand::SystemRandom::new(), message, &mut signature)
            .expect("a key that passed aws-lc's checks signs");
        encoding::encode(&signature)
    }

    /// Unwraps an AES key that somebody wrapped to our public key.
    ///
    /// A key that does not unwrap gives a substitute, see the module: its use fails as that of a wrong
    /// key does. Unwrap once and keep the result; this costs milliseconds, and a peer who may have it
    /// repeated at will may also measure it.
    ///
    /// # Errors
    /// The text is not base64 of this key's length, which its sender knew already.
    pub fn unwrap_key(&self, wrapped: &str) -> Result<AesKey, OpenError> {
        let size = self.unwrapping.key_size_bytes();
        let ciphertext = encoding::decode(wrapped).filter(|c| c.len() == size).ok_or(OpenError)?;
        let substitute = hmac::sign(&self.rejection, &ciphertext);

        let mut text = Zeroizing::new(vec![0; size]);
        let len = self.unwrapping.decrypt(&ciphertext, &mut text).map_or(0, |plain| plain.len());
        let found = encoding::decode(&text[..KEY_TEXT]).filter(|key| key.len() == 32);

        let good = Choice::from(u8::from(len == KEY_TEXT && found.is_some()));
        let found = found.unwrap_or_else(|| Zeroizing::new(vec![0; 32]));
        let mut key = Zeroizing::new([0; 32]);
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = u8::conditional_select(&substitute.as_ref()[i], &found[i], good);
        }
        Ok(AesKey::from_bytes(*key))
    }
}

impl PartialEq for RsaPublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for RsaPublicKey {}

impl RsaPublicKey {
    /// Reads base64 of a DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// The text is not base64, or not a general RSA key of 2048 to 8192 bits.
    pub fn from_spki_base64(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let der = encoding::decode(text).ok_or(KeyError::NotBase64)?;
        let checking = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der.as_slice());
        let checking = checking.map_err(|_| KeyError::NotRsaPublic)?;
        let key = Self { text: text.into(), der: der.as_slice().into(), checking };
        // A key marked for RSASSA-PSS parses, yet cannot wrap: so it is tried.
        key.encrypt(&[0; KEY_TEXT]).ok_or(KeyError::NotRsaPublic)?;
        Ok(key)
    }

    /// The text as it was read, to the byte, since [`RsaPublicKey::checksum`] is taken over it.
    #[must_use]
    pub fn to_base64(&self) -> &str {
        &self.text
    }

    /// Whether `signature`, base64 in either alphabet, is this key's over `message` and `hash`.
    #[must_use]
    pub fn verify(&self, message: &[u8], hash: Hash, signature: &str) -> bool {
        let Some(signature) = encoding::decode(signature) else { return false };
        match hash {
            Hash::Sha256 => self.checking.verify_sig(message, &signature).is_ok(),
            Hash::Sha512 => {
                let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA512, &self.der);
                key.verify(message, &signature).is_ok()
            }
        }
    }

    /// Wraps an AES key so that only the owner of the private half unwraps it. Base64, different at each
    /// call.
    #[must_use]
    pub fn wrap_key(&self, key: &AesKey) -> String {
        let wrapped = self.encrypt(key.to_base64().as_bytes());
        encoding::encode(&wrapped.expect("the key encrypted as much when it was read"))
    }

    /// Lower-case hex of MD5 over the text: `pubKeyCS`. It tells that a key has changed, and protects
    /// nothing.
    #[must_use]
    pub fn checksum(&self) -> String {
        use md5::Digest;
        hex::encode(md5::Md5::digest(self.text.as_bytes()))
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let key =
            PublicEncryptingKey::from_der(&self.der).and_then(|key| Ok(Pkcs1PublicEncryptingKey::new(key)?));
        let key = key.ok()?;
        let mut ciphertext = vec![0; key.ciphertext_size()];
        key.encrypt(plain, &mut ciphertext).ok()?;
        Some(ciphertext)
    }
}

impl Hash {
    fn signing(self) -> &'static dyn RsaEncoding {
        match self {
            Self::Sha256 => &RSA_PKCS1_SHA256,
            Self::Sha512 => &RSA_PKCS1_SHA512,
        }
    }
}

impl FromStr for Hash {
    type Err = UnknownHash;

    fn from_str(text: &str) -> Result<Self, UnknownHash> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(UnknownHash),
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vectors::{private_key, public_key, vector};
    use super::*;

    #[test]
    fn reads_and_writes_the_forms_of_other_clients() {
        assert_eq!(private_key().to_pkcs8_base64().as_str(), vector("private"));
        assert_eq!(private_key().public(), &public_key());
        assert_eq!(public_key().to_base64(), vector("public"));
        assert_eq!(public_key().checksum(), vector("checksum"));
    }

    #[test]
    fn signs_as_other_clients_do() {
        let challenge = vector("challenge");
        for (hash, name) in [(Hash::Sha256, "signature_sha256"), (Hash::Sha512, "signature_sha512")] {
            assert_eq!(private_key().sign(challenge.as_bytes(), hash), vector(name));
        }
    }

    #[test]
    fn a_signature_is_for_one_message_one_hash_and_one_key() {
        let (challenge, signature) = (vector("challenge"), vector("signature_sha256"));
        let other = RsaPrivateKey::from_pkcs8_base64(&vector("other_private")).unwrap();
        let url_safe = signature.replace('+', "-").replace('/', "_");
        assert_ne!(url_safe, signature);
        for good in [signature.as_str(), &url_safe, url_safe.trim_end_matches('=')] {
            assert!(public_key().verify(challenge.as_bytes(), Hash::Sha256, good), "{good}");
        }
        assert!(!public_key().verify(b"another", Hash::Sha256, &signature));
        assert!(!public_key().verify(challenge.as_bytes(), Hash::Sha512, &signature));
        assert!(!other.public().verify(challenge.as_bytes(), Hash::Sha256, &signature));
        for bad in ["", "AAAA", "no base64"] {
            assert!(!public_key().verify(challenge.as_bytes(), Hash::Sha256, bad), "{bad}");
        }
    }

    #[test]
    fn a_wrapped_key_comes_back() {
        let unwrapped = private_key().unwrap_key(&vector("wrapped")).unwrap();
        assert_eq!(unwrapped.to_base64().as_str(), vector("aes_key"));
        let again = private_key().unwrap_key(&public_key().wrap_key(&unwrapped)).unwrap();
        assert_eq!(again.to_base64(), unwrapped.to_base64());
    }

    /// Everything that a peer can get wrong within a ciphertext of the right length.
    const REFUSED: [&str; 7] = [
        "bad_padding",
        "above_modulus",
        "wrapped_empty",
        "wrapped_raw_bytes",
        "wrapped_no_base64",
        "wrapped_short_key",
        "wrapped_long_text",
    ];

    #[test]
    fn bad_padding_and_bad_content_fail_alike_and_later() {
        let iv = super::super::Iv::from_bytes([7; 16]);
        let sealed = AesKey::from_base64(&vector("aes_key")).unwrap().encrypt(&iv, b"sixteen bytes ok");
        for name in REFUSED {
            let substitute = private_key().unwrap_key(&vector(name));
            assert!(substitute.is_ok(), "{name}: an unwrap that fails is an oracle");
            assert_eq!(substitute.and_then(|key| key.decrypt(&iv, &sealed)), Err(OpenError), "{name}");
        }
    }

    #[test]
    fn a_substitute_is_stable_and_depends_on_ciphertext_and_private_key() {
        let other = RsaPrivateKey::from_pkcs8_base64(&vector("other_private")).unwrap();
        let substitute = |key: &RsaPrivateKey, name| key.unwrap_key(&vector(name)).unwrap().to_base64();
        let mut seen = vec![AesKey::from_bytes([0; 32]).to_base64(), vector("aes_key").into()];
        for name in REFUSED {
            let key = substitute(&private_key(), name);
            assert_eq!(key, substitute(&private_key(), name), "{name}: two answers to one question");
            for key in [key, substitute(&other, name)] {
                assert!(!seen.contains(&key), "{name}");
                seen.push(key);
            }
        }
    }

    #[test]
    fn a_wrapped_key_of_another_length_is_refused() {
        for text in ["", "AAAA", "no base64", &encoding::encode(&[1; 255]), &encoding::encode(&[1; 257])] {
            assert_eq!(private_key().unwrap_key(text).err(), Some(OpenError), "{text}");
        }
    }

    #[test]
    fn keys_that_cannot_serve_are_refused_at_the_door() {
        for (name, error) in [
            ("private", KeyError::NotRsaPublic),
            ("pss_public", KeyError::NotRsaPublic),
            ("small_public", KeyError::NotRsaPublic),
            ("ecc_signature", KeyError::NotRsaPublic),
            ("challenge", KeyError::NotBase64),
        ] {
            assert_eq!(RsaPublicKey::from_spki_base64(&vector(name)).err(), Some(error), "{name}");
        }
        for (name, error) in [
            ("public", KeyError::NotRsaPrivate),
            ("small_private", KeyError::NotRsaPrivate),
            ("challenge", KeyError::NotBase64),
        ] {
            assert_eq!(RsaPrivateKey::from_pkcs8_base64(&vector(name)).err(), Some(error), "{name}");
        }
    }

    #[test]
    fn a_new_key_signs_wraps_and_is_written() {
        let key = RsaPrivateKey::generate();
        assert_eq!(key.public().to_base64().len(), 392);
        assert!(key.public().verify(b"m", Hash::Sha512, &key.sign(b"m", Hash::Sha512)));
        let read = RsaPrivateKey::from_pkcs8_base64(&key.to_pkcs8_base64()).unwrap();
        assert_eq!(read.public(), key.public());
    }

    #[test]
    fn hashes_have_their_wire_names() {
        for hash in [Hash::Sha256, Hash::Sha512] {
            assert_eq!(hash.to_string().parse(), Ok(hash));
        }
        assert_eq!("md5".parse::<Hash>(), Err(UnknownHash));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn any_key_is_wrapped_and_any_text_is_unwrapped(bytes: [u8; 32], noise: [u8; 32], text: String) {
            let key = AesKey::from_bytes(bytes);
            let unwrapped = private_key().unwrap_key(&public_key().wrap_key(&key)).unwrap();
            prop_assert_eq!(unwrapped.to_base64(), key.to_base64());
            prop_assert!(private_key().unwrap_key(&encoding::encode(&noise.repeat(8))).is_ok());
            prop_assert_eq!(private_key().unwrap_key(&text).err(), Some(OpenError));
        }
    }
}
