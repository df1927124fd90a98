//! `delete`: removes a record (atProtocol wire reference §4.7).

use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Delete, Operation};
use at_protocol::{AtKey, ErrorCode, Metadata};

use super::update::announced;
use super::{Answered, Request};
use crate::store::{Edit, How, Write};
use crate::tenant::private_key;

/// Names of records without which the atSign is lost to everybody.
const PROTECTED: [&str; 3] = ["signing_publickey", "signing_privatekey", "publickey"];

pub(super) async fn perform(request: &Request<'_>, delete: Delete) -> Answered {
    let key = delete.key;
    if let Some(name) = protected(request, &key) {
        let message = format!("Cannot delete protected key: '{name}{}'", request.tenant);
        return Err(Failure::new(ErrorCode::Unauthorized, message));
    }
    let mut notification = announced(request, &key, Operation::Delete, None, &Metadata::default());
    if let (Some(notification), Some(priority)) = (&mut notification, delete.priority) {
        notification.priority = priority;
    }
    let how = How { uncommitted: delete.uncommitted, force: delete.force, at: delete.deleted_at };
    let mut edits = vec![Edit::But(how, Box::new(Edit::Delete { key: key.clone() }))];
    if let AtKey::PrivateKey { .. } = key {
        // The secret was used: it must not come back at the next start.
        edits.push(Edit::Update {
            key: private_key("at_secret_deleted"),
            value: "true".to_owned(),
            metadata: Metadata::default(),
        });
    }
    let write = Write { edits, notification, now: request.now };
    let commits = request.node.store.write(request.tenant, write).await??;
    Ok(Response::Data(commits.first().copied().unwrap_or(-1).to_string()))
}

/// What a protected key is called in the refusal.
fn protected(request: &Request<'_>, key: &AtKey) -> Option<String> {
    let name = match key {
        AtKey::Public { name, owner } if owner == request.tenant => name,
        AtKey::Shared { name, owner, with } if owner == request.tenant && with == owner => name,
        AtKey::Public { .. }
        | AtKey::Shared { .. }
        | AtKey::Own { .. }
        | AtKey::CachedPublic { .. }
        | AtKey::CachedShared { .. }
        | AtKey::PrivateKey { .. }
        | AtKey::Private { .. } => return request.node.config.records.protects(key),
    };
    let ours = PROTECTED.contains(&name.as_str()).then(|| name.to_string());
    ours.or_else(|| request.node.config.records.protects(key))
}
