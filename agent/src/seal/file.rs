//! Files of the agent's own, sealed where they lie.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use at_protocol::keys::SEALED;
use atedge_service::files::{wipe, write_private};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Seal;

/// Largest file that is read, in bytes; key files have about 7,000, sealed ones 10,000.
const MOST: u64 = 256 * 1024;

/// What a file is, which it is bound to: one cannot stand for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The keys of an atSign.
    AtKeys,
    /// The key by which the agent vouches for what it sends.
    Identity,
}

impl What {
    const fn about(self) -> &'static [u8] {
        match self {
            Self::AtKeys => b"atedge keys of an atSign",
            Self::Identity => b"atedge identity",
        }
    }
}

/// What is in a file.
pub enum Content {
    /// As it was written by whoever made it.
    Plain(Zeroizing<String>),
    /// Sealed.
    Sealed(Vec<u8>),
}

/// How an opened file lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lies {
    /// Everybody who has it can read it.
    Plain,
    /// Sealed with a key that a credential has taken over from.
    UnderFormer,
    /// Sealed.
    Sealed,
}

impl Content {
    /// Reads the file, and its permission bits.
    ///
    /// # Errors
    /// When it cannot be read as text, or is far too large.
    pub fn read(path: &Path) -> io::Result<(Self, u32)> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        // Never grown, which would leave copies behind.
        let mut text =
            Zeroizing::new(String::with_capacity(usize::try_from(meta.len().min(MOST)).unwrap_or(0) + 1));
        if file.take(MOST + 1).read_to_string(&mut text)? as u64 > MOST {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large"));
        }
        Ok((Self::of(text), meta.mode() & 0o777))
    }

    /// What this text is.
    pub fn of(text: Zeroizing<String>) -> Self {
        match text.strip_prefix(SEALED) {
            // What is no base64 does not open either.
            Some(sealed) => Self::Sealed(STANDARD.decode(sealed.trim_end()).unwrap_or_default()),
            None => Self::Plain(text),
        }
    }

    /// The text, and how it lies there; `None` if this key does not open it, or it is damaged.
    pub fn open(self, seal: &Seal, what: What) -> Option<(Zeroizing<String>, Lies)> {
        match self {
            Self::Plain(text) => Some((text, Lies::Plain)),
            Self::Sealed(sealed) => {
                let (plain, former) = seal.open_sealed(what.about(), &sealed)?;
                let text = Zeroizing::new(std::str::from_utf8(&plain).ok()?.to_owned());
                Some((text, if former { Lies::UnderFormer } else { Lies::Sealed }))
            }
        }
    }
}

/// Seals `text` into the file, which is replaced as a whole. What was there before is overwritten, as far as a file
/// can be: flash and some file systems keep old blocks.
///
/// # Errors
/// As [`write_private`]; the file is as it was then.
pub fn write(path: &Path, seal: &Seal, what: What, text: &str) -> io::Result<()> {
    let before = File::options().write(true).open(path).ok();
    let sealed = STANDARD.encode(seal.seal(what.about(), text.as_bytes()));
    write_private(path, format!("{SEALED}{sealed}\n").as_bytes())?;
    match before {
        // One that has another name still is somebody's copy.
        Some(file) if file.metadata().is_ok_and(|meta| meta.nlink() == 0) => wipe(&file),
        _ => Ok(()),
    }
}

/// Seals anew the key files below `folder` that were sealed with a key that a credential has taken over from.
///
/// # Errors
/// When one of the files cannot be written; those after it are as they were.
pub fn follow(folder: &Path, seal: &Seal) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            follow(&path, seal)?;
        }
        // Of no other file here may a descriptor be closed: with it would go the locks that SQLite has on the queue.
        let is_key_file = path.extension().is_some_and(|name| name == "atKeys" || name == "pem");
        if !kind.is_file() || !is_key_file {
            continue;
        }
        let Ok((Content::Sealed(sealed), _)) = Content::read(&path) else { continue };
        for what in [What::AtKeys, What::Identity] {
            if let Some((text, Lies::UnderFormer)) = Content::Sealed(sealed.clone()).open(seal, what) {
                write(&path, seal, what, &text)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::super::tests::pass;
    use super::*;
    use crate::clock::Stamp;
    use crate::payload::ClockState;

    #[test]
    fn a_search_for_what_is_sealed_takes_no_lock_from_the_queue() {
        let folder = tempfile::tempdir().unwrap();
        let options = crate::outbox::OutboxOptions::new(folder.path(), std::collections::BTreeMap::new());
        let now = Stamp { wall_us: 0, mono_us: 0, state: ClockState::Sync };
        let opened = crate::outbox::Outbox::open(options, now).unwrap();
        let shared = folder.path().join("outbox.db-shm").metadata().unwrap().ino();
        let locks = || {
            let all = std::fs::read_to_string("/proc/locks").unwrap();
            let ours = format!(" {} ", std::process::id());
            all.lines().filter(|lock| lock.contains(&ours) && lock.contains(&format!(":{shared} "))).count()
        };
        let before = locks();
        assert!(before > 0, "the queue is open");
        follow(folder.path(), &opened.seal).unwrap();
        assert_eq!(locks(), before);
    }

    #[test]
    fn a_file_is_sealed_where_it_lies_and_opens_as_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder: folder.path().to_owned(), credentials: None };
        let seal = Seal::open(place).ok().unwrap();
        let path = folder.path().join("x.atKeys");
        std::fs::write(&path, "a secret").unwrap();
        let copy = folder.path().join("copy");
        std::fs::hard_link(&path, &copy).unwrap();
        let open = |what| {
            Content::read(&path).unwrap().0.open(&seal, what).map(|(text, lies)| (text.to_string(), lies))
        };
        assert_eq!(open(What::AtKeys), Some(("a secret".to_owned(), Lies::Plain)));
        write(&path, &seal, What::AtKeys, "a secret").unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains("secret"));
        assert_eq!(open(What::AtKeys), Some(("a secret".to_owned(), Lies::Sealed)));
        assert_eq!(open(What::Identity), None);
        assert_eq!(std::fs::read_to_string(&copy).unwrap(), "a secret", "another name is another's");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let mut bent = std::fs::read(&path).unwrap();
        bent[SEALED.len() + 30] ^= 1;
        std::fs::write(&path, bent).unwrap();
        assert_eq!(open(What::AtKeys), None);
        std::fs::write(&path, "x".repeat(300_000)).unwrap();
        assert!(Content::read(&path).is_err());
    }

    #[test]
    fn key_files_follow_a_credential_and_no_other_file_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = Place { folder: folder.path().to_owned(), credentials: None };
        let before = Seal::open(place.clone()).ok().unwrap();
        let paths = ["keys/x.atKeys", "outbox.db"].map(|name| folder.path().join(name));
        std::fs::create_dir(folder.path().join("keys")).unwrap();
        paths.iter().for_each(|path| write(path, &before, What::AtKeys, "a secret").unwrap());
        pass(&mut place, 7);
        let seal = Seal::open(place).ok().unwrap();
        let lie = |path| Content::read(path).unwrap().0.open(&seal, What::AtKeys).map(|(_, lies)| lies);
        follow(folder.path(), &seal).unwrap();
        assert_eq!(paths.each_ref().map(|path| lie(path)), [Some(Lies::Sealed), Some(Lies::UnderFormer)]);
    }
}
