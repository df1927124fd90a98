//! The one-time proof of who may activate an atSign.

use aws_lc_rs::digest::{SHA512, digest};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What `cram:` carries: lower-case hex of SHA-512 over the secret followed by the challenge.
#[must_use]
pub fn cram_digest(secret: &str, challenge: &str) -> String {
    let mut text = Zeroizing::new(Vec::with_capacity(secret.len() + challenge.len()));
    text.extend_from_slice(secret.as_bytes());
    text.extend_from_slice(challenge.as_bytes());
    hex::encode(digest(&SHA512, &text))
}

/// Whether `digest` proves knowledge of `secret`, in time that does not depend on where they differ.
#[must_use]
pub fn cram_matches(secret: &str, challenge: &str, digest: &str) -> bool {
    cram_digest(secret, challenge).as_bytes().ct_eq(digest.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_other_sdks() {
        let digest = cram_digest("secret123", "_d0e1@alice:1f2e");
        assert_eq!(
            digest,
            "1df818c903a8422ef6c748e0fa93d2be0c0f59ba2a2a286ebb8717b2badc4ca3596e0cf58da4b816430be4c69911a074e24cafd2ea4d9d7b9627d0043a682608"
        );
        assert!(cram_matches("secret123", "_d0e1@alice:1f2e", &digest));
    }

    #[test]
    fn another_secret_or_challenge_does_not_match() {
        let digest = cram_digest("secret123", "_d0e1@alice:1f2e");
        assert!(!cram_matches("secret124", "_d0e1@alice:1f2e", &digest));
        assert!(!cram_matches("secret123", "_d0e1@alice:1f2f", &digest));
        assert!(!cram_matches("secret123", "_d0e1@alice:1f2e", &digest[1..]));
        assert!(!cram_matches("secret123", "_d0e1@alice:1f2e", ""));
    }
}
