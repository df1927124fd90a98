//! The connection on which a client asks: made when it is needed, and made anew when it breaks.

use std::fmt::Display;

use at_protocol::AtSign;
use at_protocol::response::{ErrorCode, RemoteError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::account::{ClientConfig, ConnectError};
use crate::backoff::Backoff;
use crate::dial::AtWire;
use crate::wire::{RequestError, WireError};

/// Why the atServer did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, and so did the one after it.
    #[error("lost the atServer of {atsign}: {source}")]
    Broken {
        /// Whose atServer.
        atsign: AtSign,
        /// How.
        source: WireError,
    },
    /// The atServer refuses.
    #[error("the atServer of {atsign} refuses: {source}")]
    Refused {
        /// Whose atServer.
        atsign: AtSign,
        /// What it says.
        source: RemoteError,
    },
}

impl AskError {
    /// Whether asking again may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_transient(),
            Self::Broken { .. } => true,
            Self::Refused { source, .. } => crate::refusal::is_transient(source),
        }
    }

    /// What the server said, if it has refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { source, .. } => source.code(),
            Self::Connect(_) | Self::Broken { .. } => None,
        }
    }
}

/// One connection and the pauses between its lives. Requests queue for it in the order of their calls.
#[derive(Default)]
pub(crate) struct Requests(Mutex<Line>);

#[derive(Default)]
struct Line {
    wire: Option<AtWire>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Requests {
    /// Asks, over a new connection if need be, and once more if the connection breaks before the answer:
    /// every verb that clients say may be said twice.
    pub(crate) async fn ask(&self, config: &ClientConfig, line: &impl Display) -> Result<String, AskError> {
        let mut connection = self.0.lock().await;
        let mut again = true;
        loop {
            let wire = connection.up(config).await?;
            match wire.request(line).await {
                Ok(answer) => {
                    connection.backoff.succeeded();
                    return Ok(answer);
                }
                Err(RequestError::Refused(source)) => {
                    if source.code() == Some(ErrorCode::NotAuthenticated) {
                        connection.down();
                    } else {
                        connection.backoff.succeeded();
                    }
                    return Err(AskError::Refused { atsign: config.atsign.clone(), source });
                }
                Err(RequestError::Broken(source)) => {
                    connection.down();
                    if !std::mem::take(&mut again) {
                        return Err(AskError::Broken { atsign: config.atsign.clone(), source });
                    }
                    tracing::debug!(atsign = %config.atsign, error = %source, "asking on a new connection");
                }
            }
        }
    }

    /// Connects, unless there is a connection.
    pub(crate) async fn connect(&self, config: &ClientConfig) -> Result<(), ConnectError> {
        self.0.lock().await.up(config).await.map(|_| ())
    }
}

impl Line {
    async fn up(&mut self, config: &ClientConfig) -> Result<&mut AtWire, ConnectError> {
        if self.wire.as_ref().is_none_or(AtWire::is_broken) {
            if let Some(not_before) = self.not_before {
                config.dialer.pause(not_before).await;
            }
            self.wire = match config.connect().await {
                Ok(wire) => Some(wire),
                Err(error) => {
                    self.down();
                    return Err(error);
                }
            };
        }
        Ok(self.wire.as_mut().expect("it was there, or was just made"))
    }

    fn down(&mut self) {
        self.wire = None;
        self.not_before = Some(Instant::now() + self.backoff.failed());
    }
}
