//! Finding an atSign's atServer: look-ups in a directory, checked where a registrar is trusted, remembered.

mod memory;
mod talk;

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{
    Address, Distrust, EXTENDED, InvalidAddress, InvalidRecord, Registrars, SignedRecord, VerifiedRecord,
    answer, question, record_answer, record_question,
};
use at_protocol::{AtSign, Timestamp};

use crate::tls::{ClientTls, DialError};
pub use memory::Memory;
use talk::{PATIENCE, Talk};

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
    memory: Mutex<Memory>,
    keeper: Option<Arc<dyn RecordKeeper>>,
    /// Connections for further questions, and how many are kept.
    idle: Mutex<Vec<Talk>>,
    most_idle: usize,
    refused: AtomicU64,
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
            memory: Mutex::default(),
            keeper: None,
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
        self.memory = Mutex::new(Memory::trusting(registrars, kept, now()));
        self.keeper = Some(keeper);
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
        if let Some(found) = self.memory().fresh(atsign, now(), wall()) {
            return Ok(Some(found));
        }
        // On the heap: most look-ups ask nobody, and none has to carry the questions along.
        match Box::pin(self.ask_again_and_again(atsign)).await {
            Ok(Some(found)) => Ok(Some(self.remember(atsign, found).await)),
            Ok(None) => {
                self.memory().forget(atsign);
                Ok(None)
            }
            Err(error) => {
                let Some(found) = self.memory().stand_in(atsign, now(), wall()) else { return Err(error) };
                tracing::debug!(%atsign, address = %found.address, %error, "using the last known address");
                Ok(Some(found))
            }
        }
    }

    /// The address of `atsign` did not serve: the directory will be asked before it is used again.
    pub fn suspect(&self, atsign: &AtSign) {
        self.memory().suspect(atsign, now());
    }

    /// The record of an atSign that is believed now, without asking anybody.
    #[must_use]
    pub fn record(&self, atsign: &AtSign) -> Option<Arc<VerifiedRecord>> {
        self.memory().last(atsign, wall())?.record
    }

    /// Whether an atSign is found by signed records only: one was believed before, or a registrar calls it its
    /// own.
    #[must_use]
    pub fn is_bound(&self, atsign: &AtSign) -> bool {
        self.memory().is_bound(atsign)
    }

    /// Takes a record that came another way than from the directory, such as from the node itself.
    ///
    /// # Errors
    /// It is not believed.
    pub async fn tell(&self, record: SignedRecord) -> Result<Arc<VerifiedRecord>, Distrust> {
        let atsign = record.atsign.clone();
        let record = self.check(&atsign, record)?;
        self.remember(&atsign, Found::from(Arc::clone(&record))).await;
        Ok(record)
    }

    /// Remembers an answer, and gives the one to be used: another look-up may have brought a newer record since
    /// this one was checked.
    async fn remember(&self, atsign: &AtSign, found: Found) -> Found {
        let kept = self.memory().remember(atsign, &found, now());
        if let (Some(record), Some(keeper)) = (kept, &self.keeper) {
            keeper.keep(&record).await;
        }
        self.memory().last(atsign, wall()).unwrap_or(found)
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
        if self.memory().is_trusting() && talk.is_extended() {
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
        let checked = self.memory().check(atsign, record, wall());
        if let Err(why) = &checked {
            self.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%atsign, directory = %self.address, %why, "a record is not believed");
        }
        checked
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

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // What a panicking holder leaves behind is whole: each change is one insert or remove.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Talk>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The time by which records end.
fn wall() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

#[cfg(test)]
mod tests;
