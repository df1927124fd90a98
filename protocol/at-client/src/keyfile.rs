//! `.atKeys` files on disk: whole or not there, and for their owner's eyes only.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use at_protocol::AtSign;
use at_protocol::keys::{AtKeys, KeyFileError};
use zeroize::Zeroizing;

/// Largest key file that is read, in bytes; real ones have about 7,000.
const MAX_SIZE: u64 = 256 * 1024;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file is not there.
    #[error("there is no key file {}; make one with `atedge onboard`, or name another", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("cannot read the key file {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("cannot use {}: {source}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyFileError,
    },
    /// The file cannot be written.
    #[error("cannot write the key file {}: {source}; is its folder there, writable and not full?", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where SDKs look for the keys of an atSign: `.atsign/keys/@alice_key.atKeys` in the user's home.
#[must_use]
pub fn default_path(home: &Path, atsign: &AtSign) -> PathBuf {
    home.join(".atsign").join("keys").join(format!("{atsign}_key.atKeys"))
}

/// Reads a key file.
///
/// # Errors
/// See [`KeysError`].
pub fn read(path: &Path) -> Result<AtKeys, KeysError> {
    let failed = |source: io::Error| {
        if source.kind() == io::ErrorKind::NotFound {
            KeysError::Missing(path.to_owned())
        } else {
            KeysError::Read { path: path.to_owned(), source }
        }
    };
    let size = path.metadata().map_err(failed)?.len();
    if size > MAX_SIZE {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large for a key file")));
    }
    let json = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
    AtKeys::parse(&json).map_err(|source| KeysError::Content { path: path.to_owned(), source })
}

/// Writes a key file, mode 0600, over an older one if there is one. After a crash there is the old file or
/// the new one.
///
/// # Errors
/// The folder is not there, not writable, or full.
pub fn write(path: &Path, atsign: &AtSign, keys: &AtKeys) -> Result<(), KeysError> {
    let json = keys.to_json(atsign);
    replace(path, json.as_bytes()).map_err(|source| KeysError::Write { path: path.to_owned(), source })
}

/// Gives a file its final name, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), KeysError> {
    let renamed = std::fs::rename(from, to).and_then(|()| File::open(folder(to))?.sync_all());
    renamed.map_err(|source| KeysError::Write { path: to.to_owned(), source })
}

/// Writes a file, mode 0600, as a whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let private = Permissions::from_mode(0o600);
    let mut file = tempfile::Builder::new().permissions(private).tempfile_in(folder(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The rename itself is durable only once the folder is.
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::keys;

    #[test]
    fn a_key_file_comes_back_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let atsign = "@alice".parse().unwrap();
        let path = default_path(folder.path(), &atsign);
        assert!(path.ends_with(".atsign/keys/@alice_key.atKeys"));
        assert!(matches!(write(&path, &atsign, &keys("@alice")), Err(KeysError::Write { .. })));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        write(&path, &atsign, &keys("@bobby3")).unwrap();
        write(&path, &atsign, &keys("@alice")).unwrap();
        assert_eq!(read(&path).unwrap().pkam.public(), keys("@alice").pkam.public());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_key_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.atKeys");
        let missing = read(&path).err().unwrap().to_string();
        assert!(missing.starts_with(&format!("there is no key file {}; ", path.display())));
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(read(&path), Err(KeysError::Content { .. })));
        std::fs::write(&path, "x".repeat(300_000)).unwrap();
        assert!(matches!(read(&path), Err(KeysError::Read { .. })));
    }
}
