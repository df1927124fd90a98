//! Copies of others' records: what is kept of what was fetched, and fetching it again (atProtocol wire
//! reference §4.9, §4.10, §6.5).

use at_protocol::key::MAX_CACHED_KEY;
use at_protocol::{AtKey, AtSign, KeyName, Metadata, Timestamp};
use futures_util::StreamExt as _;
use futures_util::stream;

use super::fetch::{change, fetch};
use super::read::Whole;
use super::{PAGE, Request};
use crate::access::Principal;
use crate::node::Node;
use crate::peers::AskError;
use crate::store::{Edit, Record, StoreError};

/// How long a copy is kept whose owner says nothing about copies, in milliseconds.
const UNASKED_COPY: u64 = 24 * 60 * 60 * 1000;
/// The record by which everybody encrypts for its owner.
const PUBLIC_KEY: &str = "publickey";

/// The changes by which a fetched record is kept as `cached`, where there was a copy `before` or not.
pub(super) fn kept(
    request: &Request<'_>,
    cached: &AtKey,
    whole: &Whole,
    before: Option<&Record>,
) -> Vec<Edit> {
    let fits = cached.to_string().chars().count() <= MAX_CACHED_KEY;
    let Some(value) = whole.data.clone().filter(|_| fits) else { return Vec::new() };
    let Some(metadata) = copied(cached, &whole.metadata.set) else { return Vec::new() };
    let mut edits = match before {
        Some(before) if before.value != value => public_key_changed(request, cached),
        Some(_) | None => Vec::new(),
    };
    edits.push(Edit::Replace { key: cached.clone(), value, metadata });
    edits
}

/// The metadata of a copy, if there may be one: a public key is kept for good, what has a `ttr` as it
/// says, and other public records for a day without ever answering a look-up.
fn copied(cached: &AtKey, original: &Metadata) -> Option<Metadata> {
    let is_asked = original.ttr.is_some_and(|ttr| ttr != 0);
    match cached {
        AtKey::CachedPublic { name, .. } if name.as_str() == PUBLIC_KEY => {
            Some(Metadata { ttr: Some(-1), ..original.clone() })
        }
        AtKey::CachedPublic { .. } if !is_asked => {
            Some(Metadata { ttr: None, ttl: Some(UNASKED_COPY), ..original.clone() })
        }
        AtKey::CachedPublic { .. } | AtKey::CachedShared { .. } if is_asked => Some(original.clone()),
        AtKey::CachedPublic { .. }
        | AtKey::CachedShared { .. }
        | AtKey::Public { .. }
        | AtKey::Own { .. }
        | AtKey::Shared { .. }
        | AtKey::PrivateKey { .. }
        | AtKey::Private { .. } => None,
    }
}

/// Who has a new public key cannot open the pair key any more that was sealed to the old one: it is put
/// aside, and the owner's clients find an event that says why.
fn public_key_changed(request: &Request<'_>, cached: &AtKey) -> Vec<Edit> {
    let AtKey::CachedPublic { name, owner: other } = cached else { return Vec::new() };
    if name.as_str() != PUBLIC_KEY {
        return Vec::new();
    }
    let own = |name: String| {
        let name: KeyName = name.parse().expect("an atSign's characters are a name's");
        AtKey::Own { name, owner: request.tenant.clone() }
    };
    let now = request.now.as_millis();
    let (pair, other) = (format!("shared_key.{}", other.as_str()), other.to_string());
    let event = serde_json::json!({
        "category": "atProtocol", "name": "atsign_pk_changed", "data": { "atSign": other },
    });
    vec![
        Edit::Rename { to: own(format!("{pair}.until.{now}")), from: own(pair) },
        Edit::Update {
            // Named by microseconds.
            key: own(format!("{now}000.events.__atserver")),
            value: event.to_string(),
            metadata: Metadata::default(),
        },
    ]
}

/// Fetches the copies again whose time has come, of all tenants: what has changed is replaced, what is
/// gone is deleted, and what cannot be had now stays.
pub(crate) async fn refresh(node: &Node) -> Result<(), StoreError> {
    for tenant in node.store.tenants().await? {
        if let Err(error) = refresh_of(node, &tenant.atsign).await {
            tracing::warn!(tenant = %tenant.atsign, %error, "copies are not refreshed");
        }
    }
    Ok(())
}

async fn refresh_of(node: &Node, tenant: &AtSign) -> Result<(), StoreError> {
    let (config, mut after) = (&node.config.refresh, String::new());
    loop {
        let copies = node.store.stale_copies(tenant, &after, PAGE, node.now()).await?;
        let Some(last) = copies.last() else { return Ok(()) };
        after = last.to_string();
        let work = stream::iter(copies).for_each_concurrent(config.parallel.max(1), |cached| async move {
            refresh_one(node, tenant, node.now(), &cached).await;
            tokio::time::sleep(config.pause).await;
        });
        work.await;
    }
}

async fn refresh_one(node: &Node, tenant: &AtSign, now: Timestamp, cached: &AtKey) {
    let request = Request { node, session: "", tenant, who: &Principal::Owner, now };
    let Some(key) = original(cached) else { return };
    let before = match node.store.record(tenant, cached).await {
        Ok(Some(before)) => before,
        Ok(None) => return,
        Err(error) => return tracing::warn!(%tenant, %error, "a copy cannot be read"),
    };
    let edits = match fetch(&request, &key).await {
        Ok(whole) => {
            let is_same = whole.data.as_ref() == Some(&before.value)
                && copied(cached, &whole.metadata.set)
                    .is_some_and(|metadata| metadata.merged_over(&Metadata::default()) == before.metadata);
            if is_same { Vec::new() } else { kept(&request, cached, &whole, Some(&before)) }
        }
        Err(AskError::Missing(_)) => vec![Edit::Delete { key: cached.clone() }],
        Err(error) => return tracing::debug!(%tenant, %cached, %error, "a copy is not refreshed"),
    };
    if let Err(failure) = change(&request, edits).await {
        tracing::warn!(%tenant, %failure, "a copy is not refreshed");
    }
}

/// The record of which this is a copy.
fn original(cached: &AtKey) -> Option<AtKey> {
    match cached.clone() {
        AtKey::CachedPublic { name, owner } => Some(AtKey::Public { name, owner }),
        AtKey::CachedShared { name, owner, with } => Some(AtKey::Shared { name, owner, with }),
        AtKey::Public { .. }
        | AtKey::Own { .. }
        | AtKey::Shared { .. }
        | AtKey::PrivateKey { .. }
        | AtKey::Private { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_live_as_their_owner_says() {
        let with = |ttr| Metadata { ttr, ..Metadata::default() };
        let copied = |cached: &str, ttr| {
            let metadata = copied(&cached.parse().unwrap(), &with(ttr));
            metadata.map(|metadata| (metadata.ttr, metadata.ttl))
        };
        assert_eq!(copied("cached:public:publickey@bob", None), Some((Some(-1), None)));
        assert_eq!(copied("cached:public:x@bob", Some(5)), Some((Some(5), None)));
        assert_eq!(copied("cached:public:x@bob", Some(0)), Some((None, Some(86_400_000))));
        assert_eq!(copied("cached:@alice:x@bob", Some(-1)), Some((Some(-1), None)));
        assert_eq!(copied("cached:@alice:x@bob", None), None);
        assert_eq!(copied("public:x@bob", Some(-1)), None);
    }
}
