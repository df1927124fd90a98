//! `plookup`: somebody's public record (atProtocol wire reference §4.10).

use at_protocol::AtKey;
use at_protocol::verb::PLookup;

use super::fetch::{Foreign, foreign};
use super::read::own;
use super::{Answered, Request};

pub(super) async fn perform(request: &Request<'_>, lookup: PLookup) -> Answered {
    let PLookup { name, owner, shape, bypass_cache } = lookup;
    let key = AtKey::Public { name: name.clone(), owner: owner.clone() };
    if owner == *request.tenant {
        return own(request, request.tenant, &key, shape).await;
    }
    let cached = AtKey::CachedPublic { name, owner };
    foreign(request, Foreign { key, cached, shape, bypass_cache }).await
}
