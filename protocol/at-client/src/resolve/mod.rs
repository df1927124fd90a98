//! Finding an atSign's atServer: look-ups in a directory, checked where a registrar is trusted, remembered.

mod talk;

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{
    Address, Distrust, EXTENDED, InvalidAddress, InvalidRecord, Registrars, SignedRecord, VerifiedRecord,
    answer, question, record_answer, record_question,
};
use at_protocol::{AtSign, Timestamp};
use tokio::time::Instant;

use crate::tls::{ClientTls, DialError};
use talk::{PATIENCE, Talk};

/// How long an answer is used without asking again; other SDKs do the same (wire reference §1.3).
const FRESH: Duration = Duration::from_secs(60 * 60);
/// How long the last good answer is used before a directory that is down, or not believed, is asked again.
const STALE: Duration = Duration::from_secs(10);
/// Pauses before the further attempts.
const RETRIES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// A directory and what it has answered. Share it: one per process and directory is enough.
///
/// Where registrars are trusted ([`Directory::trusting`]), signed records are asked for and checked. An
/// atSign of which a record was once believed, or which a registrar calls its own, is found by its records
/// and by nothing else from then on: a directory that lies, or one that was set back, can refuse, but not
/// misdirect.
pub struct Directory {
    address: Address,
    tls: ClientTls,
    trust: Option<Trust>,
    known: Mutex<HashMap<AtSign, Known>>,
    /// Connections for further questions, and how many are kept.
    idle: Mutex<Vec<Talk>>,
    most_idle: usize,
    refused: AtomicU64,
}

struct Trust {
    registrars: Registrars,
    keeper: Arc<dyn RecordKeeper>,
}

/// Where an atSign is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Host and TCP port.
    pub address: Address,
    /// The record that says so, if there is one to be believed.
    pub record: Option<Arc<VerifiedRecord>>,
}

/// Keeps the records that were believed for longer than the process lives.
pub trait RecordKeeper: Send + Sync {
    /// Keeps a record, in the place of an older one of the same atSign. What fails is the keeper's to report.
    fn keep<'a>(&'a self, record: &'a Arc<VerifiedRecord>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// What was once answered. It is kept after it is stale, for when the directory is down.
struct Known {
    address: Address,
    /// The newest record that was ever believed, which may be over.
    record: Option<Arc<VerifiedRecord>>,
    fresh_until: Instant,
}

/// Why an atSign's server was not found.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The directory cannot be reached.
    #[error("cannot ask the directory: {0}")]
    Dial(#[from] DialError),
    /// The directory ended the connection before it answered.
    #[error("the directory {directory} broke off: {source}")]
    Io {
        /// Which directory.
        directory: Address,
        /// What happened.
        source: io::Error,
    },
    /// The directory did not answer.
    #[error("the directory {directory} did not answer within {PATIENCE:?}")]
    Silent {
        /// Which directory.
        directory: Address,
    },
    /// The answer is no address.
    #[error("the directory {directory} gave a strange answer: {source}; is it an atDirectory?")]
    Answer {
        /// Which directory.
        directory: Address,
        /// What it said.
        source: InvalidAddress,
    },
    /// The answer is no record.
    #[error("the directory {directory} gave a strange answer: {source}")]
    Record {
        /// Which directory.
        directory: Address,
        /// What it said.
        source: InvalidRecord,
    },
    /// The answer is a record that is not to be believed.
    #[error("the directory {directory} misdirects about {atsign}: {source}; nobody is asked there")]
    Distrusted {
        /// Which directory.
        directory: Address,
        /// About whom.
        atsign: AtSign,
        /// Why.
        source: Distrust,
    },
    /// There should be a record, and the directory has none.
    #[error(
        "the directory {directory} has no signed record of {atsign}, which must have one; ask who runs its node"
    )]
    Unsigned {
        /// Which directory.
        directory: Address,
        /// Of whom.
        atsign: AtSign,
    },
}

impl ResolveError {
    /// Whether trying again may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_transient(),
            Self::Io { .. } | Self::Silent { .. } | Self::Answer { .. } | Self::Record { .. } => true,
            // Once the directory is what it was.
            Self::Distrusted { .. } | Self::Unsigned { .. } => true,
        }
    }
}

impl Found {
    /// The key of the node that serves it, to which connections are pinned.
    #[must_use]
    pub fn node(&self) -> Option<&Ed25519Public> {
        self.record.as_ref().map(|record| record.node())
    }
}

impl From<Arc<VerifiedRecord>> for Found {
    fn from(record: Arc<VerifiedRecord>) -> Self {
        Self { address: record.at.address.clone(), record: Some(record) }
    }
}

impl Directory {
    /// A directory at `address`, which is believed. Nothing is asked yet.
    #[must_use]
    pub fn new(address: Address, tls: ClientTls) -> Self {
        Self {
            address,
            tls,
            trust: None,
            known: Mutex::default(),
            idle: Mutex::default(),
            most_idle: 0,
            refused: AtomicU64::new(0),
        }
    }

    /// Believes signed records only, wherever there are any. `kept` are those that `keeper` was given before.
    #[must_use]
    pub fn trusting(
        mut self,
        registrars: Registrars,
        kept: impl IntoIterator<Item = SignedRecord>,
        keeper: Arc<dyn RecordKeeper>,
    ) -> Self {
        self.tls = self.tls.speaking(EXTENDED);
        let mut known = HashMap::new();
        for record in kept {
            // What is over is still the newest that was seen.
            let Ok(record) = registrars.verify(record, Timestamp::from_millis(0)) else { continue };
            let record = Arc::new(record);
            let entry = Known {
                address: record.at.address.clone(),
                record: Some(Arc::clone(&record)),
                fresh_until: Instant::now(),
            };
            known.insert(record.atsign.clone(), entry);
        }
        self.known = Mutex::new(known);
        self.trust = Some(Trust { registrars, keeper });
        self
    }

    /// Keeps up to so many connections open for further questions: for who asks about many.
    #[must_use]
    pub fn keeping(mut self, connections: usize) -> Self {
        self.most_idle = connections;
        self
    }

    /// Where the directory is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How many records were not believed.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Where the atServer of `atsign` is, or `None` if the directory does not know the atSign.
    ///
    /// Answers are used for an hour, and beyond that while the directory does not answer, or not to be
    /// believed.
    ///
    /// # Errors
    /// The directory did not answer, three times, or is not believed, and nothing good is known.
    pub async fn find(&self, atsign: &AtSign) -> Result<Option<Found>, ResolveError> {
        let now = Instant::now();
        if let Some(found) = self.remembered(atsign, |known| now < known.fresh_until) {
            return Ok(Some(found));
        }
        match self.ask_again_and_again(atsign).await {
            Ok(Some(found)) => {
                self.remember(atsign, &found).await;
                Ok(Some(found))
            }
            Ok(None) => {
                self.known().remove(atsign);
                Ok(None)
            }
            Err(error) => match self.remembered(atsign, |_| true) {
                Some(found) => {
                    if let Some(known) = self.known().get_mut(atsign) {
                        known.fresh_until = Instant::now() + STALE;
                    }
                    tracing::debug!(%atsign, address = %found.address, %error, "using the last known address");
                    Ok(Some(found))
                }
                None => Err(error),
            },
        }
    }

    /// The address of `atsign` did not serve: the directory will be asked before it is used again.
    pub fn suspect(&self, atsign: &AtSign) {
        if let Some(known) = self.known().get_mut(atsign) {
            known.fresh_until = Instant::now();
        }
    }

    /// The record of an atSign that is believed now, without asking anybody.
    #[must_use]
    pub fn record(&self, atsign: &AtSign) -> Option<Arc<VerifiedRecord>> {
        self.remembered(atsign, |_| true)?.record
    }

    /// Whether an atSign is found by signed records only: one was believed before, or a registrar calls it its
    /// own.
    #[must_use]
    pub fn is_bound(&self, atsign: &AtSign) -> bool {
        let Some(trust) = &self.trust else { return false };
        trust.registrars.govern(atsign)
            || self.known().get(atsign).is_some_and(|known| known.record.is_some())
    }

    /// Takes a record that came another way than from the directory, such as from the node itself.
    ///
    /// # Errors
    /// It is not believed.
    pub async fn tell(&self, record: SignedRecord) -> Result<Arc<VerifiedRecord>, Distrust> {
        let atsign = record.atsign.clone();
        let record = self.check(&atsign, record)?;
        self.remember(&atsign, &Found::from(Arc::clone(&record))).await;
        Ok(record)
    }

    fn remembered(&self, atsign: &AtSign, is_good: impl Fn(&Known) -> bool) -> Option<Found> {
        let known = self.known();
        let known = known.get(atsign).filter(|known| is_good(known))?;
        match &known.record {
            Some(record) => record.holds_at(wall()).then(|| Found::from(Arc::clone(record))),
            None => Some(Found { address: known.address.clone(), record: None }),
        }
    }

    async fn remember(&self, atsign: &AtSign, found: &Found) {
        let fresh = Known {
            address: found.address.clone(),
            record: found.record.clone(),
            fresh_until: Instant::now() + FRESH,
        };
        let is_new = {
            let mut known = self.known();
            let before = known.get(atsign).and_then(|known| known.record.as_ref());
            // Another look-up may have brought a newer one meanwhile.
            let is_newer =
                |record: &Arc<VerifiedRecord>| before.is_none_or(|old| record.at.seq >= old.at.seq);
            if !found.record.as_ref().map_or(before.is_none(), is_newer) {
                return;
            }
            let is_new = found.record.as_ref() != before;
            known.insert(atsign.clone(), fresh);
            is_new
        };
        if let (true, Some(record), Some(trust)) = (is_new, &found.record, &self.trust) {
            trust.keeper.keep(record).await;
        }
    }

    async fn ask_again_and_again(&self, atsign: &AtSign) -> Result<Option<Found>, ResolveError> {
        let kept = self.idle().pop();
        if let Some(talk) = kept.filter(Talk::is_fresh) {
            match self.ask(talk, atsign).await {
                // It may have been closed at the other end.
                Err(ResolveError::Io { .. } | ResolveError::Silent { .. }) => {}
                decided => return decided,
            }
        }
        for pause in RETRIES {
            match self.ask_anew(atsign).await {
                Err(error @ (ResolveError::Distrusted { .. } | ResolveError::Unsigned { .. })) => {
                    return Err(error);
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(directory = %self.address, %error, "asking the directory again");
                    tokio::time::sleep(pause).await;
                }
                decided => return decided,
            }
        }
        self.ask_anew(atsign).await
    }

    async fn ask_anew(&self, atsign: &AtSign) -> Result<Option<Found>, ResolveError> {
        self.ask(Talk::open(&self.address, &self.tls).await?, atsign).await
    }

    async fn ask(&self, mut talk: Talk, atsign: &AtSign) -> Result<Option<Found>, ResolveError> {
        let directory = || self.address.clone();
        if self.trust.is_some() && talk.is_extended() {
            let line = talk.ask(&record_question(atsign)).await?;
            let record = record_answer(&line);
            let record = record.map_err(|source| ResolveError::Record { directory: directory(), source })?;
            if let Some(record) = record {
                self.keep_open(talk).await;
                let checked = self.check(atsign, record);
                return checked.map(|record| Some(record.into())).map_err(|source| {
                    ResolveError::Distrusted { directory: directory(), atsign: atsign.clone(), source }
                });
            }
        }
        if self.is_bound(atsign) {
            return Err(ResolveError::Unsigned { directory: directory(), atsign: atsign.clone() });
        }
        let line = talk.ask(&question(atsign)).await?;
        let address =
            answer(&line).map_err(|source| ResolveError::Answer { directory: directory(), source })?;
        // Directories slow down who asks for what they do not know, and then close.
        if address.is_some() {
            self.keep_open(talk).await
        } else {
            talk.end().await
        }
        Ok(address.map(|address| Found { address, record: None }))
    }

    /// Whether a record is to be believed. What is not is counted and said.
    fn check(&self, atsign: &AtSign, record: SignedRecord) -> Result<Arc<VerifiedRecord>, Distrust> {
        let checked = self.checked(atsign, record);
        if let Err(why) = &checked {
            self.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%atsign, directory = %self.address, %why, "a record is not believed");
        }
        checked
    }

    fn checked(&self, atsign: &AtSign, record: SignedRecord) -> Result<Arc<VerifiedRecord>, Distrust> {
        if record.atsign != *atsign {
            return Err(Distrust::AnotherAtSign(record.atsign));
        }
        let Some(trust) = &self.trust else {
            return Err(Distrust::UnknownRegistrar(record.grant.registrar));
        };
        let record = trust.registrars.verify(record, wall())?;
        if let Some(known) = self.known().get(atsign).and_then(|known| known.record.as_ref()) {
            record.follows(known)?;
        }
        Ok(Arc::new(record))
    }

    async fn keep_open(&self, talk: Talk) {
        let spare = {
            let mut idle = self.idle();
            idle.retain(Talk::is_fresh);
            if idle.len() < self.most_idle {
                idle.push(talk);
                None
            } else {
                Some(talk)
            }
        };
        if let Some(talk) = spare {
            talk.end().await;
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<AtSign, Known>> {
        // What a panicking holder leaves behind is whole: each change is one insert or remove.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Talk>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time by which records end.
fn wall() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

#[cfg(test)]
mod tests;
