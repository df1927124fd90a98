//! Values as they lie on atServers: [`Sealed`] for one reader, or [`Plain`] for everybody.
//!
//! The two are different types and neither is made from bare text, so that nothing is sent in the clear
//! by mistake. Both know the metadata that their readers need.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{AesKey, Hash, Iv, OpenError, RsaPrivateKey, RsaPublicKey, encoding};
use crate::Metadata;

/// Ciphertext of a value, and what opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    text: String,
    iv: Iv,
    pair: Option<PairLabel>,
}

/// How a reader finds the key of a pair: `sharedKeyEnc` and `pubKeyCS`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PairLabel {
    wrapped: String,
    checksum: String,
}

/// A public value in the clear, signed by its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    text: String,
    data_signature: String,
    encoded: bool,
}

/// The key for everything that one atSign sends to one other. The way back has another one.
pub struct PairKey {
    /// The key itself.
    pub key: AesKey,
    /// The key, wrapped to the recipient's public key: the value of `@bob:shared_key@alice`.
    pub wrapped_for_recipient: String,
    /// MD5 of the public key that it was wrapped to, see [`RsaPublicKey::checksum`].
    pub recipient_checksum: String,
}

impl PairKey {
    /// Wraps `key` to its recipient. Another copy goes to its owner by [`RsaPublicKey::wrap_key`].
    #[must_use]
    pub fn new(key: AesKey, recipient: &RsaPublicKey) -> Self {
        Self {
            wrapped_for_recipient: recipient.wrap_key(&key),
            recipient_checksum: recipient.checksum(),
            key,
        }
    }
}

/// Seals a value that its owner keeps for itself. `iv` must be random.
#[must_use]
pub fn seal_self(key: &AesKey, iv: Iv, value: &[u8]) -> Sealed {
    Sealed { text: key.encrypt(&iv, value), iv, pair: None }
}

/// Seals a value for the other side of a pair. `iv` must be random.
#[must_use]
pub fn seal_shared(pair: &PairKey, iv: Iv, value: &[u8]) -> Sealed {
    let label =
        PairLabel { wrapped: pair.wrapped_for_recipient.clone(), checksum: pair.recipient_checksum.clone() };
    Sealed { text: pair.key.encrypt(&iv, value), iv, pair: Some(label) }
}

/// Opens what was sealed under `key`, the self key or the key of a pair. `iv_nonce` is the record's
/// `ivNonce`.
///
/// # Errors
/// See [`AesKey::decrypt`]: success proves neither sender nor integrity.
pub fn open(key: &AesKey, iv_nonce: Option<&str>, text: &str) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    key.decrypt(&Iv::from_nonce(iv_nonce)?, text)
}

/// Whether a value is ciphertext. Some clients forget `isEncrypted` and their server then says `false`,
/// but an `ivNonce` gives them away.
#[must_use]
pub fn is_sealed(metadata: &Metadata) -> bool {
    metadata.is_encrypted == Some(true) || metadata.iv_nonce.as_deref().is_some_and(|nonce| nonce != "null")
}

impl Sealed {
    /// The base64 ciphertext, which is the value to send.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Sets what readers need to open it: `isEncrypted`, `ivNonce`, and for a pair `sharedKeyEnc` and
    /// `pubKeyCS`.
    pub fn describe(&self, metadata: &mut Metadata) {
        metadata.is_encrypted = Some(true);
        metadata.iv_nonce = Some(self.iv.to_base64());
        metadata.shared_key_enc = self.pair.as_ref().map(|pair| pair.wrapped.clone());
        metadata.pub_key_cs = self.pair.as_ref().map(|pair| pair.checksum.clone());
    }
}

impl Plain {
    /// Signs a value for everybody with the owner's *encryption* key, whose public half everybody finds.
    ///
    /// The signature covers neither name nor metadata nor time: whoever stores the value can rename or
    /// replay it.
    #[must_use]
    pub fn signed(owner: &RsaPrivateKey, value: &str) -> Self {
        // A command is one line, and servers trim its end.
        let encoded = value.contains(['\n', '\r']) || value.ends_with(char::is_whitespace);
        let text = if encoded { STANDARD.encode(value) } else { value.to_owned() };
        Self { text, data_signature: owner.sign(value.as_bytes(), Hash::Sha256), encoded }
    }

    /// The value to send.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Sets `isEncrypted`, `dataSignature` and, where the value needed it, `encoding`.
    pub fn describe(&self, metadata: &mut Metadata) {
        metadata.is_encrypted = Some(false);
        metadata.data_signature = Some(self.data_signature.clone());
        metadata.encoding = self.encoded.then(|| "base64".to_owned());
    }
}

/// Reads a public value: undoes its `encoding`.
///
/// # Errors
/// It claims an encoding that is unknown, or that it does not have.
pub fn read_public(metadata: &Metadata, text: &str) -> Result<String, OpenError> {
    match metadata.encoding.as_deref() {
        None | Some("null") => Ok(text.to_owned()),
        Some("base64") => {
            let bytes = encoding::decode(text).ok_or(OpenError)?;
            String::from_utf8(bytes.to_vec()).map_err(|_| OpenError)
        }
        Some(_) => Err(OpenError),
    }
}

/// Whether `value`, as [`read_public`] gives it, bears the signature of `owner`. See [`Plain::signed`] for
/// what that proves.
#[must_use]
pub fn is_signed_by(owner: &RsaPublicKey, metadata: &Metadata, value: &str) -> bool {
    let signature = metadata.data_signature.as_deref();
    signature.is_some_and(|signature| owner.verify(value.as_bytes(), Hash::Sha256, signature))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::vectors::{private_key, public_key, vector};
    use super::*;

    fn described(describe: impl FnOnce(&mut Metadata)) -> Metadata {
        let mut metadata = Metadata::default();
        describe(&mut metadata);
        metadata
    }

    #[test]
    fn a_self_value_is_opened_with_its_metadata() {
        let key = AesKey::from_bytes([1; 32]);
        let sealed = seal_self(&key, Iv::from_bytes([2; 16]), "grüße".as_bytes());
        let metadata = described(|m| sealed.describe(m));
        assert!(is_sealed(&metadata));
        assert_eq!((&metadata.shared_key_enc, &metadata.pub_key_cs), (&None, &None));
        let opened = open(&key, metadata.iv_nonce.as_deref(), sealed.text()).unwrap();
        assert_eq!(opened.as_slice(), "grüße".as_bytes());
        assert_ne!(open(&key, None, sealed.text()).ok(), Some(opened), "the IV matters");
    }

    #[test]
    fn a_shared_value_carries_its_key_to_its_recipient() {
        let pair = PairKey::new(AesKey::from_bytes([3; 32]), &public_key());
        let sealed = seal_shared(&pair, Iv::from_bytes([4; 16]), b"62.1");
        let metadata = described(|m| sealed.describe(m));
        assert_eq!(metadata.pub_key_cs, Some(vector("checksum")));
        let key = private_key().unwrap_key(metadata.shared_key_enc.as_deref().unwrap()).unwrap();
        let opened = open(&key, metadata.iv_nonce.as_deref(), sealed.text()).unwrap();
        assert_eq!(opened.as_slice(), b"62.1");
    }

    #[test]
    fn a_damaged_shared_value_fails_in_one_way_whatever_was_damaged() {
        let pair = PairKey::new(AesKey::from_base64(&vector("aes_key")).unwrap(), &public_key());
        let sealed = seal_shared(&pair, Iv::from_bytes([7; 16]), b"sixteen bytes ok");
        let nonce = Iv::from_bytes([7; 16]).to_base64();
        let read = |wrapped: &str, nonce: &str, text: &str| {
            private_key().unwrap_key(wrapped).and_then(|key| open(&key, Some(nonce), text))
        };
        let wrapped = pair.wrapped_for_recipient.as_str();
        assert!(read(wrapped, &nonce, sealed.text()).is_ok());
        for (wrapped, nonce, text) in [
            (vector("bad_padding").as_str(), nonce.as_str(), sealed.text()),
            (&vector("wrapped_empty"), &nonce, sealed.text()),
            ("AAAA", &nonce, sealed.text()),
            (wrapped, "AAAA", sealed.text()),
            (wrapped, &nonce, "AAAA"),
            (wrapped, &nonce, &sealed.text()[4..]),
        ] {
            assert_eq!(read(wrapped, nonce, text), Err(OpenError));
        }
    }

    #[test]
    fn an_iv_gives_ciphertext_away_where_the_flag_is_missing() {
        let with = |is_encrypted, iv_nonce: Option<&str>| Metadata {
            is_encrypted,
            iv_nonce: iv_nonce.map(str::to_owned),
            ..Metadata::default()
        };
        assert!(is_sealed(&with(Some(false), Some("8PHy8/T19vf4+fr7/P3+/w=="))));
        assert!(is_sealed(&with(Some(true), None)));
        assert!(!is_sealed(&with(Some(false), Some("null"))));
        assert!(!is_sealed(&with(None, None)));
    }

    #[test]
    fn a_public_value_is_signed_before_it_is_encoded() {
        for (value, text, encoding) in [
            ("plain text", "plain text", None),
            ("two\nlines", "dHdvCmxpbmVz", Some("base64")),
            ("trailing ", "dHJhaWxpbmcg", Some("base64")),
        ] {
            let plain = Plain::signed(&private_key(), value);
            assert_eq!(plain.text(), text);
            let metadata = described(|m| plain.describe(m));
            assert_eq!(metadata.encoding.as_deref(), encoding);
            assert!(!is_sealed(&metadata));
            assert_eq!(read_public(&metadata, plain.text()).as_deref(), Ok(value));
            assert!(is_signed_by(&public_key(), &metadata, value));
            assert!(!is_signed_by(&public_key(), &metadata, "another"));
        }
        assert!(!is_signed_by(&public_key(), &Metadata::default(), "unsigned"));
    }

    #[test]
    fn an_encoding_that_is_not_there_is_refused() {
        let claims = |encoding: &str| Metadata { encoding: Some(encoding.to_owned()), ..Metadata::default() };
        assert_eq!(read_public(&claims("null"), "text").as_deref(), Ok("text"));
        assert_eq!(read_public(&claims("rot13"), "text"), Err(OpenError));
        assert_eq!(read_public(&claims("base64"), "no base64"), Err(OpenError));
        assert_eq!(read_public(&claims("base64"), "/w=="), Err(OpenError), "not UTF-8");
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_back(key: [u8; 32], iv: [u8; 16], value: Vec<u8>) {
            let key = AesKey::from_bytes(key);
            let sealed = seal_self(&key, Iv::from_bytes(iv), &value);
            let metadata = described(|m| sealed.describe(m));
            let opened = open(&key, metadata.iv_nonce.as_deref(), sealed.text()).unwrap();
            prop_assert_eq!(opened.as_slice(), value);
        }
    }
}
