//! The gateway's keys.

use std::os::unix::fs::MetadataExt as _;

use at_protocol::keys::{AtKeys, KeyFileError};
use atedge_adapters::{SecretError, SecretSource};
use zeroize::Zeroizing;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file is not there or cannot be read.
    #[error(transparent)]
    Unreadable(#[from] SecretError),
    /// Others than its owner can read the file.
    #[error("the key file is open to others (mode {mode:o}); run `chmod 600` on it")]
    Open {
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error("the key file is not an .atKeys file: {0}")]
    Malformed(#[from] KeyFileError),
}

/// Reads the `.atKeys` that `source` refers to. A file must be its owner's alone; of a credential, the
/// service manager has made sure.
///
/// # Errors
/// See [`KeysError`].
pub fn load(source: &SecretSource) -> Result<AtKeys, KeysError> {
    let text = Zeroizing::new(source.read()?);
    if let SecretSource::File(path) = source {
        let unreadable = |cause| SecretError::Unreadable { path: path.clone(), cause };
        let mode = path.metadata().map_err(unreadable)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeysError::Open { mode });
        }
    }
    Ok(AtKeys::parse(&text)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_file_is_private_and_holds_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gw.atKeys");
        let source = SecretSource::File(path.clone());
        assert!(matches!(load(&source), Err(KeysError::Unreadable(_))));
        std::fs::write(&path, "{}").unwrap();
        let chmod = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        chmod(0o640);
        assert!(matches!(load(&source), Err(KeysError::Open { mode: 0o640 })));
        chmod(0o600);
        assert!(matches!(load(&source), Err(KeysError::Malformed(_))));
    }
}
