//! Records of other atSigns: fetched from their servers, and kept as they allow (atProtocol wire reference
//! §4.9, §4.10).

use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Lookup, Shape};
use at_protocol::{AtKey, ErrorCode, Verb};

use super::copies::kept;
use super::read::{Whole, cut, own, shown};
use super::{Answered, Request, missing};
use crate::peers::AskError;
use crate::store::{Edit, Write};

/// A record of somebody else that the owner's connection wants to read.
pub(super) struct Foreign {
    /// The record as its owner names it.
    pub(super) key: AtKey,
    /// The copy that is kept of it.
    pub(super) cached: AtKey,
    /// How much of it is wanted.
    pub(super) shape: Shape,
    /// Whether a copy will not do.
    pub(super) bypass_cache: bool,
}

/// Answers from a fresh copy, or fetches the record and keeps what may be kept of it.
pub(super) async fn foreign(request: &Request<'_>, foreign: Foreign) -> Answered {
    let Foreign { key, cached, shape, bypass_cache } = foreign;
    let copy = request.node.store.record(request.tenant, &cached).await?;
    if let Some(copy) = copy.as_ref().filter(|copy| !bypass_cache && copy.is_fresh(request.now)) {
        return Ok(shown(request, shape, &cached, copy.clone()));
    }
    let gone = match fetch(request, &key).await {
        Ok(whole) => {
            change(request, kept(request, &cached, &whole, copy.as_ref())).await?;
            return Ok(Response::Data(cut(shape, whole)));
        }
        Err(error @ AskError::Missing(_)) => error.into(),
        Err(error) => return Err(error.into()),
    };
    if copy.is_some() {
        change(request, vec![Edit::Delete { key: cached }]).await?;
    }
    Err(gone)
}

/// Fetches a record from its owner's server.
pub(super) async fn fetch(request: &Request<'_>, key: &AtKey) -> Result<Whole, AskError> {
    let text = fetch_text(request, key).await?;
    // What is `null` is no whole record.
    serde_json::from_str(&text).map_err(|_| AskError::from(missing(key)))
}

async fn fetch_text(request: &Request<'_>, key: &AtKey) -> Result<String, AskError> {
    let Some(owner) = key.owner().cloned() else { return Err(AskError::from(missing(key))) };
    let proved = matches!(key, AtKey::Shared { .. });
    if request.node.is_hosted(&owner) {
        if proved && request.node.is_blocked(&owner, request.tenant).await.map_err(Failure::from)? {
            return Err(AskError::Handshake("Unable to connect".to_owned()));
        }
        return match own(request, &owner, key, Shape::All).await? {
            Response::Data(text) => Ok(text),
            Response::SpacedData(_) | Response::Silence | Response::Error(_) | Response::State(..) => {
                Err(AskError::from(missing(key)))
            }
        };
    }
    let lookup =
        Lookup { name: key.name().clone(), owner: owner.clone(), shape: Shape::All, bypass_cache: false };
    request.node.ask(request.tenant, &owner, &Verb::Lookup(lookup).to_string(), proved).await
}

/// Changes records, if there is something to change.
pub(super) async fn change(request: &Request<'_>, edits: Vec<Edit>) -> Result<(), Failure> {
    if !edits.is_empty() {
        let write = Write { edits, notification: None, now: request.now };
        request.node.store.write(request.tenant, write).await??;
    }
    Ok(())
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let code = match &error {
            AskError::NoSuchAtSign(_) => ErrorCode::SecondaryNotFound,
            AskError::Unreachable(_) => ErrorCode::UnableToConnect,
            AskError::Handshake(_) => ErrorCode::Handshake,
            AskError::Timeout => ErrorCode::Timeout,
            AskError::Missing(_) => ErrorCode::KeyNotFound,
            AskError::Refused(error) => error.code().unwrap_or(ErrorCode::InternalException),
        };
        // The other server's error ends a request, not this connection.
        Self { code, message: error.to_string(), close: false }
    }
}
