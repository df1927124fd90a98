//! From the atServer to the adapters: commands in the AtRpc convention, declared in the configuration,
//! decided here, done once.
//!
//! That a command begins is on disk before it does, under the caller's idempotency key; a repeat is
//! answered from the record. What a killed agent left unfinished is reported as `unknown`, unless the
//! command is declared idempotent. Who is on no list is not answered at all.

mod call;
mod declared;
mod handled;
mod rule;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use at_protocol::AtSign;
use at_protocol::rpc::{self, Answer, Kind, RequestId, RpcName};
use atedge_adapters::{Command, DeviceName, Order};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

pub use call::{Call, MAX_KEY, Outcome, State};
pub use declared::{
    ArgConfig, CommandConfig, CommandName, EffectConfig, InvalidCommandName, PublishConfig, Signed,
    VerifyConfig,
};
pub use handled::Handled;
pub use rule::{Rejection, Rule};

use crate::clock::Clock;
use crate::outbox::{Begun, CommandId, NewCommand, Outbox, OutboxError};
use crate::uplink::{Note, Road};

/// Pauses before an answer is sent again (client conventions §6.1).
const ANSWER_AGAIN: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];
/// How long an adapter may take.
const ADAPTER: Duration = Duration::from_secs(30);

/// A request, opened.
pub struct Request {
    /// Who sent it, as the servers vouch.
    pub from: AtSign,
    /// Its name: for whom it is, and its id.
    pub name: RpcName,
    /// What it says.
    pub plain: Zeroizing<Vec<u8>>,
}

/// What may be done, and by whom.
#[derive(Clone, Default)]
pub struct Declared {
    /// The declared commands.
    pub rules: Arc<BTreeMap<CommandName, Rule>>,
    /// The adapters, by name.
    pub adapters: BTreeMap<String, mpsc::Sender<Command>>,
}

/// What commands need.
pub struct Commands<R, C> {
    /// Where it is written down that one begins.
    pub outbox: Outbox,
    /// The way back to the callers.
    pub road: R,
    /// What time it is.
    pub clock: Arc<C>,
    /// What may be done, and by whom: as it is when a request comes.
    pub declared: watch::Receiver<Declared>,
    /// The last part of key names.
    pub namespace: String,
    /// Where it is counted what they come to.
    pub handled: Arc<Handled>,
}

/// Whom to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Caller {
    atsign: AtSign,
    device: DeviceName,
    request: RequestId,
}

impl<R: Road, C: Clock> Commands<R, C> {
    /// Carries out `requests` until there are no more to come.
    ///
    /// # Errors
    /// When the outbox no longer answers.
    pub async fn run(self, mut requests: mpsc::Receiver<Request>) -> Result<(), OutboxError> {
        self.report_unfinished().await?;
        let mut under_way = FuturesUnordered::new();
        let mut open = true;
        while open || !under_way.is_empty() {
            tokio::select! {
                request = requests.recv(), if open => match request {
                    Some(request) => under_way.push(self.handle(request)),
                    None => open = false,
                },
                Some(handled) = under_way.next() => handled?,
            }
        }
        Ok(())
    }

    /// What a former run left unfinished may have happened or not; whoever asked is told so.
    async fn report_unfinished(&self) -> Result<(), OutboxError> {
        let outcome = Outcome::because(State::Unknown, "the agent was interrupted");
        for unfinished in self.outbox.give_up_unfinished(record(&outcome)).await? {
            warn!(caller = %unfinished.id.caller, device = unfinished.device, "a command was interrupted");
            if let (Ok(device), Ok(request)) = (unfinished.device.parse(), unfinished.request.parse()) {
                let caller = Caller { atsign: unfinished.id.caller, device, request: RequestId(request) };
                self.answer(&caller, Kind::Error, &outcome).await;
            }
        }
        Ok(())
    }

    async fn handle(&self, request: Request) -> Result<(), OutboxError> {
        let Request { from, name, plain } = request;
        let Some(device) =
            name.domain.strip_prefix("cmd.").and_then(|device| device.parse::<DeviceName>().ok())
        else {
            debug!(%from, "a request for no device");
            return Ok(());
        };
        let rules = Arc::clone(&self.declared.borrow().rules);
        let of_device = rules.iter().filter(|(name, _)| name.device == device);
        if !of_device.clone().any(|(_, rule)| rule.allows(&from)) {
            // Not even that there is such a device.
            debug!(%from, %device, "a request from somebody who may ask for nothing");
            return Ok(());
        }
        let caller = Caller { atsign: from, device: device.clone(), request: name.id };
        let call = match parse(&plain, name.id) {
            Ok(call) => call,
            Err(reason) => {
                self.handled.count(State::Rejected);
                self.answer(&caller, Kind::Nack, &Outcome::because(State::Rejected, reason)).await;
                return Ok(());
            }
        };
        let wanted = of_device
            .into_iter()
            .find(|(name, rule)| name.command == call.command && rule.allows(&caller.atsign));
        match wanted {
            Some((name, rule)) => self.carry_out(caller, name, rule, call).await,
            None => {
                let outcome = Outcome::because(State::Rejected, "there is no such command for you");
                self.handled.count(outcome.state);
                self.answer(&caller, Kind::Nack, &outcome).await;
                Ok(())
            }
        }
    }

    async fn carry_out(
        &self,
        caller: Caller,
        name: &CommandName,
        rule: &Rule,
        call: Call,
    ) -> Result<(), OutboxError> {
        let key = call.key.clone().unwrap_or_else(|| caller.request.0.to_string());
        let id = CommandId { caller: caller.atsign.clone(), key };
        if let Some(begun) = self.outbox.recall(id.clone()).await? {
            self.repeat(&caller, begun).await;
            return Ok(());
        }
        let now = self.clock.now();
        let order = match rule.decide(&call, now) {
            Ok(order) => order,
            Err(rejection) => {
                self.handled.count(rejection.state());
                info!(caller = %caller.atsign, command = %name, %rejection, "rejected a command");
                self.answer(&caller, Kind::Nack, &Outcome::because(rejection.state(), &rejection)).await;
                return Ok(());
            }
        };
        let once = i64::try_from(rule.once.as_millis()).unwrap_or(i64::MAX);
        let new = NewCommand {
            id: id.clone(),
            request: caller.request.0.to_string(),
            device: caller.device.to_string(),
            idempotent: rule.idempotent,
            expires_ms: call.expires,
            forget_ms: now.wall_ms().saturating_add(once).max(call.expires),
        };
        let begun = self.outbox.begin(new).await?;
        if begun != Begun::Now {
            self.repeat(&caller, begun).await;
            return Ok(());
        }
        info!(caller = %caller.atsign, command = %name, "a command begins");
        let accepted = Outcome::of(State::Accepted);
        let (outcome, ()) =
            tokio::join!(self.order(&rule.adapter, order), self.answer(&caller, Kind::Ack, &accepted));
        self.outbox.end(id, record(&outcome)).await?;
        self.handled.count(outcome.state);
        info!(caller = %caller.atsign, command = %name, state = ?outcome.state, reason = outcome.reason, "a command ended");
        self.answer(&caller, kind_of(&outcome), &outcome).await;
        Ok(())
    }

    /// Answers what was asked before.
    async fn repeat(&self, caller: &Caller, begun: Begun) {
        match begun {
            Begun::Now | Begun::Running => {
                self.answer(caller, Kind::Ack, &Outcome::of(State::Accepted)).await
            }
            Begun::Ended(recorded) => {
                let outcome = serde_json::from_str(&recorded)
                    .unwrap_or_else(|_| Outcome::because(State::Unknown, "the record of it is damaged"));
                self.answer(caller, kind_of(&outcome), &outcome).await;
            }
            Begun::Forgotten => {
                let outcome = Outcome::because(State::Expired, "commands of that time have been forgotten");
                self.answer(caller, Kind::Nack, &outcome).await;
            }
        }
    }

    /// Has an adapter do it.
    async fn order(&self, adapter: &str, order: Order) -> Outcome {
        let adapter = self.declared.borrow().adapters.get(adapter).cloned();
        let Some(adapter) = adapter else {
            return Outcome::because(State::Failed, "the adapter does not run");
        };
        let (done, told) = oneshot::channel();
        if adapter.try_send(Command { order, done }).is_err() {
            return Outcome::because(State::Failed, "the adapter takes no more commands now");
        }
        match timeout(ADAPTER, told).await {
            Ok(Ok(Ok(()))) => Outcome::of(State::Done),
            Ok(Ok(Err(error))) if error.may_have_happened() => Outcome::because(State::Unknown, error),
            Ok(Ok(Err(error))) => Outcome::because(State::Failed, error),
            Ok(Err(_)) => Outcome::because(State::Unknown, "the adapter was stopped"),
            Err(_) => Outcome::because(State::Unknown, "the device did not answer"),
        }
    }

    /// Sends an answer, with a few tries. Should all of them fail, the caller may ask again.
    async fn answer(&self, caller: &Caller, kind: Kind, outcome: &Outcome) {
        let Caller { atsign, device, request } = caller;
        let payload = serde_json::to_value(outcome).unwrap_or_default();
        let answer = Answer { req_id: *request, resp_type: kind, payload, message: outcome.reason.clone() };
        let Ok(plain) = serde_json::to_string(&answer) else { return };
        let base = self.namespace.clone();
        let name = RpcName { kind, id: *request, domain: format!("cmd.{device}"), base }.to_string();
        let ttln = Duration::from_millis(rpc::TTLN_MS);
        let mut pauses = ANSWER_AGAIN.iter();
        let note = Note { device, to: atsign, id: None, name: &name, plain: &plain, ttln };
        while let Err(error) = self.road.notify(note).await {
            match pauses.next() {
                Some(pause) => sleep(*pause).await,
                None => {
                    warn!(%error, caller = %atsign, "cannot answer");
                    return;
                }
            }
        }
    }
}

/// How an outcome is written down.
fn record(outcome: &Outcome) -> String {
    serde_json::to_string(outcome).expect("two words are always JSON")
}

fn kind_of(outcome: &Outcome) -> Kind {
    match outcome.state {
        State::Done => Kind::Success,
        State::Accepted => Kind::Ack,
        State::Rejected | State::Expired => Kind::Nack,
        State::Failed | State::Unknown => Kind::Error,
    }
}

/// The call in a request's value.
fn parse(plain: &[u8], id: RequestId) -> Result<Call, String> {
    let request: rpc::Request = serde_json::from_slice(plain).map_err(|_| "not a request".to_owned())?;
    if request.req_id != id {
        return Err("the request's id is not that of its name".into());
    }
    let call: Call =
        serde_json::from_value(request.payload).map_err(|error| format!("not a command: {error}"))?;
    match &call.key {
        Some(key) if key.is_empty() || key.len() > MAX_KEY => Err(format!("a key has 1 to {MAX_KEY} bytes")),
        _ => Ok(call),
    }
}
