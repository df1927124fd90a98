//! The signed records that were believed, in a file: a directory that is set back while we are not running
//! cannot misdirect us afterwards, and one that is down is not needed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use at_client::RecordKeeper;
use at_protocol::AtSign;
use at_protocol::directory::{SignedRecord, VerifiedRecord};
use atedge_service::files::write_private;
use tracing::{error, warn};

/// One record a line. There are as many as atServers that this agent asks for: few.
pub struct RecordFile {
    path: PathBuf,
    /// Held while the file is written, so that the newest is written last.
    known: Arc<Mutex<BTreeMap<AtSign, SignedRecord>>>,
}

impl RecordFile {
    /// Reads the file, if there is one. What cannot be read in it is said and left out: the directory is asked
    /// again.
    #[must_use]
    pub fn open(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut known = BTreeMap::new();
        for line in text.lines() {
            match line.parse::<SignedRecord>() {
                Ok(record) => drop(known.insert(record.atsign.clone(), record)),
                Err(error) => warn!(file = %path.display(), %error, "a record is lost"),
            }
        }
        Self { path, known: Arc::new(Mutex::new(known)) }
    }

    /// What is in it.
    #[must_use]
    pub fn records(&self) -> Vec<SignedRecord> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl RecordKeeper for RecordFile {
    fn keep<'a>(&'a self, record: &'a Arc<VerifiedRecord>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        let (path, known) = (self.path.clone(), Arc::clone(&self.known));
        let record = SignedRecord::clone(record);
        Box::pin(async move {
            let write = move || {
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(record.atsign.clone(), record);
                let lines: String = known.values().map(|record| format!("{record}\n")).collect();
                if let Err(error) = write_private(&path, lines.as_bytes()) {
                    error!(file = %path.display(), %error, "a record is not kept for the next start");
                }
            };
            // It waits for the disk; a panic in there is in the log already.
            drop(tokio::task::spawn_blocking(write).await);
        })
    }
}

#[cfg(test)]
mod tests {
    use at_protocol::Timestamp;
    use at_protocol::crypto::Ed25519Secret;
    use at_protocol::directory::{Grant, Location, Registrar, Registrars};
    use zeroize::Zeroizing;

    use super::*;

    fn record(atsign: &str, seq: u64) -> Arc<VerifiedRecord> {
        let key = Ed25519Secret::from_seed(&Zeroizing::new([7; 32]));
        let not_after = Timestamp::from_millis(4_000_000_000_000);
        let grant = Grant::sign(&key, key.public(), vec!["*".parse().unwrap()], not_after);
        let at = Location { address: "node.example:6464".parse().unwrap(), quic: 6464, seq, not_after };
        let record = SignedRecord::sign(&key, atsign.parse().unwrap(), at, grant);
        let registrars = Registrars::new(vec![Registrar { key: key.public(), atsigns: Vec::new() }]);
        Arc::new(registrars.verify(record, Timestamp::from_millis(0)).unwrap())
    }

    #[tokio::test]
    async fn what_is_kept_is_there_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        let file = RecordFile::open(path.clone());
        assert!(file.records().is_empty());
        for record in [record("@alice", 1), record("@bob", 4), record("@alice", 2)] {
            file.keep(&record).await;
        }
        let numbers =
            |file: &RecordFile| file.records().iter().map(|record| record.at.seq).collect::<Vec<_>>();
        assert_eq!(numbers(&RecordFile::open(path.clone())), [2, 4]);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, whole.replacen('{', "", 1)).unwrap();
        assert_eq!(numbers(&RecordFile::open(path)), [4]);
    }
}
