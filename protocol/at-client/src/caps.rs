//! What peers can do, looked up once a day and remembered: what was believed once binds.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use at_protocol::caps::{CAPS, CapsFault, Found, Trusted};
use at_protocol::crypto::seal;
use at_protocol::metadata::RecordMetadata;
use at_protocol::response::ErrorCode;
use at_protocol::verb::{PLookup, Shape, Verb};
use at_protocol::{AtSign, KeyName, Timestamp};
use serde::Deserialize;
use tokio::time::Instant;

use crate::client::Client;
use crate::keyfile;
use crate::peers::{PairError, public_key};
use crate::requests::AskError;

/// How long a record is good before it is looked up again.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long it is good that a peer has none: after this, at the latest, peers know what is announced.
pub const LEARNT_WITHIN: Duration = Duration::from_secs(5 * 60);
/// The same where something waits for the peer to have one, and for a fault to be mended.
const SOON: Duration = Duration::from_secs(10);
/// How long a peer that is known is not looked up again when that has failed: its server may be down, and each
/// look-up takes its time.
const QUIET: Duration = Duration::from_secs(60);
/// Peers that are remembered. Those without a record are forgotten first; with this many that have one, nothing
/// is sent to a further one, nor taken from it.
const MAX_PEERS: usize = 4096;

/// What is believed of peers, on disk too where a file was given.
pub(crate) struct KnownCaps {
    file: Option<PathBuf>,
    peers: Mutex<HashMap<AtSign, Known>>,
    /// Held while the file is written, so that the newest is written last.
    writing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Default)]
struct Known {
    trusted: Option<Arc<Trusted>>,
    fault: Option<CapsFault>,
    looked: Option<Instant>,
    /// Until then nothing is asked, as the last look-up has failed.
    quiet_until: Option<Instant>,
}

/// Why it is not known what a peer can do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    #[error(transparent)]
    Fault(#[from] CapsFault),
    #[error(transparent)]
    Ask(#[from] AskError),
    /// More peers than are remembered.
    #[error("too many peers are known")]
    Full,
}

/// `plookup:all:`.
#[derive(Deserialize)]
struct Answer {
    data: Option<String>,
    #[serde(rename = "metaData", default)]
    metadata: RecordMetadata,
}

impl KnownCaps {
    /// What `file` remembers, if there is one. What cannot be read in it is said and left out.
    pub(crate) fn open(file: Option<PathBuf>) -> Self {
        let text = match file.as_ref().map(std::fs::read_to_string) {
            Some(Ok(text)) => text,
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, "what was known of peers is lost");
                String::new()
            }
            Some(Err(_)) | None => String::new(),
        };
        let mut peers = HashMap::new();
        for line in text.lines().take(MAX_PEERS) {
            match line.parse::<Trusted>() {
                Ok(trusted) => {
                    let peer = trusted.caps().atsign.clone();
                    peers.insert(peer, Known { trusted: Some(Arc::new(trusted)), ..Known::default() });
                }
                Err(error) => tracing::error!(%error, "what was known of a peer is lost"),
            }
        }
        Self { file, peers: Mutex::new(peers), writing: Arc::default() }
    }

    /// What `peer` can do; `None` if it says nothing. `is_awaited` where that would not do.
    pub(crate) async fn of(
        &self,
        client: &Client,
        peer: &AtSign,
        is_awaited: bool,
    ) -> Result<Option<Arc<Trusted>>, Unknown> {
        let known = self.known(peer);
        let good = match &known {
            Known { fault: Some(_), .. } => SOON,
            Known { trusted: Some(_), .. } => DAY,
            Known { .. } if is_awaited => SOON,
            Known { .. } => LEARNT_WITHIN,
        };
        let is_quiet = known.quiet_until.is_some_and(|quiet_until| Instant::now() < quiet_until);
        if !is_quiet && known.looked.is_none_or(|looked| looked.elapsed() >= good) {
            match look_up(client, peer).await {
                Ok(found) => self.judge(peer, found).await,
                // Better what was known than no word to a peer whose server is down, or ours.
                Err(_) if known.trusted.is_some() => self.remember(peer, |known| {
                    known.quiet_until = Some(Instant::now() + QUIET);
                }),
                // A server that answers strangely to a record that it has not heard of.
                Err(AskError::Refused { .. }) if !is_awaited => self.remember(peer, |known| {
                    known.looked = Some(Instant::now());
                }),
                Err(error) => return Err(error.into()),
            }
        }
        let known = self.known(peer);
        if known.looked.is_none() && known.trusted.is_none() {
            return Err(Unknown::Full);
        }
        if let Some(fault) = known.fault {
            return Err(fault.into());
        }
        if let Some(trusted) = &known.trusted {
            trusted.lasts(now())?;
        }
        Ok(known.trusted)
    }

    async fn judge(&self, peer: &AtSign, found: Option<Found>) {
        let known = self.known(peer);
        match Trusted::follow(known.trusted.as_deref(), found, peer, now()) {
            Ok(trusted) => {
                if known.fault.is_some() {
                    tracing::info!(%peer, "what it can do is clear again");
                }
                let news = trusted.as_ref() != known.trusted.as_deref();
                self.remember(peer, |known| {
                    let (trusted, looked) = (trusted.map(Arc::new), Some(Instant::now()));
                    *known = Known { trusted, looked, ..Known::default() };
                });
                if news {
                    self.write().await;
                }
            }
            Err(fault) => {
                if known.fault != Some(fault) {
                    tracing::error!(%peer, %fault, "holding what is for this peer: does its server, or ours, lie?");
                }
                self.remember(peer, |known| {
                    known.fault = Some(fault);
                    known.looked = Some(Instant::now());
                });
            }
        }
    }

    fn known(&self, peer: &AtSign) -> Known {
        self.lock().get(peer).cloned().unwrap_or_default()
    }

    fn remember(&self, peer: &AtSign, change: impl FnOnce(&mut Known)) {
        let mut peers = self.lock();
        if peers.len() >= MAX_PEERS && !peers.contains_key(peer) {
            peers.retain(|_, known| known.trusted.is_some());
            if peers.len() >= MAX_PEERS {
                return;
            }
        }
        change(peers.entry(peer.clone()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AtSign, Known>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what is believed on disk.
    async fn write(&self) {
        let Some(path) = self.file.clone() else { return };
        let writing = Arc::clone(&self.writing).lock_owned().await;
        let mut lines: Vec<String> =
            self.lock().values().filter_map(|known| Some(format!("{}\n", known.trusted.as_ref()?))).collect();
        lines.sort_unstable();
        let write = move || {
            if let Err(error) = keyfile::replace(&path, lines.concat().as_bytes()) {
                tracing::error!(file = %path.display(), %error, "what is known of peers is not kept for the next start");
            }
            drop(writing);
        };
        // It waits for the disk; a panic in there is in the log already.
        drop(tokio::task::spawn_blocking(write).await);
    }
}

/// What the peer's server, or ours in its name, shows now.
async fn look_up(client: &Client, peer: &AtSign) -> Result<Option<Found>, AskError> {
    let name: KeyName = CAPS.parse().expect("a key name");
    let lookup = PLookup { name, owner: peer.clone(), shape: Shape::All, bypass_cache: true };
    let found = match client.own().look(Verb::PLookup(lookup)).await {
        Err(error) if error.code() == Some(ErrorCode::SecondaryNotFound) => None,
        found => found?,
    };
    let Some(json) = found else { return Ok(None) };
    let Ok(Answer { data: Some(text), metadata }) = serde_json::from_str::<Answer>(&json) else {
        return Ok(None);
    };
    let owner = match public_key(client.own(), peer).await {
        Ok(key) => key.to_base64().to_owned(),
        Err(PairError::Ask(error)) => return Err(error),
        Err(PairError::NoPublicKey { .. } | PairError::BadPublicKey { .. } | PairError::Damaged { .. }) => {
            String::new()
        }
    };
    Ok(Some(Found {
        // What claims an encoding that it has not is no record; as it stands, nobody has signed it.
        text: seal::read_public(&metadata.set, &text).unwrap_or(text),
        signature: metadata.set.data_signature.unwrap_or_default(),
        owner,
    }))
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_without_a_record_are_forgotten() {
        let known = KnownCaps::open(None);
        let peer = |number: usize| format!("@peer{number}").parse::<AtSign>().unwrap();
        for number in 0..=MAX_PEERS {
            known.remember(&peer(number), |known| known.looked = Some(Instant::now()));
        }
        assert_eq!(known.lock().len(), 1);
        assert!(known.known(&peer(MAX_PEERS)).looked.is_some());
    }
}
