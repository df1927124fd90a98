//! `plookup`: somebody's public record (atProtocol wire reference §4.10).

use at_protocol::verb::PLookup;
use at_protocol::{AtKey, Metadata};

use super::fetch::{Foreign, foreign};
use super::read::own;
use super::{Answered, Request};
use crate::store::Edit;

/// How long a copy is kept whose owner says nothing about copies, in milliseconds.
const UNASKED_COPY: u64 = 24 * 60 * 60 * 1000;

pub(super) async fn perform(request: &Request<'_>, lookup: PLookup) -> Answered {
    let PLookup { name, owner, shape, bypass_cache } = lookup;
    let key = AtKey::Public { name: name.clone(), owner: owner.clone() };
    if owner == *request.tenant {
        return own(request, request.tenant, &key, shape).await;
    }
    let is_public_key = name.as_str() == "publickey";
    let cached = AtKey::CachedPublic { name, owner };
    let copy = cached.clone();
    foreign(request, Foreign { key, cached, shape, bypass_cache }, |whole| {
        let metadata = copied(is_public_key, &whole.metadata.set);
        whole.data.clone().map(|value| Edit::Replace { key: copy, value, metadata })
    })
    .await
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
