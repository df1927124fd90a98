//! What the verbs do: one file each. They see one tenant, through a [`Request`], and come to an
//! [`Effect`], which the session turns into bytes.

mod batch;
mod config;
mod copies;
mod delete;
mod enroll;
mod fetch;
mod keys;
mod login;
mod lookup;
mod monitor;
mod notifications;
mod notify;
mod notify_all;
mod otp;
mod plookup;
mod read;
mod scan;
mod service;
mod stats;
mod stream;
mod sync;
mod to;
mod update;

use std::sync::Arc;
use std::time::Duration;

use at_protocol::response::{Failure, Response};
use at_protocol::{AtSign, ErrorCode, Timestamp, Verb};
use regex::{Regex, RegexBuilder};

use crate::access::{Enrolled, Principal, may};
use crate::monitors::{MAX_REGEX, Subscription};
use crate::node::Node;
use crate::store::{Refused, StoreError};
use crate::streams::{Receiving, Sending};

pub(crate) use copies::refresh;
pub(crate) use login::{Evidence, verify};
pub(crate) use notify::copy_fits;
pub use notify::said;
pub(crate) use read::Whole;

/// Largest answer, in bytes: what clients take as a line (atProtocol wire reference §2.2).
const MAX_ANSWER: usize = at_protocol::line::MAX_AUTHENTICATED;
/// Rows that are read from the store at once where an answer may need many.
const PAGE: usize = 500;

/// One verb's surroundings.
pub(crate) struct Request<'a> {
    /// The node.
    pub(crate) node: &'a Node,
    /// The session's id.
    pub(crate) session: &'a str,
    /// Whose server is spoken to.
    pub(crate) tenant: &'a AtSign,
    /// Who speaks.
    pub(crate) who: &'a Principal,
    /// When.
    pub(crate) now: Timestamp,
}

/// What a verb comes to.
pub(crate) enum Effect {
    /// An answer.
    Answer(Response),
    /// From now on the connection is told what is committed. `true`: first what is stored.
    Watch(Box<Subscription>, bool),
    /// An answer, after which the connection is bound to an enrollment.
    Bind(Arc<Enrolled>, Response),
    /// An answer; as long after it, in which nothing is heard any more, the connection ends.
    Farewell(Response, Duration),
    /// The connection has something to send, which somebody may take.
    Offer(Box<Sending>),
    /// From now on the connection is sent these bytes.
    Receive(Receiving),
    /// The connection ends without a word.
    Leave,
}

type Answered = Result<Response, Failure>;

/// Performs a verb, if it is allowed.
pub(crate) async fn perform(request: &Request<'_>, verb: Verb) -> Effect {
    if let Some(expired) = expired(request) {
        return Effect::Farewell(expired, Duration::ZERO);
    }
    match dispatch(request, verb).await {
        Ok(effect) => effect,
        Err(failure) => Effect::Answer(Response::Error(failure)),
    }
}

async fn dispatch(request: &Request<'_>, verb: Verb) -> Result<Effect, Failure> {
    if let Principal::Peer(peer) = request.who
        && request.node.is_blocked(request.tenant, peer).await?
    {
        // It was turned away after it had come in.
        return Err(Failure::new(ErrorCode::Blocked, "Unable to connect"));
    }
    may(request.who, request.tenant, &verb)?;
    request.node.note_lookup(request.tenant, request.who, &verb, request.now);
    let response = match verb {
        Verb::Monitor(monitor) => return monitor::perform(request, monitor).await,
        Verb::Stream(stream) => return stream::perform(request, stream).await,
        Verb::Enroll(enroll) => return Ok(enroll::perform(request, *enroll).await),
        Verb::Scan(scan) => scan::perform(request, scan).await,
        Verb::Update(update) => update::perform(request, *update).await,
        Verb::Delete(delete) => delete::perform(request, delete).await,
        Verb::LLookup(lookup) => read::llookup(request, lookup).await,
        Verb::Lookup(lookup) => lookup::perform(request, lookup).await,
        Verb::PLookup(lookup) => plookup::perform(request, lookup).await,
        Verb::Notify(notify) => notify::perform(request, *notify).await,
        Verb::NotifyAll(all) => notify_all::perform(request, *all).await,
        Verb::NotifyList(list) => notifications::list(request, list).await,
        Verb::NotifyStatus(status) => notifications::status(request, status).await,
        Verb::NotifyFetch(fetch) => notifications::fetch(request, fetch).await,
        Verb::NotifyRemove(remove) => notifications::remove(request, remove).await,
        Verb::Otp(otp) => otp::perform(request, otp).await,
        Verb::Keys(keys) => keys::perform(request, keys).await,
        Verb::Noop(noop) => service::noop(noop).await,
        Verb::Info(info) => service::info(request, info),
        Verb::Stats(stats) => stats::perform(request, stats).await,
        Verb::Sync(sync) => sync::perform(request, sync).await,
        Verb::To(_) => to::perform(request).await,
        Verb::Config(config) => config::perform(request, config).await,
        Verb::Batch(batch) => batch::perform(request, batch).await,
        Verb::From(_) | Verb::Cram(_) | Verb::Pkam(_) | Verb::Pol => {
            // The session answers these itself.
            Err(Failure::new(ErrorCode::InvalidSyntax, "invalid command"))
        }
    };
    response.map(Effect::Answer)
}

/// An enrollment's time is checked at every command (wire reference §3.3).
fn expired(request: &Request<'_>) -> Option<Response> {
    let Principal::Enrolled(enrolled) = request.who else { return None };
    enrolled.expires.filter(|expires| *expires <= request.now).map(|_| {
        let message = format!("The enrollment id: {} is expired. Closing the connection", enrolled.id);
        Response::State(ErrorCode::EnrollmentExpired, message)
    })
}

/// Compiles a caller's regex, which is bounded: time to match is linear, size is not.
fn regex(text: Option<&str>) -> Result<Option<Regex>, Failure> {
    // What matches everything costs a connection nothing.
    let Some(text) = text.filter(|text| *text != ".*") else { return Ok(None) };
    RegexBuilder::new(text).size_limit(MAX_REGEX).build().map(Some).map_err(|_| {
        let message = format!("Invalid regular expression. {text} is not a valid regex");
        Failure::new(ErrorCode::InvalidSyntax, message)
    })
}

fn missing(key: impl std::fmt::Display) -> Failure {
    Failure::new(ErrorCode::KeyNotFound, format!("{key} does not exist in keystore"))
}

fn too_long() -> Failure {
    let message = format!("the answer exceeds {MAX_ANSWER} bytes, narrow it with a regex");
    Failure::new(ErrorCode::InternalError, message)
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("answers are built of strings, numbers and plain maps")
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        // The database's own words are for the log.
        let message = match error {
            StoreError::Damaged(_) => {
                "this atSign's store is damaged and out of service until it is restored"
            }
            StoreError::Moving => "this atSign is moving to another node, and is served there soon",
            StoreError::Failed(_) | StoreError::Closed => {
                tracing::error!(%error, "a verb could not be performed");
                "the server's store failed, nothing was changed"
            }
        };
        Self::new(ErrorCode::DataStore, message)
    }
}

impl From<StoreError> for Response {
    fn from(error: StoreError) -> Self {
        Failure::from(error).into()
    }
}

impl From<Refused> for Response {
    fn from(refused: Refused) -> Self {
        Failure::from(refused).into()
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::Immutable(_) | Refused::Keys { .. } | Refused::Bytes { .. } => {
                ErrorCode::IllegalArguments
            }
            Refused::Missing(_) => ErrorCode::KeyNotFound,
        };
        Self::new(code, refused.to_string())
    }
}
