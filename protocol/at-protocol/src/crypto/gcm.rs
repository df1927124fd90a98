//! AES-256-GCM under random nonces, for what stays with its owner: no other program reads it.
//!
//! Here, since what is generic is compiled where it is used: the agent's package is built for size, this crate for
//! speed.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};

/// Bytes of a nonce (NIST SP 800-38D §8.2.2: random, 96 bits).
pub const GCM_NONCE: usize = 12;
/// Bytes of a key.
pub const GCM_KEY: usize = 32;

/// A key. No `Debug`, no `Clone`, zeroed when dropped.
pub struct GcmKey(Aes256Gcm);

impl GcmKey {
    /// The key of these bytes; `None` if there are not 32.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        Aes256Gcm::new_from_slice(bytes).ok().map(Self)
    }

    /// Nonce, ciphertext, tag: `plain` bound to `about`, which must be known to open it. No nonce may be used twice.
    #[must_use]
    #[inline(never)]
    pub fn seal(&self, nonce: [u8; GCM_NONCE], about: &[u8], plain: &[u8]) -> Vec<u8> {
        let payload = Payload { msg: plain, aad: about };
        let sealed = self.0.encrypt(&Nonce::from(nonce), payload).expect("nothing here has 64 GiB");
        [nonce.as_slice(), &sealed].concat()
    }

    /// What was sealed; `None` if it was not by this key, about something else, or is damaged.
    #[must_use]
    #[inline(never)]
    pub fn open(&self, about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, msg) = sealed.split_first_chunk::<GCM_NONCE>()?;
        self.0.decrypt(&Nonce::from(*nonce), Payload { msg, aad: about }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test case 16 of "The Galois/Counter Mode of Operation" (McGrew, Viega; NIST), AES-256.
    #[test]
    fn it_is_the_gcm_that_everybody_has() {
        let bytes = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        };
        let key =
            GcmKey::new(&bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")).unwrap();
        let nonce = bytes("cafebabefacedbaddecaf888").try_into().unwrap();
        let plain = bytes(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let about = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let sealed = key.seal(nonce, &about, &plain);
        assert_eq!(sealed[sealed.len() - 16..], bytes("76fc6ece0f4e1768cddf8853bb2d551b"));
        assert_eq!(key.open(&about, &sealed), Some(plain));
        assert_eq!(key.open(b"about something else", &sealed), None);
        assert!(GcmKey::new(&[0; 31]).is_none());
    }
}
