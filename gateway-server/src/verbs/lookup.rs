//! `lookup`: what an atSign shares with the caller (atProtocol wire reference §4.9).

use at_protocol::AtKey;
use at_protocol::response::Response;
use at_protocol::verb::Lookup;

use super::fetch::{Foreign, foreign};
use super::read::own;
use super::{Answered, Request};
use crate::access::Principal;

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
                let key = AtKey::Shared { name, owner, with };
                return foreign(request, Foreign { key, cached, shape, bypass_cache }).await;
            }
            AtKey::Shared { name, owner, with }
        }
    };
    own(request, request.tenant, &key, shape).await
}
