//! The key by which one program of an atSign vouches for what it sends.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use at_protocol::caps::Claims;
use at_protocol::crypto::{Ed25519Public, Ed25519Secret};
use zeroize::Zeroizing;

use crate::{keyfile, random};

/// Largest key file that is read, in bytes; real ones have about 120.
const MAX_SIZE: usize = 4096;

/// A program of an atSign: its own key, its name, and what it can do. The key is zeroed when this is dropped.
pub struct Identity {
    pub(crate) secret: Ed25519Secret,
    pub(crate) name: String,
    pub(crate) claims: Claims,
    /// Whether the key was made just now.
    pub(crate) is_new: bool,
}

/// Why a program has no key of its own.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read the program's key {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than its owner can read the file.
    #[error("the program's key {} is open to others (mode {mode:o}); run `chmod 600` on it", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{} holds no Ed25519 key; move it away and a new one is made", .0.display())]
    Content(PathBuf),
    /// A new key cannot be written.
    #[error("cannot write the program's key {}: {source}; is its folder there, writable and not full?", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Identity {
    /// The program with this key, which somebody else keeps, and has made just now or not.
    #[must_use]
    pub fn new(secret: Ed25519Secret, name: &str, claims: Claims, is_new: bool) -> Self {
        Self { secret, name: name.to_owned(), claims, is_new }
    }

    /// The public half of its key.
    #[must_use]
    pub fn public(&self) -> Ed25519Public {
        self.secret.public()
    }

    /// The program with the key in this file (PKCS#8 in PEM, mode 0600), which is made where there is none.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub fn open(path: &Path, name: &str, claims: Claims) -> Result<Self, IdentityError> {
        let with = |secret, is_new| Self::new(secret, name, claims, is_new);
        let failed = |source| IdentityError::Read { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = random::signing_key();
                let written = keyfile::replace(path, secret.to_pem().as_bytes());
                written.map_err(|source| IdentityError::Write { path: path.to_owned(), source })?;
                return Ok(with(secret, true));
            }
            Err(error) => return Err(failed(error)),
        };
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Open { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(MAX_SIZE));
        file.take(MAX_SIZE as u64).read_to_string(&mut text).map_err(failed)?;
        let secret = Ed25519Secret::from_pem(&text);
        secret.map(|secret| with(secret, false)).map_err(|_| IdentityError::Content(path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.pem");
        let open = || Identity::open(&path, "watch", Claims::default());
        let made = open().unwrap();
        let again = open().unwrap();
        assert_eq!(again.secret.public(), made.secret.public());
        assert!(made.is_new && !again.is_new);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(open(), Err(IdentityError::Open { mode: 0o644, .. })));
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "no key").unwrap();
        assert!(matches!(open(), Err(IdentityError::Content(_))));
        let nowhere = folder.path().join("none/identity.pem");
        assert!(matches!(
            Identity::open(&nowhere, "watch", Claims::default()),
            Err(IdentityError::Write { .. })
        ));
    }
}
