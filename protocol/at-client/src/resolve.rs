//! Finding an atSign's atServer: look-ups in a directory, remembered.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::directory::{Address, InvalidAddress, answer, question};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::{Instant, timeout};

use crate::tls::{ClientTls, DialError, dial};

/// How long an answer is used without asking again; other SDKs do the same (wire reference §1.3).
const FRESH: Duration = Duration::from_secs(60 * 60);
/// How long one attempt may take. A directory delays what it does not know by 3 s (wire reference §1.1).
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses before the further attempts.
const RETRIES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];
/// Longest answer, in bytes: a DNS name, a port, and room.
const MAX_ANSWER: u64 = 512;

/// A directory and what it has answered. Share it: one per process and directory is enough.
pub struct Directory {
    address: Address,
    tls: ClientTls,
    known: Mutex<HashMap<AtSign, Known>>,
}

/// What was once answered. It is kept after it is stale, for when the directory is down.
struct Known {
    address: Address,
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
}

impl ResolveError {
    /// Whether trying again may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_transient(),
            Self::Io { .. } | Self::Silent { .. } | Self::Answer { .. } => true,
        }
    }
}

impl Directory {
    /// A directory at `address`. Nothing is asked yet.
    #[must_use]
    pub fn new(address: Address, tls: ClientTls) -> Self {
        Self { address, tls, known: Mutex::default() }
    }

    /// Where the directory is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Where the atServer of `atsign` is, or `None` if the directory does not know the atSign.
    ///
    /// Answers are used for an hour, and beyond that while the directory does not answer.
    ///
    /// # Errors
    /// The directory did not answer, three times, and has never before.
    pub async fn find(&self, atsign: &AtSign) -> Result<Option<Address>, ResolveError> {
        let now = Instant::now();
        let known = self.known().get(atsign).map(|known| (known.address.clone(), known.fresh_until));
        if let Some((address, _)) = known.as_ref().filter(|(_, fresh_until)| now < *fresh_until) {
            return Ok(Some(address.clone()));
        }
        match self.ask_again_and_again(atsign).await {
            Ok(Some(address)) => {
                let fresh = Known { address: address.clone(), fresh_until: Instant::now() + FRESH };
                self.known().insert(atsign.clone(), fresh);
                Ok(Some(address))
            }
            Ok(None) => {
                self.known().remove(atsign);
                Ok(None)
            }
            Err(error) => match known {
                Some((address, _)) => {
                    tracing::debug!(%atsign, %address, %error, "using the last known address");
                    Ok(Some(address))
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

    async fn ask_again_and_again(&self, atsign: &AtSign) -> Result<Option<Address>, ResolveError> {
        for pause in RETRIES {
            match self.ask(atsign).await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(directory = %self.address, %error, "asking the directory again");
                    tokio::time::sleep(pause).await;
                }
                decided => return decided,
            }
        }
        self.ask(atsign).await
    }

    async fn ask(&self, atsign: &AtSign) -> Result<Option<Address>, ResolveError> {
        let stream = dial(&self.address, &self.tls, PATIENCE).await?;
        let line = timeout(PATIENCE, converse(stream, &question(atsign))).await;
        let line = line.map_err(|_| ResolveError::Silent { directory: self.address.clone() })?;
        let line = line.map_err(|source| ResolveError::Io { directory: self.address.clone(), source })?;
        answer(&line).map_err(|source| ResolveError::Answer { directory: self.address.clone(), source })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<AtSign, Known>> {
        // What a panicking holder leaves behind is whole: each change is one insert or remove.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the prompt, asks, and reads one line. The farewell is a courtesy.
async fn converse<S>(stream: S, question: &str) -> io::Result<String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    if stream.read_u8().await? != b'@' {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not begin with a prompt"));
    }
    stream.write_all(question.as_bytes()).await?;
    stream.flush().await?;
    let mut line = String::new();
    (&mut stream).take(MAX_ANSWER).read_line(&mut line).await?;
    if !line.ends_with('\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its answer does not end"));
    }
    if let Err(error) = stream.write_all(b"@exit\n").await {
        tracing::trace!(%error, "the directory did not wait for the farewell");
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::{Authority, Town, listen};

    #[tokio::test]
    async fn answers_are_remembered_and_outlive_the_directory() {
        let mut town = Town::empty(&["@alice"]).await;
        let alice = "@alice".parse().unwrap();
        assert_eq!(town.directory.find(&"@nobody".parse().unwrap()).await.unwrap(), None);
        assert_eq!(town.directory.find(&alice).await.unwrap().as_ref(), Some(&town.server));
        town.close_directory().await;
        assert_eq!(town.directory.find(&alice).await.unwrap().as_ref(), Some(&town.server));
        // It is asked again, in vain, and the last good answer serves.
        town.directory.suspect(&alice);
        assert_eq!(town.directory.find(&alice).await.unwrap().as_ref(), Some(&town.server));
        assert!(town.directory.find(&"@nobody".parse().unwrap()).await.is_err());
    }

    async fn asked(says: &'static str) -> Result<Option<Address>, ResolveError> {
        let authority = Authority::new();
        let serve = move |mut stream| async move {
            AsyncWriteExt::write_all(&mut stream, says.as_bytes()).await.unwrap();
            AsyncWriteExt::shutdown(&mut stream).await.unwrap();
        };
        let (address, _tasks) = listen(authority.server_tls("localhost", |_| ()), serve).await;
        Directory::new(address, authority.client_tls()).ask(&"@alice".parse().unwrap()).await
    }

    #[tokio::test]
    async fn whatever_a_directory_says_is_an_answer_or_an_error() {
        assert_eq!(asked("@null\r\n@").await.unwrap(), None);
        assert_eq!(asked("@@host.example:6464\r\n@").await.unwrap().unwrap().port(), 6464);
        for says in ["", "@", "@host.example:6464", "HTTP/1.1 400 Bad Request\r\n"] {
            assert!(matches!(asked(says).await, Err(ResolveError::Io { .. })), "{says}");
        }
        let stopping = asked("@Stop in progress. Can't accept new requests.\n@").await;
        assert!(matches!(stopping, Err(ResolveError::Answer { .. })));
    }
}
