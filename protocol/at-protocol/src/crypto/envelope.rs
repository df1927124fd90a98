//! Envelopes: what two peers of ours put inside the platform's encryption, so that nothing can be altered,
//! moved or passed off as another's on its way.
//!
//! The platform's AES-CTR has no tag (client conventions §9.1). So the plaintext becomes `AE1` and the base64
//! of a flag byte, a nonce and ciphertext with its tag: text, as other SDKs expect to find inside. Sealed with
//! AES-256-GCM (NIST SP 800-38D) under a key that HKDF-SHA256 (RFC 5869) draws from the pair's key, so that no
//! key serves two ciphers. What is authenticated besides: the flag byte, and [`About`].
//!
//! Nonces are 96 random bits: at 2³² envelopes under one pair key the chance that two share one is 2⁻³²
//! (SP 800-38D §8.3), and a pair sends far fewer.
//!
//! An envelope that opens was made by somebody who had the pair's key. That this was `from`, and not one who
//! wrapped a key of his own to `to`, is said by a [`PairStatement`](crate::caps::PairStatement).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use super::{AesKey, OpenError};
use crate::{AtSign, KeyName};

/// What every envelope begins with.
const MAGIC: &[u8] = b"AE1";
/// For which use HKDF draws the key.
const LABEL: &[u8] = b"atedge-aead-1";
/// The flag byte of what was compressed with Zstandard (RFC 8878) before it was sealed.
const COMPRESSED: u8 = 1;
/// Largest content that is compressed, and that decompression makes, in bytes: four times the largest batch of
/// telemetry. A frame that claims or makes more is refused.
pub const MOST_PLAIN: usize = 16 << 20;
/// Zstandard's own default: JSON shrinks to a tenth, at hundreds of megabytes a second.
const LEVEL: i32 = 3;

/// What an envelope belongs to. In another place it does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About<'a> {
    /// Who sends it.
    pub from: &'a AtSign,
    /// For whom it is.
    pub to: &'a AtSign,
    /// The key name of its notification, without atSigns.
    pub name: &'a KeyName,
    /// The id of its notification.
    pub id: &'a str,
}

/// Whether a plaintext is an envelope, and so to be opened once more.
#[must_use]
pub fn is_envelope(plain: &[u8]) -> bool {
    plain.starts_with(MAGIC)
}

/// Puts `plain` into an envelope. `nonce` must be random; `compress` if the reader can undo it.
#[must_use]
pub fn seal(
    pair: &AesKey,
    about: &About<'_>,
    nonce: [u8; NONCE_LEN],
    compress: bool,
    plain: &[u8],
) -> Zeroizing<String> {
    let smaller = compress.then(|| smaller(plain)).flatten();
    let (flag, content) = smaller.as_deref().map_or((0, plain), |smaller| (COMPRESSED, smaller.as_slice()));
    let head = 1 + NONCE_LEN;
    let mut bytes = Zeroizing::new(Vec::with_capacity(head + content.len() + AES_256_GCM.tag_len()));
    bytes.push(flag);
    bytes.extend_from_slice(&nonce);
    bytes.extend_from_slice(content);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key_of(pair)
        .seal_in_place_separate_tag(nonce, Aad::from(about.bound(flag)), &mut bytes[head..])
        .expect("AES-GCM seals whatever fits into memory");
    bytes.extend_from_slice(tag.as_ref());
    let mut text = Zeroizing::new(String::with_capacity(MAGIC.len() + bytes.len().div_ceil(3) * 4));
    text.push_str("AE1");
    STANDARD_NO_PAD.encode_string(&*bytes, &mut text);
    text
}

/// Opens an envelope that [`seal`] made for this place under this key.
///
/// # Errors
/// It is none, was altered or moved, is under another key, or holds more than [`MOST_PLAIN`]: one error for
/// all.
pub fn open(pair: &AesKey, about: &About<'_>, envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let text = envelope.strip_prefix(MAGIC).ok_or(OpenError)?;
    let mut bytes = Zeroizing::new(STANDARD_NO_PAD.decode(text).map_err(|_| OpenError)?);
    let (flag, rest) = bytes.split_first_mut().ok_or(OpenError)?;
    let (nonce, sealed) = rest.split_first_chunk_mut::<NONCE_LEN>().ok_or(OpenError)?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let content =
        key_of(pair).open_in_place(nonce, Aad::from(about.bound(*flag)), sealed).map_err(|_| OpenError)?;
    match *flag {
        0 => Ok(Zeroizing::new(content.to_vec())),
        COMPRESSED => zstd::bulk::decompress(content, MOST_PLAIN).map(Zeroizing::new).map_err(|_| OpenError),
        _ => Err(OpenError),
    }
}

/// The content compressed, where that makes it smaller.
fn smaller(plain: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if plain.len() > MOST_PLAIN {
        return None;
    }
    let compressed = zstd::bulk::compress(plain, LEVEL).ok().map(Zeroizing::new);
    compressed.filter(|compressed| compressed.len() < plain.len())
}

fn key_of(pair: &AesKey) -> LessSafeKey {
    let drawn = Salt::new(HKDF_SHA256, &[]).extract(pair.as_bytes());
    let mut key = Zeroizing::new([0; 32]);
    drawn
        .expand(&[LABEL], &AES_256_GCM)
        .and_then(|okm| okm.fill(&mut *key))
        .expect("HKDF gives 32 bytes as it gives up to 8160");
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).expect("a key of AES-256 has 32 bytes"))
}

impl About<'_> {
    /// The flag byte, then each field behind its length in four bytes: no two places look the same.
    fn bound(&self, flag: u8) -> Vec<u8> {
        let mut bytes = vec![flag];
        for field in [self.from.as_str(), self.to.as_str(), self.name.as_str(), self.id] {
            let length = u32::try_from(field.len()).expect("names and ids are shorter than 4 GiB");
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(field.as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Place {
        from: AtSign,
        to: AtSign,
        name: KeyName,
        id: &'static str,
    }

    impl Place {
        fn new(from: &str, to: &str, name: &str, id: &'static str) -> Self {
            Self { from: from.parse().unwrap(), to: to.parse().unwrap(), name: name.parse().unwrap(), id }
        }

        fn about(&self) -> About<'_> {
            About { from: &self.from, to: &self.to, name: &self.name, id: self.id }
        }
    }

    fn place() -> Place {
        Place::new("@gw", "@ops", "process.oven.tel.plant7", "ae1-1")
    }

    fn pair() -> AesKey {
        AesKey::from_bytes([7; 32])
    }

    #[test]
    fn is_what_other_implementations_make_of_the_same() {
        // Computed with Python's `cryptography`: HKDF, AESGCM.
        let sealed = seal(&pair(), &place().about(), [9; 12], false, b"62.1");
        assert_eq!(*sealed, "AE1AAkJCQkJCQkJCQkJCVhgTmJtfzgbKY3L8RLFyBHk1e35");
        assert_eq!(open(&pair(), &place().about(), sealed.as_bytes()).unwrap().as_slice(), b"62.1");
    }

    #[test]
    fn opens_in_its_place_only() {
        let sealed = seal(&pair(), &place().about(), [1; 12], true, b"62.1");
        for other in [
            Place::new("@gx", "@ops", "process.oven.tel.plant7", "ae1-1"),
            Place::new("@gw", "@opt", "process.oven.tel.plant7", "ae1-1"),
            Place::new("@gw", "@ops", "process.kiln.tel.plant7", "ae1-1"),
            Place::new("@gw", "@ops", "process.oven.tel.plant7", "ae1-2"),
            Place::new("@gwo", "@ps", "process.oven.tel.plant7", "ae1-1"),
            Place::new("@ops", "@gw", "process.oven.tel.plant7", "ae1-1"),
        ] {
            assert_eq!(open(&pair(), &other.about(), sealed.as_bytes()), Err(OpenError));
        }
        let other = AesKey::from_bytes([8; 32]);
        assert_eq!(open(&other, &place().about(), sealed.as_bytes()), Err(OpenError));
    }

    #[test]
    fn what_repeats_itself_is_smaller_and_only_where_asked_for() {
        let plain = "{\"n\":\"temp\",\"v\":21.5}".repeat(100);
        let size = |compress| seal(&pair(), &place().about(), [1; 12], compress, plain.as_bytes()).len();
        assert!(size(true) < plain.len() / 10 && size(false) > plain.len());
    }

    #[test]
    fn a_bomb_is_refused() {
        for (size, fits) in [(MOST_PLAIN, true), (MOST_PLAIN + 1, false)] {
            let bomb = zstd::bulk::compress(&vec![0; size], 1).unwrap();
            let mut bytes = vec![COMPRESSED];
            bytes.extend_from_slice(&[3; 12]);
            bytes.extend_from_slice(&bomb);
            let nonce = Nonce::assume_unique_for_key([3; 12]);
            let aad = Aad::from(place().about().bound(COMPRESSED));
            let tag = key_of(&pair()).seal_in_place_separate_tag(nonce, aad, &mut bytes[13..]).unwrap();
            bytes.extend_from_slice(tag.as_ref());
            let text = format!("AE1{}", STANDARD_NO_PAD.encode(bytes));
            let opened = open(&pair(), &place().about(), text.as_bytes());
            assert_eq!(opened.map(|plain| plain.len()).ok(), fits.then_some(size));
        }
    }

    #[test]
    fn rubbish_is_refused_in_one_way() {
        for text in ["", "AE", "AE1", "AE1?", "AE1AAAA", "AE2AAAA", &format!("AE1{}", "A".repeat(64))] {
            assert_eq!(open(&pair(), &place().about(), text.as_bytes()), Err(OpenError), "{text}");
        }
        assert!(is_envelope(b"AE1") && !is_envelope(b"{\"atedge\":1}"));
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_back(key: [u8; 32], nonce: [u8; 12], compress: bool, plain: Vec<u8>) {
            let sealed = seal(&AesKey::from_bytes(key), &place().about(), nonce, compress, &plain);
            let opened = open(&AesKey::from_bytes(key), &place().about(), sealed.as_bytes()).unwrap();
            prop_assert_eq!(opened.as_slice(), plain);
        }

        #[test]
        fn whatever_is_flipped_is_noticed(compress: bool, plain: Vec<u8>, at: prop::sample::Index, bit in 0..8u8) {
            let sealed = seal(&pair(), &place().about(), [5; 12], compress, &plain);
            let mut bytes = sealed.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(open(&pair(), &place().about(), &bytes), Err(OpenError));
        }

        #[test]
        fn any_bytes_are_opened_or_refused(bytes: Vec<u8>) {
            prop_assert_eq!(open(&pair(), &place().about(), &bytes), Err(OpenError));
        }
    }
}
