//! The agent's way to its atServer: notifications out, receipts and requests in.

use std::time::Duration;

use at_client::{
    AskError, Client, Incoming, MonitorConfig, MonitorError, NotifyRequest, PairError, Payload, SendError,
    Status,
};
use at_protocol::response::ErrorCode;
use at_protocol::rpc::{Kind, RpcName};
use at_protocol::{KeyName, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::commands::Request;
use crate::outbox::{Outbox, OutboxError, Receipted};
use crate::payload::{NoteId, Receipt, name};
use crate::uplink::{Note, NoteStatus, Road, RoadError};

/// What was heard this long before the last thing dealt with is heard again after a start: requests that
/// were not finished then. Requests wait no longer for their callee (client conventions §6.1).
const HEAR_AGAIN_MS: u64 = at_protocol::rpc::TTLN_MS;
/// How often it is written down, at most, how far was heard.
const KEEP_PLACE: Duration = Duration::from_secs(10);
/// Pause before listening again where waiting alone will not help.
const LISTEN_AGAIN: Duration = Duration::from_secs(30);

/// The [`Road`] over a client of ours.
#[derive(Clone)]
pub struct ClientRoad(pub Client);

impl Road for ClientRoad {
    async fn notify(&self, note: Note<'_>) -> Result<(), RoadError> {
        let refused = |error: &dyn std::fmt::Display| RoadError::Refused(error.to_string());
        let key: KeyName =
            note.name.parse().map_err(|error: at_protocol::key::InvalidKey| refused(&error))?;
        let mut request = NotifyRequest::new(note.to, &key, note.plain.as_bytes());
        request.id = note.id.map(NoteId::as_str);
        request.ttln = Some(note.ttln);
        self.0.notify(request).await.map(|_| ()).map_err(|error| road_error(&error))
    }

    async fn status(&self, id: &NoteId) -> Result<NoteStatus, RoadError> {
        match self.0.notify_status(id.as_str()).await {
            Ok(Status::Delivered) => Ok(NoteStatus::Delivered),
            Ok(Status::Queued) => Ok(NoteStatus::Queued),
            Ok(Status::Errored) => Ok(NoteStatus::Errored),
            Ok(Status::Expired | Status::Unknown) => Ok(NoteStatus::Failed),
            Err(error) => Err(ask_error(&error)),
        }
    }
}

fn road_error(error: &SendError) -> RoadError {
    match error {
        // A batch that the server cannot take as it is will not get better.
        SendError::Ask { source, .. } if is_about_the_line(source) => RoadError::Refused(error.to_string()),
        SendError::Ask { source, .. } | SendError::Pair { source: PairError::Ask(source), .. } => {
            ask_error(source)
        }
        // The reader may be activated yet, or mend its key.
        SendError::Pair { .. } => RoadError::Later(error.to_string()),
    }
}

fn ask_error(error: &AskError) -> RoadError {
    match error {
        AskError::Connect(_) | AskError::Broken { .. } => RoadError::Unreachable(error.to_string()),
        AskError::Refused { .. } => RoadError::Later(error.to_string()),
    }
}

fn is_about_the_line(error: &AskError) -> bool {
    matches!(
        error.code(),
        Some(
            ErrorCode::InvalidSyntax
                | ErrorCode::BufferLimit
                | ErrorCode::InvalidKey
                | ErrorCode::IllegalArguments
        )
    )
}

/// Listens for receipts and requests, and hands them on.
pub struct Ear {
    /// Whose notifications.
    pub client: Client,
    /// Takes the receipts, and keeps how far was heard.
    pub outbox: Outbox,
    /// The last part of key names.
    pub namespace: String,
    /// Where receipts go that the outbox has taken. When it is full, nothing more is heard.
    pub receipts: mpsc::Sender<Receipted>,
    /// Where requests go, likewise.
    pub requests: mpsc::Sender<Request>,
}

impl Ear {
    /// Listens until `stop`.
    ///
    /// # Errors
    /// When the outbox no longer answers.
    pub async fn run(self, stop: CancellationToken) -> Result<(), OutboxError> {
        let since = self.outbox.heard_until().await?.map(|millis| millis.saturating_sub(HEAR_AGAIN_MS));
        let since = since.and_then(|millis| i64::try_from(millis).ok()).map(Timestamp::from_millis);
        let regex = format!(r"(receipt|request)\..*\.{}@", self.namespace);
        let mut monitor =
            self.client.monitor(MonitorConfig { regex: Some(regex), since, ..MonitorConfig::default() });
        let mut place = Place::default();
        loop {
            tokio::select! {
                heard = monitor.next() => match heard {
                    Ok(incoming) => {
                        let millis = u64::try_from(incoming.epoch_millis).unwrap_or(0);
                        let urgent = self.hear(incoming).await?;
                        if let Some(millis) = place.reach(millis, urgent) {
                            self.outbox.set_heard_until(millis).await?;
                        }
                    }
                    Err(error) => {
                        warn_of(&error);
                        tokio::select! {
                            () = sleep(LISTEN_AGAIN) => {}
                            () = stop.cancelled() => return Ok(()),
                        }
                    }
                },
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Hands on what was heard; returns whether it was a request.
    async fn hear(&self, incoming: Incoming) -> Result<bool, OutboxError> {
        let Payload::Opened(plain) = incoming.payload else {
            debug!(from = %incoming.from, key = incoming.key, "heard something that is not sealed for us");
            return Ok(false);
        };
        let name = incoming.name.as_str();
        if let Some((device, stream)) = name::parse_receipt(name, &self.namespace) {
            let receipt = match Receipt::from_json(&plain) {
                Ok(receipt) => receipt,
                Err(error) => {
                    debug!(from = %incoming.from, %error, "not a receipt");
                    return Ok(false);
                }
            };
            match self.outbox.receipt(incoming.from.clone(), device, stream, receipt).await? {
                // The uplink has ended only when the agent stops.
                Some(receipt) => drop(self.receipts.send(receipt).await),
                None => debug!(from = %incoming.from, name, "a receipt for nothing that was sent"),
            }
            return Ok(false);
        }
        match name.parse::<RpcName>() {
            Ok(rpc) if rpc.kind == Kind::Request && rpc.base == self.namespace => {
                drop(self.requests.send(Request { from: incoming.from, name: rpc, plain }).await);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

fn warn_of(error: &MonitorError) {
    warn!(%error, "cannot listen for commands and receipts; trying again");
}

/// How far was heard, and when that was last written down.
#[derive(Default)]
struct Place {
    kept: Option<Instant>,
}

impl Place {
    /// `millis` was heard; returns it if it should be written down.
    fn reach(&mut self, millis: u64, urgent: bool) -> Option<u64> {
        let due = self.kept.is_none_or(|kept| kept.elapsed() >= KEEP_PLACE);
        (urgent || due).then(|| {
            self.kept = Some(Instant::now());
            millis
        })
    }
}
