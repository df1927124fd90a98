//! `notify`: sends a notification, or takes one from another atSign's server (atProtocol wire reference
//! §4.13).

use at_protocol::key::MAX_CACHED_KEY;
use at_protocol::response::{Failure, Response};
use at_protocol::verb::{MessageType, Notify, Strategy};
use at_protocol::{AtSign, ErrorCode, Timestamp};

use super::{Answered, Request};
use crate::access::Principal;
use crate::store::{Kind, Notification, Status};

pub(super) async fn perform(request: &Request<'_>, notify: Notify) -> Answered {
    match request.who {
        Principal::Peer(peer) => {
            let received = notification(request, peer, notify)?;
            copy_fits(&received)?;
            request.node.store.receive(received, request.now).await?;
            Ok(Response::Data("success".to_owned()))
        }
        Principal::Anonymous | Principal::Activation | Principal::Owner | Principal::Enrolled(_) => {
            let sent = notification(request, request.tenant, notify)?;
            if request.node.is_hosted(&sent.to) {
                copy_fits(&sent)?;
            }
            let id = sent.id.clone();
            request.node.store.send(sent, request.now).await?;
            Ok(Response::Data(id))
        }
    }
}

/// Whether the recipient can keep a copy of the record (§6.4).
pub(crate) fn copy_fits(sent: &Notification) -> Result<(), Failure> {
    // The copy's name is the key's with `cached:` before it.
    if "cached:".len() + sent.key.len() <= MAX_CACHED_KEY {
        return Ok(());
    }
    let length = sent.cached_key().map_or(0, |key| key.to_string().chars().count());
    if length <= MAX_CACHED_KEY {
        return Ok(());
    }
    let message = format!("notification key length {length} is greater than {MAX_CACHED_KEY} chars");
    Err(Failure::new(ErrorCode::InvalidKey, message))
}

/// What a `notify` comes to, from `from`.
pub(crate) fn notification(
    request: &Request<'_>,
    from: &AtSign,
    notify: Notify,
) -> Result<Notification, Failure> {
    said(from, notify, request.node.config.notifications.ttln_ms(), request.now)
}

/// What a `notify` comes to that `from` says at `now`; it lives for `ttln_ms` if it does not say how long.
///
/// # Errors
/// The refusal.
pub fn said(from: &AtSign, notify: Notify, ttln_ms: u64, now: Timestamp) -> Result<Notification, Failure> {
    let strategy = notify.strategy.unwrap_or_default();
    if strategy == Strategy::Latest && notify.notifier.is_none() {
        let message = "For Strategy latest, notifier cannot be null";
        return Err(Failure::new(ErrorCode::InvalidSyntax, message));
    }
    let message_type = notify.message_type.unwrap_or_default();
    let key = match message_type {
        MessageType::Key => format!("{}:{}{from}", notify.to, notify.key),
        MessageType::Text => format!("{}:{}", notify.to, notify.key),
    };
    let is_encrypted = match message_type {
        MessageType::Key => notify.metadata.is_encrypted.unwrap_or(true),
        MessageType::Text => notify.metadata.is_encrypted.unwrap_or(false),
    };
    let ttln = match notify.expires {
        Some(expires) => {
            let left = expires.as_millis().saturating_sub(now.as_millis());
            // What is over already is sent to nobody, and asking for it says so.
            u64::try_from(left).unwrap_or(0).max(1)
        }
        None => notify.ttln.filter(|ttln| *ttln > 0).unwrap_or(ttln_ms),
    };
    Ok(Notification {
        kind: Kind::Sent,
        id: notify.id.unwrap_or_else(crate::random::uuid),
        from: from.clone(),
        to: notify.to,
        key,
        value: notify.value,
        operation: notify.operation.unwrap_or_default(),
        message_type,
        priority: notify.priority.unwrap_or_default(),
        strategy,
        latest_n: notify.latest_n.unwrap_or(1).max(1),
        notifier: notify.notifier.unwrap_or_else(|| "SYSTEM".to_owned()),
        ttln,
        is_encrypted,
        metadata: notify.metadata,
        created: now,
        expires: Timestamp::plus_millis(now, ttln),
        status: Status::Queued,
        attempts: 0,
    })
}
