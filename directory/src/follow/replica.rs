//! The directory that follows.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use at_protocol::Timestamp;
use at_protocol::directory::Registrars;
use at_protocol::line::{self, LineSplitter};
use atedge_service::tls::NodeIdentity;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{LONGEST_LINE, Line, ReplicaSettings, Request};
use crate::desk::{Desk, blocking};
use crate::quic;
use crate::registry::{Registry, RegistryError, Word};

/// How long after a failure the other directory is tried again, at first and at last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Bytes of one read.
const READ: usize = 16 * 1024;
/// Most words between two marks: four times what directories of ours say.
const MOST_WORDS: usize = 4096;

/// Why following has come to an end, for the time being.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Line(#[from] super::InvalidLine),
    #[error("it says something else than a directory that is followed: {0}")]
    Strange(&'static str),
}

/// Follows another directory.
pub(crate) struct Replica {
    pub(crate) settings: ReplicaSettings,
    pub(crate) identity: Arc<NodeIdentity>,
    pub(crate) desk: Arc<Desk>,
}

impl Replica {
    /// Follows until the stop, however often the other directory goes and comes.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut pause = AGAIN.0;
        loop {
            let mut was_told = false;
            let failed = tokio::select! {
                followed = self.follow(&mut was_told) => followed.err(),
                () = stop.cancelled() => return,
            };
            pause = if was_told { AGAIN.0 } else { (pause * 2).min(AGAIN.1) };
            let error =
                failed.map_or_else(|| "it ended the connection".to_owned(), |error| error.to_string());
            warn!(primary = %self.settings.of, error, "not following; what is known is answered");
            // Followers of one directory do not come back all at once.
            let jitter = f64::from(self.identity.public()[0]) / 512.0;
            tokio::select! {
                () = sleep(pause.mul_f64(0.75 + jitter)) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn follow(&self, was_told: &mut bool) -> Result<(), FollowError> {
        let ReplicaSettings { of, node } = &self.settings;
        let (connection, stream) = quic::dial(of, node, &self.identity).await?;
        info!(primary = %of, "following");
        let result = self.listen(stream, was_told).await;
        drop(connection);
        result
    }

    /// Takes over what is said on a stream, until it ends.
    async fn listen<S>(&self, mut stream: S, was_told: &mut bool) -> Result<(), FollowError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (id, change) = self.keep(|registry| registry.followed()).await?.unwrap_or_default();
        let request = Request { id: id.clone(), change };
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        stream.flush().await?;
        let mut story = Following { id, begun: None, words: Vec::new() };
        let mut lines = LineSplitter::new(LONGEST_LINE);
        let mut buffer = vec![0; READ];
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            lines.feed(&buffer[..count]);
            while let Some(line) =
                lines.next_line().map_err(|_| FollowError::Strange("a line without end"))?
            {
                let line::Line::Text(text) = line else { return Err(FollowError::Strange("no text")) };
                self.take(text.parse()?, &mut story).await?;
                *was_told = true;
            }
        }
    }

    async fn take(&self, line: Line, story: &mut Following) -> Result<(), FollowError> {
        match line {
            Line::On => {}
            Line::Anew(id) => {
                story.id = id;
                story.begun = Some(self.keep(|registry| registry.begin()).await?);
            }
            Line::At(..) | Line::Record(_) | Line::Gone(_) if story.words.len() >= MOST_WORDS => {
                return Err(FollowError::Strange("no mark"));
            }
            Line::At(..) | Line::Record(_) | Line::Gone(_) => story.words.push(line),
            Line::Part(change) => self.commit(story, change, false).await?,
            Line::Upto(change) => {
                self.commit(story, change, true).await?;
                info!(primary = %self.settings.of, change, "all is here");
            }
        }
        Ok(())
    }

    /// Keeps what was said up to a mark.
    async fn commit(&self, story: &mut Following, change: i64, is_all: bool) -> Result<(), FollowError> {
        let (words, id) = (std::mem::take(&mut story.words), story.id.clone());
        let registrars = self.desk.in_force().rules.registrars.clone();
        // Until all has been told anew, a new connection begins anew.
        let begun = if is_all { story.begun.take() } else { story.begun };
        let is_certain = is_all || begun.is_none();
        self.keep(move |registry| {
            let now = Timestamp::from(SystemTime::now());
            let words = believed(words, &registrars, now);
            if let (true, Some(before)) = (is_all, begun) {
                registry.take_over(&words, None, now)?;
                registry.forget_before(before)?;
                return registry.take_over(&[], Some((&id, change)), now);
            }
            registry.take_over(&words, is_certain.then_some((id.as_str(), change)), now)
        })
        .await
    }

    async fn keep<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Registry) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, FollowError> {
        let registry = Arc::clone(&self.desk.registry);
        Ok(blocking(move || work(&registry)).await?)
    }
}

/// How far one is.
struct Following {
    /// The registry that is followed.
    id: String,
    /// While all is told anew: the last change of one's own before.
    begun: Option<i64>,
    /// What was said since the last mark.
    words: Vec<Line>,
}

/// What a directory may say, which is not to sign for nodes.
fn believed(lines: Vec<Line>, registrars: &Registrars, now: Timestamp) -> Vec<Word> {
    let word = |line| match line {
        Line::At(atsign, address) => Some(Word::At(atsign, address)),
        Line::Gone(atsign) => Some(Word::Gone(atsign)),
        Line::Record(record) => {
            let atsign = record.atsign.clone();
            match registrars.verify(*record, now) {
                Ok(record) => Some(Word::Signed(Box::new(record))),
                Err(error) => {
                    warn!(%atsign, %error, "the other directory has a record that is not to be believed");
                    None
                }
            }
        }
        Line::Anew(_) | Line::On | Line::Part(_) | Line::Upto(_) => None,
    };
    lines.into_iter().filter_map(word).collect()
}
