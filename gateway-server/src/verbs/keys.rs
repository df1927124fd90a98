//! `keys`: what an application keeps of its own keys (atProtocol wire reference §4.25).
//!
//! Everything here is bounded by the enrollment of the connection: it sees and removes what it has put
//! itself, and its two default keys; of others, only what they have made public.

use at_protocol::key::MAX_KEY;
use at_protocol::response::{Failure, Response};
use at_protocol::verb::{KeyVisibility, Keys, NewKey};
use at_protocol::{AtKey, ErrorCode, KeyName, Metadata};
use serde::{Deserialize, Serialize};

use super::{Answered, MAX_ANSWER, PAGE, Request, json, too_long};
use crate::access::{Enrolled, Principal};
use crate::enrollment::{MANAGE, Right, private_key_key, self_key_key};
use crate::store::{Edit, KeyPage, Record, Write};

/// The namespace of keys that belong to no application's data.
const GLOBAL: &str = "__global";

/// A key as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    value: String,
    key_type: Option<String>,
    enrollment_id: String,
    encryption_key_name: Option<String>,
}

pub(super) async fn perform(request: &Request<'_>, keys: Keys) -> Answered {
    let Principal::Enrolled(caller) = request.who else {
        let message = "Keys verb cannot be accessed without an enrollmentId";
        return Err(Failure::new(ErrorCode::InternalException, message));
    };
    match keys {
        Keys::Put(key) => put(request, caller, *key).await,
        Keys::List(visibility) => list(request, caller, visibility).await,
        Keys::Get(name) => {
            let (key, record) = find(request, &name).await?;
            let is_shown = is_public(&key) || is_default(request, caller, &key) || is_own(caller, &record);
            if is_shown { Ok(Response::Data(record.value)) } else { Err(denied(request, "get", &name)) }
        }
        Keys::Delete(name) => {
            let (key, record) = find(request, &name).await?;
            if !is_own(caller, &record) {
                return Err(denied(request, "delete", &name));
            }
            change(request, Edit::Delete { key }).await
        }
    }
}

/// The segment before the namespace in the names of kept keys.
fn segment(visibility: KeyVisibility) -> &'static str {
    match visibility {
        KeyVisibility::Public => "__public_keys",
        KeyVisibility::Private => "__private_keys",
        KeyVisibility::Own => "__self_keys",
    }
}

fn denied(request: &Request<'_>, word: &str, name: &str) -> Failure {
    request.who.denial(&format!("keys:{word}"), name)
}

async fn change(request: &Request<'_>, edit: Edit) -> Answered {
    let write = Write { edits: vec![edit], notification: None, now: request.now };
    request.node.store.write(request.tenant, write).await??;
    Ok(Response::Data("-1".to_owned()))
}

/// Namespaces of keys that this application may put.
fn may_put_in(caller: &Enrolled, namespace: &str) -> bool {
    match namespace {
        GLOBAL => true,
        MANAGE => caller.enrollment.manages(Right::Write),
        _ => caller.enrollment.right_in(namespace) == Some(Right::Write),
    }
}

async fn put(request: &Request<'_>, caller: &Enrolled, new: NewKey) -> Answered {
    let namespace = new.namespace.to_lowercase();
    let (segment, name) = (segment(new.visibility), new.name.as_str());
    // An application writes under its own name only, whatever it calls itself.
    let is_its_own =
        |said: &Option<String>, enrolled: &str| said.as_ref().is_none_or(|said| said == enrolled);
    if !may_put_in(caller, &namespace)
        || !is_its_own(&new.app, &caller.enrollment.app_name)
        || !is_its_own(&new.device, &caller.enrollment.device_name)
    {
        return Err(denied(request, "put", &format!("{name}.{segment}.{namespace}{}", request.tenant)));
    }
    let full = match (new.visibility, &new.app, &new.device) {
        (KeyVisibility::Private | KeyVisibility::Own, Some(app), Some(device)) => {
            format!("{app}.{device}.{name}.{segment}.{namespace}")
        }
        _ => format!("{name}.{segment}.{namespace}"),
    };
    let invalid = |message: String| Failure::new(ErrorCode::InvalidKey, message);
    let full: KeyName = full.parse().map_err(|error| invalid(format!("{error}")))?;
    let owner = request.tenant.clone();
    let key = match new.visibility {
        KeyVisibility::Public => AtKey::Public { name: full, owner },
        KeyVisibility::Private => AtKey::Private { name: full, owner },
        KeyVisibility::Own => AtKey::Own { name: full, owner },
    };
    let length = key.to_string().chars().count();
    if length > MAX_KEY {
        return Err(invalid(format!("key length {length} is greater than max allowed {MAX_KEY} chars")));
    }
    let before = request.node.store.record(request.tenant, &key).await?;
    if before.is_some_and(|before| before.is_active(request.now) && !is_own(caller, &before)) {
        return Err(denied(request, "put", &key.to_string()));
    }
    let stored = Stored {
        value: new.value,
        key_type: new.key_type,
        enrollment_id: caller.id.clone(),
        encryption_key_name: new.encryption_key_name,
    };
    change(request, Edit::Update { key, value: json(&stored), metadata: Metadata::default() }).await
}

/// A kept key by its full name. No other record is found here, whatever it is called.
async fn find(request: &Request<'_>, name: &str) -> Result<(AtKey, Record), Failure> {
    let missing = || Failure::new(ErrorCode::KeyNotFound, format!("key {name} not found in keystore"));
    let key: AtKey = name.parse().map_err(|_| missing())?;
    if key.owner() != Some(request.tenant) || !is_kept(&key) {
        return Err(missing());
    }
    let record = request.node.store.record(request.tenant, &key).await?;
    let record = record.filter(|record| record.is_active(request.now)).ok_or_else(missing)?;
    Ok((key, record))
}

fn is_kept(key: &AtKey) -> bool {
    let name = key.name().as_str();
    let has = |visibility| {
        let mut segments = name.rsplit('.');
        segments.next().is_some() && segments.next() == Some(segment(visibility))
    };
    match key {
        AtKey::Public { .. } => has(KeyVisibility::Public),
        AtKey::Private { .. } => has(KeyVisibility::Private),
        AtKey::Own { .. } => {
            has(KeyVisibility::Own)
                || name.ends_with(".default_enc_private_key.__manage")
                || name.ends_with(".default_self_enc_key.__manage")
        }
        AtKey::Shared { .. }
        | AtKey::CachedPublic { .. }
        | AtKey::CachedShared { .. }
        | AtKey::PrivateKey { .. } => false,
    }
}

fn is_public(key: &AtKey) -> bool {
    matches!(key, AtKey::Public { .. })
}

/// Whether this is one of the two keys that its approval left for this application.
fn is_default(request: &Request<'_>, caller: &Enrolled, key: &AtKey) -> bool {
    [private_key_key(&caller.id, request.tenant), self_key_key(&caller.id, request.tenant)]
        .into_iter()
        .flatten()
        .any(|default| default == *key)
}

fn is_own(caller: &Enrolled, record: &Record) -> bool {
    serde_json::from_str::<Stored>(&record.value).is_ok_and(|stored| stored.enrollment_id == caller.id)
}

async fn list(request: &Request<'_>, caller: &Enrolled, visibility: KeyVisibility) -> Answered {
    let tenant = request.tenant;
    let own = format!("{}.{}.", caller.enrollment.app_name, caller.enrollment.device_name).to_lowercase();
    let prefix = match visibility {
        KeyVisibility::Public => "public:".to_owned(),
        KeyVisibility::Private => format!("private:{own}"),
        KeyVisibility::Own => own,
    };
    let namespaces = [Some(GLOBAL), Some(MANAGE).filter(|_| caller.enrollment.manages(Right::Read))];
    let ends: Vec<String> = namespaces
        .into_iter()
        .flatten()
        .map(|namespace| format!(".{}.{namespace}{tenant}", segment(visibility)))
        .collect();
    let default = match visibility {
        KeyVisibility::Public => None,
        KeyVisibility::Private => private_key_key(&caller.id, tenant),
        KeyVisibility::Own => self_key_key(&caller.id, tenant),
    };
    let mut listed = Vec::new();
    if let Some(default) = default
        && request.node.store.record(tenant, &default).await?.is_some()
    {
        listed.push(default.to_string());
    }
    let (mut bytes, mut after) = (0, None);
    loop {
        let page = KeyPage { prefix: prefix.clone(), after, limit: PAGE, now: request.now };
        let keys = request.node.store.keys(tenant, page).await?;
        let Some(last) = keys.last().cloned() else { break };
        after = Some(last);
        for text in keys.into_iter().filter(|text| ends.iter().any(|end| text.ends_with(end))) {
            let Ok(key) = text.parse::<AtKey>() else { continue };
            let record = request.node.store.record(tenant, &key).await?;
            if !record.is_some_and(|record| is_own(caller, &record)) {
                continue;
            }
            bytes += text.len() + 3;
            if bytes > MAX_ANSWER {
                return Err(too_long());
            }
            listed.push(text);
        }
    }
    Ok(Response::Data(json(&listed)))
}
