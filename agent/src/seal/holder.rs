//! Who holds the seal key, as far as the machine shows it: what a thief would need.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::CREDENTIAL;

/// Where systemd looks for encrypted credentials (systemd.exec(5)).
const STORES: [&str; 3] =
    ["run/credstore.encrypted", "etc/credstore.encrypted", "usr/lib/credstore.encrypted"];
/// Bytes that say what an encrypted credential is encrypted with, at its beginning.
const KIND: usize = 16;
/// Which those are (systemd's creds-util.h: `CRED_AES256_GCM_BY_…`).
const KINDS: [(Holder, &[u128]); 3] = [
    (
        Holder::HostKey,
        &[0x5a1c_6a86_df9d_4096_b1d5_a65e_0862_f19a, 0x55b9_ed1d_3859_4d43_a831_9d2e_bb33_2ac6],
    ),
    (
        Holder::Tpm,
        &[
            0x0c7c_c07b_1176_4591_9c4b_0bea_08bc_20fe,
            0xfaf7_eb93_41e3_412c_a1a4_36f9_5a29_362f,
            0x93a8_9409_4874_4490_90ca_f2fc_93ca_b553,
            0xef4a_c136_79a9_480e_a7db_6889_7f9f_165d,
            0xaf49_50a8_4913_4eb1_a738_4630_4ff3_0c05,
            0xadbc_4ca3_efb6_4201_ba88_1b6f_2e40_95ea,
        ],
    ),
    (Holder::Nobody, &[0x0584_69da_f6f5_4324_8005_49da_0f8e_a2fb]),
];

/// Who holds the key that encrypts the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The chip of this machine, alone or beside the host key.
    Tpm,
    /// The host key: a file of this machine's, root's alone.
    HostKey,
    /// It is encrypted with a key that everybody knows.
    Nobody,
    /// It is there, and this user may not look at it, or it is of a kind that is not known.
    Unknown,
}

impl Holder {
    /// Who holds the credential that is stored under `root`; `None` if none is.
    #[must_use]
    pub fn of_credential(root: &Path) -> Option<Self> {
        for store in STORES {
            let mut text = String::new();
            let path = root.join(store).join(CREDENTIAL);
            // Base64 of the kind, in full groups of four.
            let read = File::open(path).and_then(|file| file.take(24).read_to_string(&mut text));
            match read {
                Ok(_) => return Some(Self::of(&text)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(_) => return Some(Self::Unknown),
            }
        }
        None
    }

    fn of(text: &str) -> Self {
        let bytes = STANDARD.decode(text).unwrap_or_default();
        let kind = bytes.first_chunk::<KIND>().map(|kind| u128::from_be_bytes(*kind));
        let is = |(_, kinds): &&(Self, &[u128])| kind.is_some_and(|kind| kinds.contains(&kind));
        KINDS.iter().find(is).map_or(Self::Unknown, |(holder, _)| *holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_credential_says_who_holds_it() {
        // Made by systemd-creds 252 with `--with-key=host`; the second is the example of systemd's CREDENTIALS page.
        assert_eq!(Holder::of("Whxqht+dQJax1aZeCGLxmiAA"), Holder::HostKey);
        assert_eq!(Holder::of("k6iUCUh0RJCQyvL8k8q1UyAA"), Holder::Tpm);
        assert_eq!(Holder::of("BYRp2vb1QySABUnaD46i+yAA"), Holder::Nobody);
        assert_eq!(Holder::of("AAAAAAAAAAAAAAAAAAAAAAAA"), Holder::Unknown);
        assert_eq!(Holder::of("short"), Holder::Unknown);
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Holder::of_credential(root.path()), None);
        let store = root.path().join("etc/credstore.encrypted");
        std::fs::create_dir_all(&store).unwrap();
        std::fs::write(store.join(CREDENTIAL), "Whxqht+dQJax1aZeCGLxmiAAAAABAAAADAAAABAAAAAAAAAA").unwrap();
        assert_eq!(Holder::of_credential(root.path()), Some(Holder::HostKey));
    }
}
