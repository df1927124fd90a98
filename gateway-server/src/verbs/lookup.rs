//! `lookup`: what an atSign shares with the caller (atProtocol wire reference §4.9).

use at_protocol::AtKey;
use at_protocol::response::Response;
use at_protocol::verb::Lookup;

use super::fetch::{Foreign, foreign};
use super::read::{Whole, own};
use super::{Answered, Request};
use crate::access::Principal;
use crate::store::Edit;

pub(super) async fn perform(request: &Request<'_>, lookup: Lookup) -> Answered {
    let Lookup { name, owner, shape, bypass_cache } = lookup;
    let key = match request.who {
        Principal::Anonymous => {
            // The signature by which this server proves itself to another (§3.6, step 4).
            if let Some(signature) = request.node.cookies.find(&name, &owner) {
                return Ok(Response::Data(signature));
            }
            AtKey::Public { name, owner }
        }
        Principal::Peer(peer) => AtKey::Shared { name, owner, with: peer.clone() },
        Principal::Activation | Principal::Owner | Principal::Enrolled(_) => {
            let with = request.tenant.clone();
            if owner != with {
                let cached =
                    AtKey::CachedShared { name: name.clone(), owner: owner.clone(), with: with.clone() };
                let copy = cached.clone();
                let key = AtKey::Shared { name, owner, with };
                let wanted = Foreign { key, cached, shape, bypass_cache };
                return foreign(request, wanted, |whole| copied(copy, whole)).await;
            }
            AtKey::Shared { name, owner, with }
        }
    };
    own(request, request.tenant, &key, shape).await
}

/// The copy of a record, if its owner allows one.
fn copied(key: AtKey, whole: &Whole) -> Option<Edit> {
    let metadata = whole.metadata.set.clone();
    let value = whole.data.clone().filter(|_| metadata.ttr.is_some_and(|ttr| ttr != 0))?;
    Some(Edit::Replace { key, value, metadata })
}
