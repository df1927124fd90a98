//! Sending notifications, and what becomes of them.

use std::time::Duration;

use at_protocol::crypto::Sealed;
use at_protocol::response::ErrorCode;
use at_protocol::verb::{
    MessageType, Notify, NotifyRemove, NotifyStatus, Operation, Priority, Strategy, Verb,
};
use at_protocol::{AtSign, KeyName, Metadata};

use crate::client::Client;
use crate::peers::PairError;
use crate::random;
use crate::requests::AskError;

/// A notification to be sealed and sent.
pub struct NotifyRequest<'a> {
    /// For whom.
    pub to: &'a AtSign,
    /// What is named; its owner is the sender.
    pub name: &'a KeyName,
    /// What is said, in the clear: nobody but `to` reads it.
    pub plain: &'a [u8],
    /// The sender's own id, of `[A-Za-z0-9_-]`, by which the recipient finds repeats. Drawn where absent.
    pub id: Option<&'a str>,
    /// How long it may wait for its recipient; the server's default (a day, for most) where absent.
    pub ttln: Option<Duration>,
    /// Under this name only the latest is delivered: older ones that still wait are dropped.
    pub latest_of: Option<&'a str>,
    /// Lifetimes of the value: `ttl`, and `ttr` to have the recipient's server keep a copy. What describes
    /// the sealing is set here.
    pub metadata: Metadata,
}

impl<'a> NotifyRequest<'a> {
    /// A notification with nothing out of the ordinary.
    #[must_use]
    pub fn new(to: &'a AtSign, name: &'a KeyName, plain: &'a [u8]) -> Self {
        Self { to, name, plain, id: None, ttln: None, latest_of: None, metadata: Metadata::default() }
    }
}

/// Why a notification was not taken by the own atServer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The atServer did not take it.
    #[error("cannot notify {to}: {source}")]
    Ask {
        /// For whom it was.
        to: AtSign,
        /// Why not.
        source: AskError,
    },
    /// There is no key to seal it with.
    #[error("cannot notify {to}: {source}")]
    Pair {
        /// For whom it was.
        to: AtSign,
        /// Why not.
        source: PairError,
    },
}

impl SendError {
    /// Whether trying again may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Ask { source, .. } => source.is_transient(),
            Self::Pair { source, .. } => source.is_transient(),
        }
    }
}

/// How a sent notification fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The own server has it.
    Queued,
    /// The recipient's server has it.
    Delivered,
    /// The last attempt failed; the server tries again.
    Errored,
    /// Its time is over.
    Expired,
    /// The server knows no such notification, or no longer.
    Unknown,
}

impl Client {
    /// Seals a notification and hands it to the own atServer, which has it on record when this returns its
    /// id. Sent again under the same id, it is the same notification.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn notify(&self, request: NotifyRequest<'_>) -> Result<String, SendError> {
        let sealed = self.seal_for(request.to, request.plain).await;
        let sealed = sealed.map_err(|source| SendError::Pair { to: request.to.clone(), source })?;
        self.notify_sealed(request, &sealed).await
    }

    /// Sends a notification with this content, whatever its plaintext.
    pub(crate) async fn notify_sealed(
        &self,
        request: NotifyRequest<'_>,
        sealed: &Sealed,
    ) -> Result<String, SendError> {
        let NotifyRequest { to, name, plain: _, id, ttln, latest_of, mut metadata } = request;
        sealed.describe(&mut metadata);
        let notify = Notify {
            id: Some(id.map_or_else(random::uuid, str::to_owned)),
            operation: Some(Operation::Update),
            message_type: Some(MessageType::Key),
            priority: Some(Priority::Low),
            strategy: Some(if latest_of.is_some() { Strategy::Latest } else { Strategy::All }),
            latest_n: Some(1),
            notifier: Some(latest_of.unwrap_or("SYSTEM").to_owned()),
            ttln: ttln.map(|ttln| u64::try_from(ttln.as_millis()).unwrap_or(u64::MAX)),
            metadata,
            ..Notify::of(to.clone(), name, self.atsign().clone(), Some(sealed.text().to_owned()))
        };
        self.say(&Verb::Notify(Box::new(notify)))
            .await
            .map_err(|source| SendError::Ask { to: to.clone(), source })
    }

    /// How a notification that we sent fares.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    pub async fn notify_status(&self, id: &str) -> Result<Status, AskError> {
        let answer = self.say(&Verb::NotifyStatus(NotifyStatus { id: id.to_owned() })).await;
        let word = match answer {
            Err(error) if error.code() == Some(ErrorCode::KeyNotFound) => return Ok(Status::Unknown),
            word => word?,
        };
        Ok(match word.trim() {
            "queued" => Status::Queued,
            "delivered" => Status::Delivered,
            "errored" | "undelivered" => Status::Errored,
            "expired" => Status::Expired,
            _ => Status::Unknown,
        })
    }

    /// Has the own atServer forget a notification, received or sent. It need not exist.
    ///
    /// # Errors
    /// The server refuses, or cannot be reached.
    pub async fn notify_remove(&self, id: &str) -> Result<(), AskError> {
        self.say(&Verb::NotifyRemove(NotifyRemove { id: id.to_owned() })).await.map(|_| ())
    }
}
