//! The public key that an enrolment signs in with, as an atServer keeps it.

use std::str::FromStr;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};

use super::{Hash, KeyError, RsaPublicKey, encoding};

/// Checks the answer to a challenge. The stored text decides the algorithm, never the request.
#[derive(Clone, Debug)]
pub enum PkamPublicKey {
    /// `rsa2048`: base64 of a SubjectPublicKeyInfo.
    Rsa(RsaPublicKey),
    /// `ecc_secp256r1`, in secure elements.
    Ecc(EccPublicKey),
}

/// A point on secp256r1.
#[derive(Clone, Debug)]
pub struct EccPublicKey(ParsedPublicKey);

impl PkamPublicKey {
    /// Whether `signature` is the base64 that the private half gives for `challenge`. Elliptic curves
    /// always go with SHA-256, so `hash` is for RSA.
    #[must_use]
    pub fn verify(&self, challenge: &str, hash: Hash, signature: &str) -> bool {
        match self {
            Self::Rsa(key) => key.verify(challenge.as_bytes(), hash, signature),
            Self::Ecc(key) => key.verify(challenge.as_bytes(), signature),
        }
    }
}

impl FromStr for PkamPublicKey {
    type Err = KeyError;

    /// Hex of a point gives [`PkamPublicKey::Ecc`], all else must be an RSA key.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        match hex::decode(text) {
            Ok(point) => EccPublicKey::from_point(&point).map(Self::Ecc),
            Err(_) => RsaPublicKey::from_spki_base64(text).map(Self::Rsa),
        }
    }
}

impl EccPublicKey {
    /// Takes an uncompressed point: `04`, X and Y, 65 bytes (SEC 1 §2.3.3).
    fn from_point(point: &[u8]) -> Result<Self, KeyError> {
        if point.len() != 65 {
            return Err(KeyError::NotAPoint);
        }
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map(Self).map_err(|_| KeyError::NotAPoint)
    }

    /// Whether `signature` is base64 of the hex of r and s, 32 bytes each.
    fn verify(&self, message: &[u8], signature: &str) -> bool {
        encoding::decode(signature)
            .and_then(|text| hex::decode(&*text).ok())
            .is_some_and(|signature| self.0.verify_sig(message, &signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::vector;
    use super::*;

    #[test]
    fn the_stored_text_decides_the_algorithm() {
        let rsa = vector("public").parse().unwrap();
        assert!(matches!(rsa, PkamPublicKey::Rsa(_)));
        for text in
            [vector("ecc_public"), vector("ecc_public").to_uppercase(), format!("{}\n", vector("ecc_public"))]
        {
            assert!(matches!(text.parse(), Ok(PkamPublicKey::Ecc(_))), "{text}");
        }
    }

    #[test]
    fn both_kinds_verify_what_their_devices_sign() {
        let challenge = vector("challenge");
        for (key, hash, signature) in [
            ("public", Hash::Sha256, "signature_sha256"),
            ("public", Hash::Sha512, "signature_sha512"),
            ("ecc_public", Hash::Sha256, "ecc_signature"),
            ("ecc_public", Hash::Sha512, "ecc_signature"),
        ] {
            let key: PkamPublicKey = vector(key).parse().unwrap();
            assert!(key.verify(&challenge, hash, &vector(signature)), "{signature}");
            assert!(!key.verify("_another@alice:1f2e", hash, &vector(signature)), "{signature}");
        }
    }

    #[test]
    fn a_damaged_point_signature_does_not_verify() {
        let key: PkamPublicKey = vector("ecc_public").parse().unwrap();
        let hex = encoding::decode(vector("ecc_signature")).unwrap();
        let (mut flipped, zeros) = (hex.clone(), [b'0'; 128]);
        flipped[0] = if hex[0] == b'0' { b'1' } else { b'0' };
        for bad in [&flipped[..], &hex[..126], &zeros[..], b"zz", b""] {
            assert!(!key.verify(&vector("challenge"), Hash::Sha256, &encoding::encode(bad)));
        }
        assert!(!key.verify(&vector("challenge"), Hash::Sha256, "no base64"));
        assert!(!key.verify(&vector("challenge"), Hash::Sha256, &vector("signature_sha256")));
    }

    #[test]
    fn points_off_the_curve_and_other_texts_are_no_keys() {
        let point = vector("ecc_public");
        let off = format!("{}{}", &point[..128], if point.ends_with("00") { "01" } else { "00" });
        let compressed = format!("02{}", &point[2..66]);
        for text in [off.as_str(), &compressed, &point[2..], "04", ""] {
            assert_eq!(text.parse::<PkamPublicKey>().err(), Some(KeyError::NotAPoint), "{text}");
        }
        assert_eq!("no key".parse::<PkamPublicKey>().err(), Some(KeyError::NotBase64));
        assert_eq!(vector("pss_public").parse::<PkamPublicKey>().err(), Some(KeyError::NotRsaPublic));
    }
}
