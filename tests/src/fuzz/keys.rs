//! Key files and what servers keep of keys; values under a seal.

use at_protocol::AtSign;
use at_protocol::crypto::{AesKey, Hash, Iv, PkamPublicKey, RsaPublicKey};
use at_protocol::keys::AtKeys;

/// A key file that is understood is written so that it is understood again.
pub(super) fn key_file(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(keys) = AtKeys::parse(text) else { return };
    let atsign: AtSign = "@alice".parse().expect("an atSign");
    assert!(AtKeys::parse(&keys.to_json(&atsign)).is_ok());
}

/// A public key as a client registers it, and a signature: two lines.
pub(super) fn pkam_key(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (key, signature) = text.split_once('\n').unwrap_or((text, "c2ln"));
    for hash in [Hash::Sha256, Hash::Sha512] {
        if let Ok(key) = key.parse::<PkamPublicKey>() {
            assert!(!key.verify("never signed by anybody", hash, signature));
        }
        if let Ok(key) = RsaPublicKey::from_spki_base64(key) {
            assert!(!key.verify(b"never signed by anybody", hash, signature));
        }
    }
}

/// A nonce and a sealed value, on two lines. What opens can be sealed to the same text again.
pub(super) fn sealed(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (nonce, sealed) = text.split_once('\n').unwrap_or(("", text));
    let Ok(iv) = Iv::from_nonce((!nonce.is_empty()).then_some(nonce)) else { return };
    let key = AesKey::from_bytes([7; 32]);
    if let Ok(plain) = key.decrypt(&iv, sealed) {
        let again = key.encrypt(&iv, &plain);
        assert_eq!(key.decrypt(&iv, &again).ok().as_deref(), Some(&*plain));
    }
}
