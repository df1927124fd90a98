//! Calling another atSign: a request by notification, and its answers by notification (AtRpc).

use std::time::{Duration, SystemTime};

use at_protocol::key::InvalidKey;
use at_protocol::rpc::{Answer, Kind, Request, RequestId, RpcName, TTLN_MS};
use at_protocol::{AtSign, Timestamp};
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout_at};
use zeroize::Zeroizing;

use crate::client::Client;
use crate::monitor::{Incoming, Monitor, MonitorConfig, MonitorError, Payload};
use crate::notify::{NotifyRequest, SendError, Status};

/// How far back the answer is looked for: more than clocks of client and server should differ.
const LOOK_BACK_MS: u64 = 60 * 60 * 1000;
/// When the own server is first asked whether the request has been delivered, and how often then, as the
/// Dart client does (client conventions §5.1).
const ASK_FIRST: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// A request on its way, or answered.
pub struct Call {
    client: Client,
    monitor: Monitor,
    to: AtSign,
    id: RequestId,
    notification: String,
    deadline: Instant,
    /// When to ask whether it has been delivered; never again once it has.
    ask_at: Option<Instant>,
    over: bool,
}

/// What is asked, and of whom.
pub struct CallRequest<'a> {
    /// Of whom.
    pub to: &'a AtSign,
    /// What is called, such as `cmd.boiler`.
    pub domain: &'a str,
    /// The namespace of both parties.
    pub base: &'a str,
    /// What is wanted.
    pub payload: Value,
    /// How long to wait for the outcome.
    pub wait: Duration,
}

/// Where a call stands.
#[derive(Debug, Clone, PartialEq)]
pub enum CallState {
    /// The callee's server has the request.
    Delivered,
    /// The callee has it and will act.
    Accepted {
        /// What the callee has to say already.
        payload: Value,
    },
    /// The callee has acted.
    Done {
        /// What came of it.
        payload: Value,
    },
    /// The callee has acted and failed.
    Failed {
        /// What came of it.
        payload: Value,
        /// Why, for people.
        message: Option<String>,
    },
    /// The callee will not act.
    Rejected {
        /// What the callee says.
        payload: Value,
        /// Why, for people.
        message: Option<String>,
    },
    /// No outcome came in time. The callee may have acted, or may yet.
    Unanswered,
}

/// Why a call was not made.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Domain or base are not parts of a key.
    #[error("cannot call {domain} in {base}: {source}")]
    Name {
        /// The domain.
        domain: String,
        /// The base namespace.
        base: String,
        /// What is wrong with them.
        source: InvalidKey,
    },
    /// The request was not sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The answers cannot be listened for.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
}

impl Client {
    /// Sends a request, under an id of its own, and listens for what becomes of it. Returns when the own
    /// atServer has it.
    ///
    /// # Errors
    /// The request was not sent.
    pub async fn call(&self, request: CallRequest<'_>) -> Result<Call, CallError> {
        let CallRequest { to, domain, base, payload, wait } = request;
        let asked = SystemTime::now();
        let id = RequestId(micros(asked));
        let name = RpcName { kind: Kind::Request, id, domain: domain.to_owned(), base: base.to_owned() };
        let name = name.key_name().map_err(|source| CallError::Name {
            domain: domain.to_owned(),
            base: base.to_owned(),
            source,
        })?;
        let plain = serde_json::to_vec(&Request { req_id: id, payload });
        let plain = Zeroizing::new(plain.expect("JSON values and a number are written to memory"));
        let ttln = wait.max(Duration::from_millis(TTLN_MS));
        let notify = NotifyRequest { ttln: Some(ttln), ..NotifyRequest::new(to, &name, &plain) };
        let notification = self.notify(notify).await?;
        // Answers that come before we listen are replayed: the id makes them ours.
        let since = Timestamp::from(asked).as_millis().saturating_sub_unsigned(LOOK_BACK_MS);
        let monitor = self.monitor(MonitorConfig {
            regex: Some(format!(r"\b{}\.{}\.__rpcs\.{}@", id.0, literal(domain), literal(base))),
            since: Some(Timestamp::from_millis(since.max(0))),
            ..MonitorConfig::default()
        });
        let now = Instant::now();
        Ok(Call {
            client: self.clone(),
            monitor,
            to: to.clone(),
            id,
            notification,
            deadline: now + wait,
            ask_at: Some(now + ASK_FIRST),
            over: false,
        })
    }
}

impl Call {
    /// The id of the request.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The next state, or `None` after the last: done, failed, rejected or unanswered.
    ///
    /// # Errors
    /// The answers cannot be listened for.
    pub async fn next(&mut self) -> Result<Option<CallState>, CallError> {
        while !self.over {
            tokio::select! {
                incoming = timeout_at(self.deadline, self.monitor.next()) => match incoming {
                    Err(_) => {
                        self.over = true;
                        return Ok(Some(CallState::Unanswered));
                    }
                    Ok(incoming) => {
                        if let Some(state) = self.answered(&incoming?) {
                            self.ask_at = None;
                            self.over = !matches!(state, CallState::Accepted { .. });
                            return Ok(Some(state));
                        }
                    }
                },
                () = sleep_until(self.ask_at.unwrap_or(self.deadline)), if self.ask_at.is_some() => {
                    self.ask_at = Some(Instant::now() + ASK_AGAIN);
                    // A failure to ask is no news about the call.
                    if let Ok(Status::Delivered) = self.client.notify_status(&self.notification).await {
                        self.ask_at = None;
                        return Ok(Some(CallState::Delivered));
                    }
                }
            }
        }
        Ok(None)
    }

    /// What the callee says, if it is the callee, sealed, and about this request.
    fn answered(&self, incoming: &Incoming) -> Option<CallState> {
        let name: RpcName = incoming.name.as_str().parse().ok()?;
        let Payload::Opened(plain) = &incoming.payload else { return None };
        let Answer { req_id, resp_type, payload, message } = serde_json::from_slice(plain).ok()?;
        if incoming.from != self.to || name.id != self.id || req_id != self.id || name.kind != resp_type {
            return None;
        }
        match resp_type {
            Kind::Ack => Some(CallState::Accepted { payload }),
            Kind::Success => Some(CallState::Done { payload }),
            Kind::Error => Some(CallState::Failed { payload, message }),
            Kind::Nack => Some(CallState::Rejected { payload, message }),
            Kind::Request => None,
        }
    }
}

fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Names have letters, digits, `_`, `-` and dots, of which a regex takes only the last for more than it is.
fn literal(name: &str) -> String {
    name.replace('.', r"\.")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stub::Town;

    fn request<'a>(to: &'a AtSign, wait: Duration) -> CallRequest<'a> {
        CallRequest {
            to,
            domain: "cmd.boiler",
            base: "plant7",
            payload: json!({"command": "setpoint"}),
            wait,
        }
    }

    /// Answers the first request that comes with these.
    async fn serve(callee: &Client, caller: &AtSign, answers: &[(Kind, Value)], stray: bool) {
        let regex = Some(r"request\.\d+\.cmd.boiler.__rpcs.plant7@".to_owned());
        let since = Some(Timestamp::from_millis(0));
        let mut monitor = callee.monitor(MonitorConfig { regex, since, ..MonitorConfig::default() });
        let incoming = monitor.next().await.unwrap();
        let Payload::Opened(plain) = &incoming.payload else { panic!() };
        let asked: Request = serde_json::from_slice(plain).unwrap();
        assert_eq!(asked.payload, json!({"command": "setpoint"}));
        let name: RpcName = incoming.name.as_str().parse().unwrap();
        assert_eq!(name.id, asked.req_id);
        for (kind, payload) in answers {
            let req_id = if stray { RequestId(1) } else { asked.req_id };
            let answer = Answer { req_id, resp_type: *kind, payload: payload.clone(), message: None };
            let plain = serde_json::to_vec(&answer).unwrap();
            let name = RpcName { kind: *kind, ..name.clone() }.key_name().unwrap();
            callee.notify(NotifyRequest::new(caller, &name, &plain)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_call_is_followed_to_its_end() {
        let done = || CallState::Done { payload: json!({"value": 62}) };
        let failed = || CallState::Failed { payload: json!({"value": 62}), message: None };
        let rejected = || CallState::Rejected { payload: json!({"value": 62}), message: None };
        let accepted = || CallState::Accepted { payload: json!({}) };
        for (answers, expected) in [
            (vec![Kind::Ack, Kind::Success], vec![accepted(), done()]),
            (vec![Kind::Ack, Kind::Error], vec![accepted(), failed()]),
            (vec![Kind::Ack, Kind::Nack], vec![accepted(), rejected()]),
            (vec![Kind::Success], vec![done()]),
        ] {
            let town = Town::with(&["@alice", "@bobby3"]).await;
            let (caller, callee) = (town.client("@alice"), town.client("@bobby3"));
            let answers: Vec<_> = answers
                .into_iter()
                .map(|kind| (kind, if kind == Kind::Ack { json!({}) } else { json!({"value": 62}) }))
                .collect();
            let follow = async {
                let mut call = caller.call(request(callee.atsign(), Duration::from_secs(60))).await.unwrap();
                let mut states = Vec::new();
                while let Some(state) = call.next().await.unwrap() {
                    states.push(state);
                }
                states
            };
            let (mut states, ()) = tokio::join!(follow, serve(&callee, caller.atsign(), &answers, false));
            // Whether it is asked for before the answer comes is a matter of time.
            states.retain(|state| *state != CallState::Delivered);
            assert_eq!(states, expected);
        }
    }

    #[tokio::test]
    async fn delivery_is_told_while_the_callee_is_silent() {
        let town = Town::with(&["@alice", "@bobby3"]).await;
        let (caller, callee) = (town.client("@alice"), "@bobby3".parse().unwrap());
        let mut call = caller.call(request(&callee, Duration::from_secs(60))).await.unwrap();
        assert_eq!(call.next().await.unwrap(), Some(CallState::Delivered));
    }

    #[tokio::test]
    async fn answers_to_other_requests_are_none() {
        let town = Town::with(&["@alice", "@bobby3"]).await;
        let (caller, callee) = (town.client("@alice"), town.client("@bobby3"));
        let call = async { caller.call(request(callee.atsign(), Duration::from_secs(60))).await.unwrap() };
        let answers = [(Kind::Success, json!({}))];
        let (mut call, ()) = tokio::join!(call, serve(&callee, caller.atsign(), &answers, true));
        call.deadline = Instant::now() + Duration::from_secs(1);
        call.ask_at = None;
        assert_eq!(call.next().await.unwrap(), Some(CallState::Unanswered));
        assert_eq!(call.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn names_that_no_key_can_have_are_refused() {
        let town = Town::with(&["@alice", "@bobby3"]).await;
        let callee = "@bobby3".parse().unwrap();
        let request = CallRequest { domain: "cmd:boiler", ..request(&callee, Duration::ZERO) };
        assert!(matches!(town.client("@alice").call(request).await, Err(CallError::Name { .. })));
    }
}
