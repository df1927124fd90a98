//! What other implementations made, for the tests of this crate.

use serde_json::{Map, Value};

use super::{RsaPrivateKey, RsaPublicKey};

/// The text of this name in `fixtures/vectors.json`.
pub(crate) fn vector(name: &str) -> String {
    let all: Map<String, Value> = serde_json::from_str(include_str!("../../fixtures/vectors.json")).unwrap();
    all[name].as_str().unwrap().to_owned()
}

/// The encryption key of the fixtures.
pub(crate) fn private_key() -> RsaPrivateKey {
    RsaPrivateKey::from_pkcs8_base64(&vector("private")).unwrap()
}

/// Its public half, as Python wrote it.
pub(crate) fn public_key() -> RsaPublicKey {
    RsaPublicKey::from_spki_base64(&vector("public")).unwrap()
}
