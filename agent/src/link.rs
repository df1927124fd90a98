//! The agent's way to its atServer: notifications out, receipts and requests in.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use at_client::{
    AskError, EnvelopeError, Envelopes, Incoming, MonitorConfig, MonitorError, Need, NotifyRequest,
    PairError, Payload, RecordError, SendError, Status,
};
use at_protocol::response::ErrorCode;
use at_protocol::rpc::{Kind, RpcName};
use at_protocol::{AtSign, KeyName, Timestamp};
use atedge_adapters::{DeviceName, StreamName};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::commands::Request;
use crate::failpoint::Failpoint;
use crate::outbox::{Outbox, OutboxError, Receipted};
use crate::payload::{NoteId, Receipt, name};
use crate::standing::Guard;
use crate::uplink::{Note, NoteStatus, Road, RoadError, SendRules};

/// What was heard this long before the last thing dealt with is heard again after a start: requests that
/// were not finished then, and receipts that were not taken. Requests wait no longer for their callee (client
/// conventions §6.1).
const HEAR_AGAIN_MS: u64 = at_protocol::rpc::TTLN_MS;
/// How often it is written down, at most, how far was heard.
const KEEP_PLACE: Duration = Duration::from_secs(10);
/// Pause before listening again where waiting alone will not help.
const LISTEN_AGAIN: Duration = Duration::from_secs(30);
/// How often it is looked whether what we can do must be published anew. Most looks cost nothing.
const ANNOUNCE: Duration = Duration::from_secs(60);
/// Ids of receipts that are remembered, to know repeats. A repeat that is older says nothing new: receipts are
/// cumulative.
const MAX_HEARD: usize = 4096;
/// Receipts that wait for the outbox at once.
const TAKING: usize = 256;
/// They are taken together, so often: readers confirm many devices at once, nobody waits for it, and one commit does
/// for all.
const TURN: Duration = Duration::from_millis(20);

/// The [`Road`] over a client of ours: in envelopes to readers that open them.
#[derive(Clone)]
pub struct ClientRoad {
    /// How it is said.
    pub envelopes: Envelopes,
    /// What a reader must be able to do before anything is sent to it.
    pub rules: watch::Receiver<SendRules>,
    /// The last part of key names.
    pub namespace: String,
}

/// Publishes what this agent can do, and renews that, until `stop`.
pub async fn announce(envelopes: &Envelopes, stop: CancellationToken) {
    loop {
        match envelopes.announce().await {
            Ok(()) => {}
            Err(error) if error.is_transient() => {
                debug!(%error, "cannot announce what this gateway can do; trying again");
            }
            Err(error) => {
                warn!(%error, "cannot announce what this gateway can do; does its enrollment include atedge:rw?");
            }
        }
        tokio::select! {
            () = sleep(ANNOUNCE) => {}
            () = stop.cancelled() => return,
        }
    }
}

impl Road for ClientRoad {
    async fn notify(&self, note: Note<'_>) -> Result<(), RoadError> {
        let refused = |error: &dyn std::fmt::Display| RoadError::Refused(error.to_string());
        let key: KeyName =
            note.name.parse().map_err(|error: at_protocol::key::InvalidKey| refused(&error))?;
        let mut request = NotifyRequest::new(note.to, &key, note.plain.as_bytes());
        request.id = note.id.map(NoteId::as_str);
        request.ttln = Some(note.ttln);
        let sent = match name::parse_telemetry(note.name, &self.namespace) {
            Some((_, stream)) => {
                let need = need(&self.rules.borrow(), &stream);
                self.envelopes.notify(request, need).await
            }
            None => self.envelopes.client().notify(request).await.map_err(EnvelopeError::Send),
        };
        sent.map(|_| ()).map_err(|error| held_error(&error))
    }

    async fn status(&self, id: &NoteId) -> Result<NoteStatus, RoadError> {
        match self.envelopes.client().notify_status(id.as_str()).await {
            Ok(Status::Delivered) => Ok(NoteStatus::Delivered),
            Ok(Status::Queued) => Ok(NoteStatus::Queued),
            Ok(Status::Errored) => Ok(NoteStatus::Errored),
            Ok(Status::Expired | Status::Unknown) => Ok(NoteStatus::Failed),
            Err(error) => Err(ask_error(&error)),
        }
    }
}

/// What the readers of a stream must be able to do.
fn need(rules: &SendRules, stream: &StreamName) -> Need {
    let rules = rules.streams.get(stream);
    rules.map_or_else(Need::default, |(_, rules)| Need { aead: rules.aead, receipts: rules.receipts })
}

/// What waits for a peer to be itself again, or for ourselves to be allowed to speak, is sent later.
fn held_error(error: &EnvelopeError) -> RoadError {
    match error {
        EnvelopeError::Send(error) => road_error(error),
        EnvelopeError::Ask { source, .. } | EnvelopeError::Record(RecordError::Ask { source, .. }) => {
            ask_error(source)
        }
        EnvelopeError::Held { .. }
        | EnvelopeError::Lacks { .. }
        | EnvelopeError::Full { .. }
        | EnvelopeError::Record(_) => RoadError::Later(error.to_string()),
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
    /// Whose notifications, and how they are opened.
    pub envelopes: Envelopes,
    /// Who reads which stream: theirs are the receipts that are taken.
    pub rules: watch::Receiver<SendRules>,
    /// Takes the receipts, and keeps how far was heard.
    pub outbox: Outbox,
    /// Whether requests may be dealt with.
    pub guard: Arc<Guard>,
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
        tokio::select! {
            () = self.guard.known() => {}
            () = stop.cancelled() => return Ok(()),
        }
        let since = self.outbox.heard_until().await?.map(|millis| millis.saturating_sub(HEAR_AGAIN_MS));
        let since = since.and_then(|millis| i64::try_from(millis).ok()).map(Timestamp::from_millis);
        let regex = format!(r"(receipt|request)\..*\.{}@", self.namespace);
        let mut monitor = self.envelopes.client().monitor(MonitorConfig {
            regex: Some(regex),
            since,
            ..MonitorConfig::default()
        });
        let mut place = Place::default();
        let mut heard_before = Heard::default();
        let mut taking = FuturesUnordered::new();
        let began = Instant::now();
        let mut listen_from = began;
        loop {
            let hear = async {
                sleep_until(listen_from).await;
                monitor.next().await
            };
            tokio::select! {
                Some(taken) = taking.next() => taken?,
                heard = hear, if taking.len() < TAKING => match heard {
                    Ok(incoming) => {
                        let millis = u64::try_from(incoming.epoch_millis).unwrap_or(0);
                        let urgent = match self.hear(incoming, &mut heard_before).await {
                            Said::Receipt(receipt) => {
                                taking.push(self.take(receipt, next_turn(began, Instant::now())));
                                false
                            }
                            Said::Request => true,
                            Said::Nothing => false,
                        };
                        if let Some(millis) = place.reach(millis, urgent) {
                            Failpoint::HeardBefore.pass();
                            self.outbox.set_heard_until(millis).await?;
                            Failpoint::HeardAfter.pass();
                        }
                    }
                    Err(error) => {
                        warn_of(&error);
                        listen_from = Instant::now() + LISTEN_AGAIN;
                    }
                },
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// What was heard; a request is handed on.
    async fn hear(&self, incoming: Incoming, heard: &mut Heard) -> Said {
        if let Some(about) = name::parse_receipt(incoming.name.as_str(), &self.namespace) {
            return self.hear_receipt(&incoming, about, heard).await.map_or(Said::Nothing, Said::Receipt);
        }
        let Payload::Opened(plain) = incoming.payload else {
            debug!(from = %incoming.from, key = incoming.key, "heard something that is not sealed for us");
            return Said::Nothing;
        };
        match incoming.name.as_str().parse::<RpcName>() {
            Ok(rpc) if rpc.kind == Kind::Request && rpc.base == self.namespace && self.is_for_us(&rpc) => {
                if !self.guard.may_act() {
                    warn!(from = %incoming.from, "a command is left undone: this gateway is frozen");
                    return Said::Nothing;
                }
                drop(self.requests.send(Request { from: incoming.from, name: rpc, plain }).await);
                Said::Request
            }
            _ => Said::Nothing,
        }
    }

    /// Whether the device that is asked something answers as this atSign.
    fn is_for_us(&self, request: &RpcName) -> bool {
        let device = request.domain.strip_prefix("cmd.").and_then(|device| device.parse().ok());
        device.is_some_and(|device| self.outbox.is_for(&device))
    }

    /// A receipt from a reader of the stream, heard for the first time, and in an envelope if the reader has those.
    async fn hear_receipt(
        &self,
        incoming: &Incoming,
        (device, stream): (DeviceName, StreamName),
        heard: &mut Heard,
    ) -> Option<HeardReceipt> {
        let (from, name) = (&incoming.from, incoming.name.as_str());
        // First, so that strangers cannot make us ask who they are.
        let reads =
            |rules: &SendRules| rules.streams.get(&stream).is_some_and(|(readers, _)| readers.contains(from));
        if !reads(&self.rules.borrow()) {
            self.envelopes.count(from, name);
            return None;
        }
        let content = self.envelopes.accept(incoming).await.ok()?;
        match Receipt::from_json(&content.plain) {
            Ok(receipt) if heard.is_new(from, &incoming.id) => {
                return Some(HeardReceipt { from: from.clone(), device, stream, receipt });
            }
            Ok(_) => {}
            Err(error) => debug!(%from, %error, "not a receipt"),
        }
        self.envelopes.count(from, name);
        None
    }

    /// Has the outbox take a receipt when its turn comes, and tells the uplink.
    async fn take(&self, heard: HeardReceipt, turn: Instant) -> Result<(), OutboxError> {
        let HeardReceipt { from, device, stream, receipt } = heard;
        Failpoint::ReceiptHeard.pass();
        sleep_until(turn).await;
        let taken = self.outbox.receipt(from.clone(), device.clone(), stream.clone(), receipt).await?;
        Failpoint::ReceiptTaken.pass();
        match taken {
            // The uplink has ended only when the agent stops.
            Some(receipt) => drop(self.receipts.send(receipt).await),
            None => debug!(%from, %device, %stream, "a receipt for nothing that was sent"),
        }
        Ok(())
    }
}

/// When receipts that come at `now` are taken.
fn next_turn(began: Instant, now: Instant) -> Instant {
    let turns = now.duration_since(began).as_nanos() / TURN.as_nanos() + 1;
    began + TURN * u32::try_from(turns).unwrap_or(u32::MAX)
}

/// What a notification turned out to be.
enum Said {
    Receipt(HeardReceipt),
    /// Handed on already.
    Request,
    /// Nothing for us.
    Nothing,
}

/// A receipt, and whose it is.
struct HeardReceipt {
    from: AtSign,
    device: DeviceName,
    stream: StreamName,
    receipt: Receipt,
}

/// Which receipts were heard lately.
#[derive(Default)]
struct Heard {
    ids: HashSet<(AtSign, String)>,
    order: VecDeque<(AtSign, String)>,
}

impl Heard {
    /// Whether this id of this sender is heard for the first time.
    fn is_new(&mut self, from: &AtSign, id: &str) -> bool {
        let id = (from.clone(), id.to_owned());
        if !self.ids.insert(id.clone()) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > MAX_HEARD
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_that_come_together_are_taken_together() {
        let began = Instant::now();
        let at = |millis| next_turn(began, began + Duration::from_millis(millis));
        assert_eq!(at(0), began + TURN);
        assert_eq!(at(1), at(19));
        assert_eq!(at(20), began + 2 * TURN, "a turn lies ahead, or it would be over at once");
    }

    #[test]
    fn a_repeat_is_known_until_many_others_have_come() {
        let (one, other): (AtSign, AtSign) = ("@one".parse().unwrap(), "@other".parse().unwrap());
        let mut heard = Heard::default();
        assert!(heard.is_new(&one, "0") && heard.is_new(&other, "0") && !heard.is_new(&one, "0"));
        for id in 1..=MAX_HEARD {
            assert!(heard.is_new(&one, &id.to_string()));
        }
        assert_eq!((heard.ids.len(), heard.order.len()), (MAX_HEARD, MAX_HEARD));
        assert!(heard.is_new(&one, "0") && !heard.is_new(&one, "9"));
    }
}
