//! `update` and `update:meta`: write a record, or what is said about it, and tell whom it is shared with
//! (atProtocol wire reference §4.5, §4.6).

use at_protocol::key::MAX_KEY;
use at_protocol::response::{Failure, Response};
use at_protocol::verb::{MessageType, Operation, Priority, Strategy, Update};
use at_protocol::{AtKey, AtSign, ErrorCode, Metadata, Timestamp};

use super::{Answered, Request};
use crate::store::{Edit, How, Kind, Notification, Status, Write};

pub(super) async fn perform(request: &Request<'_>, update: Update) -> Answered {
    let Update { key, metadata, value, uncommitted } = update;
    check(&key, request.tenant)?;
    let notification = announced(request, &key, Operation::Update, value.clone(), &metadata);
    let edit = match value {
        Some(value) => Edit::Update { key, value, metadata },
        None => Edit::Describe { key, metadata },
    };
    let edit =
        if uncommitted { Edit::But(How { uncommitted, ..How::default() }, Box::new(edit)) } else { edit };
    let write = Write { edits: vec![edit], notification, now: request.now };
    let commits = request.node.store.write(request.tenant, write).await??;
    Ok(Response::Data(commits.first().copied().unwrap_or(-1).to_string()))
}

/// Whether the owner may write under this key at all.
fn check(key: &AtKey, tenant: &AtSign) -> Result<(), Failure> {
    let invalid = |message: String| Err(Failure::new(ErrorCode::InvalidKey, message));
    if let Some(owner) = key.owner().filter(|owner| *owner != tenant) {
        return invalid(format!(
            "Invalid update command - sharedBy atsign {owner} should be same as current atsign {tenant}"
        ));
    }
    let allowed = match key {
        AtKey::Public { .. } | AtKey::Own { .. } | AtKey::Shared { .. } => true,
        AtKey::PrivateKey { name } => name.as_str() == "at_pkam_publickey",
        AtKey::CachedPublic { .. } | AtKey::CachedShared { .. } | AtKey::Private { .. } => false,
    };
    if !allowed {
        return invalid("You may not update keys of type KeyType.invalidKey".to_owned());
    }
    match key.to_string().chars().count() {
        length if length > MAX_KEY => {
            invalid(format!("key length {length} is greater than max allowed {MAX_KEY} chars"))
        }
        _ => Ok(()),
    }
}

/// The notification of what happened to a record, for the one with whom it is shared.
pub(super) fn announced(
    request: &Request<'_>,
    key: &AtKey,
    operation: Operation,
    value: Option<String>,
    metadata: &Metadata,
) -> Option<Notification> {
    if request.node.testing.as_ref().is_some_and(|testing| !testing.auto_notify()) {
        return None;
    }
    let AtKey::Shared { owner, with, .. } = key else { return None };
    if !request.node.config.records.auto_notify {
        return None;
    }
    (owner == request.tenant && with != owner).then(|| {
        let ttln = request.node.config.notifications.ttln_ms();
        Notification {
            kind: Kind::Sent,
            id: crate::random::uuid(),
            from: owner.clone(),
            to: with.clone(),
            key: key.to_string(),
            value,
            operation,
            message_type: MessageType::Key,
            priority: Priority::Low,
            strategy: Strategy::All,
            latest_n: 1,
            notifier: "SYSTEM".to_owned(),
            ttln,
            is_encrypted: metadata.is_encrypted.unwrap_or(false),
            metadata: metadata.clone(),
            created: request.now,
            expires: Timestamp::plus_millis(request.now, ttln),
            status: Status::Queued,
            attempts: 0,
        }
    })
}
