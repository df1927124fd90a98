//! `lookup`: what an atSign shares with the caller (atProtocol wire reference §4.9).

use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Lookup, Shape};
use at_protocol::{AtKey, AtSign, ErrorCode, KeyName};

use super::read::{Whole, cut, own, shown};
use super::{Answered, Request, missing};
use crate::access::Principal;
use crate::peers::AskError;
use crate::store::{Edit, Write};

pub(super) async fn perform(request: &Request<'_>, lookup: Lookup) -> Answered {
    let Lookup { name, owner, shape, bypass_cache } = lookup;
    match request.who {
        Principal::Anonymous => {
            // The signature by which this server proves itself to another (§3.6, step 4).
            if let Some(signature) = request.node.cookies.find(&name, &owner) {
                return Ok(Response::Data(signature));
            }
            own(request, request.tenant, &AtKey::Public { name, owner }, shape).await
        }
        Principal::Peer(peer) => {
            let key = AtKey::Shared { name, owner, with: peer.clone() };
            own(request, request.tenant, &key, shape).await
        }
        Principal::Activation | Principal::Owner | Principal::Enrolled(_) => {
            if owner == *request.tenant {
                let key = AtKey::Shared { name, with: owner.clone(), owner };
                return own(request, request.tenant, &key, shape).await;
            }
            others(request, name, owner, shape, bypass_cache).await
        }
    }
}

async fn others(
    request: &Request<'_>,
    name: KeyName,
    owner: AtSign,
    shape: Shape,
    bypass_cache: bool,
) -> Answered {
    let with = request.tenant.clone();
    let cached = AtKey::CachedShared { name: name.clone(), owner: owner.clone(), with: with.clone() };
    let copy = request.node.store.record(request.tenant, &cached).await?;
    if let Some(copy) = copy.as_ref().filter(|copy| !bypass_cache && copy.is_fresh(request.now)) {
        return Ok(shown(request, shape, &cached, copy.clone()));
    }
    let key = AtKey::Shared { name: name.clone(), owner: owner.clone(), with };
    let found = if request.node.is_hosted(&owner) {
        match own(request, &owner, &key, Shape::All).await {
            Ok(Response::Data(text)) => Ok(text),
            Ok(_) => return Err(missing(&key)),
            Err(failure) => Err(AskError::from(failure)),
        }
    } else {
        let line = at_protocol::Verb::Lookup(Lookup {
            name,
            owner: owner.clone(),
            shape: Shape::All,
            bypass_cache: false,
        });
        request.node.ask(request.tenant, &owner, &line.to_string(), true).await
    };
    let whole = match found.map(|text| serde_json::from_str::<Whole>(&text).ok()) {
        Ok(Some(whole)) => whole,
        Ok(None) | Err(AskError::Missing(_)) => {
            if copy.is_some() {
                change(request, Edit::Delete { key: cached }).await?;
            }
            return Err(missing(&key));
        }
        Err(error) => return Err(error.into()),
    };
    keep(request, cached, &whole).await?;
    Ok(Response::Data(cut(shape, whole)))
}

/// Keeps a copy of what was fetched, if its owner allows.
async fn keep(request: &Request<'_>, key: AtKey, whole: &Whole) -> Result<(), Failure> {
    let metadata = whole.metadata.set.clone();
    match (&whole.data, metadata.ttr) {
        (Some(value), Some(ttr)) if ttr != 0 => {
            change(request, Edit::Replace { key, value: value.clone(), metadata }).await
        }
        _ => Ok(()),
    }
}

/// One change of the tenant's own copies.
pub(super) async fn change(request: &Request<'_>, edit: Edit) -> Result<(), Failure> {
    let write = Write { edits: vec![edit], notification: None, now: request.now };
    request.node.store.write(request.tenant, write).await??;
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
