//! Writing a file so that a reader, or the next boot after a power cut, finds the old content or the
//! new one and never a piece of it.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
use std::path::Path;

use tempfile::NamedTempFile;

/// Replaces `path` with `bytes`, readable by its owner only (mode 0600).
///
/// # Errors
/// When the folder does not exist, is not writable, or the disk does not take the bytes; `path` then
/// still holds what it held before.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, 0o600)
}

/// Replaces `path` with `bytes`, readable by everybody whom the umask lets (mode 0644).
///
/// # Errors
/// As [`write_private`].
pub fn write_public(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, 0o644)
}

/// Writes `bytes` to `path`, where there must be nothing yet, readable by its owner only (mode 0600).
///
/// # Errors
/// As [`write_private`], and [`io::ErrorKind::AlreadyExists`].
pub fn create_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    written(folder, bytes, 0o600)?.persist_noclobber(path)?;
    File::open(folder)?.sync_all()
}

/// Makes a folder, and those above it that are missing, for its owner only (mode 0700). One that is there stays as it
/// is.
///
/// # Errors
/// When it cannot be made, or something else has its name.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Overwrites what a file, opened to write, holds. Its blocks may be elsewhere all the same: flash, and file systems
/// that write anew what changes, keep old ones until they need the room.
///
/// # Errors
/// When the disk does not take it.
pub fn wipe(mut file: &File) -> io::Result<()> {
    let size = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(0))?;
    io::copy(&mut io::repeat(0).take(size), &mut file)?;
    file.sync_all()
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = folder_of(path);
    written(folder, bytes, mode)?.persist(path)?;
    // The rename itself is durable only once the folder is.
    File::open(folder)?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The bytes on disk, under a name that nobody looks for.
fn written(folder: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn replaces_the_content_and_the_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_public(&path, b"first, and longer").unwrap();
        write_private(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn what_is_there_is_not_created_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        create_private(&path, b"first").unwrap();
        let refused = create_private(&path, b"second").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn nothing_is_left_of_what_is_wiped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, b"secret").unwrap();
        wipe(&File::options().write(true).open(&path).unwrap()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0; 6]);
    }

    #[test]
    fn a_folder_is_its_owners_unless_it_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("var/state");
        make_private_folder(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o700));
        std::fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
        make_private_folder(&path).unwrap();
        assert_eq!(mode(&path), 0o750);
        write_private(&path.join("file"), b"x").unwrap();
        assert!(make_private_folder(&path.join("file")).is_err());
    }

    #[test]
    fn says_when_the_folder_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_private(&folder.path().join("no/such/file"), b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
