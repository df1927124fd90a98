//! `llookup`, and how every look-up shows a record (atProtocol wire reference §4.8, §4.9).

use at_protocol::metadata::RecordMetadata;
use at_protocol::response::{Failure, Response};
use at_protocol::verb::{LLookup, Shape};
use at_protocol::{AtKey, AtSign, KeyName};
use serde::{Deserialize, Serialize};

use super::{Answered, Request, json, missing};
use crate::store::Record;

/// How a value begins that stands for another record's.
const REFERENCE: &str = "atsign://";
/// How many references are followed (`lookup.depth_of_resolution`, wire reference §10.1).
const DEPTH: usize = 3;

/// The answer to `…:all:`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Whole {
    pub(crate) key: String,
    pub(crate) data: Option<String>,
    #[serde(rename = "metaData")]
    pub(crate) metadata: RecordMetadata,
}

pub(super) async fn llookup(request: &Request<'_>, lookup: LLookup) -> Answered {
    let record = request.node.store.record(request.tenant, &lookup.key).await?;
    let record = record.ok_or_else(|| missing(&lookup.key))?;
    Ok(shown(request, lookup.shape, &lookup.key, record))
}

/// A record of the tenant, with references followed on behalf of a reader of `scope`.
pub(super) async fn own(request: &Request<'_>, tenant: &AtSign, key: &AtKey, shape: Shape) -> Answered {
    let found = request.node.store.record(tenant, key).await?;
    let mut record = found.ok_or_else(|| missing(key))?;
    if record.value.trim_start().starts_with(REFERENCE) && shape != Shape::Meta {
        match follow(request, tenant, key, &record).await? {
            Some(value) => record.value = value,
            None => return Ok(Response::Data("null".to_owned())),
        }
    }
    Ok(shown(request, shape, key, record))
}

async fn follow(
    request: &Request<'_>,
    tenant: &AtSign,
    key: &AtKey,
    record: &Record,
) -> Result<Option<String>, Failure> {
    let mut value = record.value.clone();
    for _ in 0..DEPTH {
        let Some(target) = value.trim_start().strip_prefix(REFERENCE) else { return Ok(Some(value)) };
        let Some(next) = refered(request, tenant, key, target).await? else { return Ok(None) };
        value = next;
    }
    Ok(Some(value).filter(|value| !value.trim_start().starts_with(REFERENCE)))
}

/// What `target` (`landline@alice`) holds: in the reader's own scope, then in public.
async fn refered(
    request: &Request<'_>,
    tenant: &AtSign,
    key: &AtKey,
    target: &str,
) -> Result<Option<String>, Failure> {
    let Some((name, owner)) = target.trim().rsplit_once('@') else { return Ok(None) };
    let (Ok(name), Ok(owner)) = (name.parse::<KeyName>(), owner.parse::<AtSign>()) else { return Ok(None) };
    let scoped = match key {
        AtKey::Shared { with, .. } => {
            Some(AtKey::Shared { name: name.clone(), owner: owner.clone(), with: with.clone() })
        }
        AtKey::Public { .. }
        | AtKey::Own { .. }
        | AtKey::CachedPublic { .. }
        | AtKey::CachedShared { .. }
        | AtKey::PrivateKey { .. }
        | AtKey::Private { .. } => None,
    };
    for key in scoped.into_iter().chain([AtKey::Public { name, owner }]) {
        // A reference leads nobody where it may not read by itself.
        if crate::access::is_servers_own(tenant, &key) || !request.who.may_read(&key) {
            continue;
        }
        let record = request.node.store.record(tenant, &key).await?;
        if let Some(record) = record.filter(|record| record.is_active(request.now)) {
            return Ok(Some(record.value));
        }
    }
    Ok(None)
}

/// A record in the shape that was asked for.
pub(super) fn shown(request: &Request<'_>, shape: Shape, key: &AtKey, record: Record) -> Response {
    if !record.is_active(request.now) {
        return Response::Data("null".to_owned());
    }
    let metadata = record.shown(key.owner());
    Response::Data(cut(shape, Whole { key: key.to_string(), data: Some(record.value), metadata }))
}

/// The part of a whole record that was asked for.
pub(super) fn cut(shape: Shape, whole: Whole) -> String {
    match shape {
        Shape::Value => whole.data.unwrap_or_else(|| "null".to_owned()),
        Shape::Meta => json(&whole.metadata),
        Shape::All => json(&whole),
    }
}
