//! `to`: the public keys of the atSign that the caller wants (atProtocol wire reference §3.6).

use at_protocol::response::Response;
use serde_json::Map;

use super::read::Whole;
use super::{Answered, Request, json};
use crate::tenant::{public_key, signing_public_key};

pub(super) async fn perform(request: &Request<'_>) -> Answered {
    let mut shown = Map::new();
    for key in [public_key(request.tenant), signing_public_key(request.tenant)] {
        let found = request.node.store.record(request.tenant, &key).await?;
        if let Some(record) = found.filter(|record| record.is_active(request.now)) {
            let metadata = record.shown(key.owner());
            let whole = Whole { key: key.to_string(), data: Some(record.value), metadata };
            shown.insert(key.name().to_string(), serde_json::json!(whole));
        }
    }
    Ok(Response::Data(json(&shown)))
}
