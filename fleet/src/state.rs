//! The folder in which a reader keeps who it is and what it has.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use at_client::{Client, Envelopes, Identity};
use at_protocol::caps::Claims;
use atedge_service::files::{make_private_folder, write_private};

use crate::reader::Reader;

/// What a reader announces.
const CLAIMS: Claims = Claims { receipts: true, aead: true, zstd: true };
/// The key by which it vouches for its receipts.
const IDENTITY: &str = "identity.pem";
/// What is known of gateways.
const CAPS: &str = "caps.jsonl";
/// What it has of each lane.
const SEEN: &str = "seen.jsonl";
/// Held while a reader runs.
const LOCK: &str = "lock";

/// A reader's folder, its alone while this lives.
pub struct ReaderState {
    folder: PathBuf,
    _lock: File,
}

impl ReaderState {
    /// The folder, which is made where there is none.
    ///
    /// # Errors
    /// It cannot be used, or another reader uses it.
    pub fn open(folder: &Path) -> Result<Self> {
        let cannot = || format!("cannot use the folder {}", folder.display());
        make_private_folder(folder).with_context(cannot)?;
        let lock = File::create(folder.join(LOCK)).with_context(cannot)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!("another reader keeps its state in {}; give each its own folder", folder.display())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(cannot),
        }
    }

    /// Speaks as the program whose key is kept here.
    ///
    /// # Errors
    /// Its key cannot be read or made.
    pub fn envelopes(&self, client: Client) -> Result<Envelopes> {
        let identity = Identity::open(&self.folder.join(IDENTITY), "watch", CLAIMS)?;
        Ok(Envelopes::new(client, Some(identity), Some(self.folder.join(CAPS))))
    }

    /// What was kept.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn reader(&self) -> Result<Reader> {
        let path = self.folder.join(SEEN);
        if !path.exists() {
            return Ok(Reader::default());
        }
        let lines = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Reader::from_lines(&lines).with_context(|| {
            format!("{} is damaged; move it away, and what comes again is news", path.display())
        })
    }

    /// Keeps what the reader has. When this returns it is on disk, and may be confirmed.
    ///
    /// # Errors
    /// The disk does not take it.
    pub async fn keep(&self, reader: &Reader) -> Result<()> {
        let (path, lines) = (self.folder.join(SEEN), reader.to_lines());
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || write_private(&path, lines.as_bytes())).await;
        written.context("write what was read")?.with_context(|| format!("cannot write {shown}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_one_readers_and_remembers() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("reader");
        let state = ReaderState::open(&folder).unwrap();
        let error = ReaderState::open(&folder).err().unwrap().to_string();
        assert!(error.starts_with("another reader keeps its state in "), "{error}");
        let line = r#"{"gateway":"@gw","device":"oven","stream":"process","boot":"1-0000000000000001","at":0,"had":{"records":[[1,5]],"gaps":[]}}"#;
        let reader = Reader::from_lines(line).unwrap();
        assert_eq!(state.reader().unwrap().to_lines(), "");
        state.keep(&reader).await.unwrap();
        assert_eq!(state.reader().unwrap().to_lines(), reader.to_lines());
        drop(state);
        let state = ReaderState::open(&folder).unwrap();
        std::fs::write(folder.join(SEEN), "no lane").unwrap();
        assert!(state.reader().is_err());
    }
}
