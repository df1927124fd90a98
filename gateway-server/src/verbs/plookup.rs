//! `plookup`: somebody's public record (atProtocol wire reference §4.10).

use at_protocol::response::Response;
use at_protocol::verb::{Lookup, PLookup, Shape};
use at_protocol::{AtKey, Metadata, Verb};

use super::lookup::change;
use super::read::{Whole, cut, own, shown};
use super::{Answered, Request, missing};
use crate::peers::AskError;
use crate::store::Edit;

/// How long a copy is kept whose owner says nothing about copies, in milliseconds.
const UNASKED_COPY: u64 = 24 * 60 * 60 * 1000;

pub(super) async fn perform(request: &Request<'_>, lookup: PLookup) -> Answered {
    let PLookup { name, owner, shape, bypass_cache } = lookup;
    let key = AtKey::Public { name: name.clone(), owner: owner.clone() };
    if owner == *request.tenant {
        return own(request, request.tenant, &key, shape).await;
    }
    let cached = AtKey::CachedPublic { name: name.clone(), owner: owner.clone() };
    let copy = request.node.store.record(request.tenant, &cached).await?;
    if let Some(copy) = copy.as_ref().filter(|copy| !bypass_cache && copy.is_fresh(request.now)) {
        return Ok(shown(request, shape, &cached, copy.clone()));
    }
    let found = if request.node.is_hosted(&owner) {
        match own(request, &owner, &key, Shape::All).await {
            Ok(Response::Data(text)) => Ok(text),
            Ok(_) => return Err(missing(&key)),
            Err(failure) => Err(AskError::from(failure)),
        }
    } else {
        let line = Verb::Lookup(Lookup {
            name: name.clone(),
            owner: owner.clone(),
            shape: Shape::All,
            bypass_cache: false,
        });
        request.node.ask(request.tenant, &owner, &line.to_string(), false).await
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
    if let Some(value) = whole.data.clone() {
        let metadata = copied(name.as_str() == "publickey", &whole.metadata.set);
        change(request, Edit::Replace { key: cached, value, metadata }).await?;
    }
    Ok(Response::Data(cut(shape, whole)))
}

/// The metadata of a copy: a public key is kept for good, what has a `ttr` as it says, and all else for a
/// day without ever answering a look-up.
fn copied(is_public_key: bool, original: &Metadata) -> Metadata {
    match original.ttr {
        _ if is_public_key => Metadata { ttr: Some(-1), ..original.clone() },
        Some(ttr) if ttr != 0 => original.clone(),
        _ => Metadata { ttr: None, ttl: Some(UNASKED_COPY), ..original.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_live_as_their_owner_says() {
        let with = |ttr| Metadata { ttr, ..Metadata::default() };
        assert_eq!(copied(true, &with(None)).ttr, Some(-1));
        assert_eq!(copied(false, &with(Some(5))), with(Some(5)));
        assert_eq!(
            (copied(false, &with(None)).ttr, copied(false, &with(None)).ttl),
            (None, Some(86_400_000))
        );
    }
}
