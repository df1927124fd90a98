//! `notify:list`, `notify:status`, `notify:fetch`, `notify:remove` (atProtocol wire reference §4.15 to
//! §4.18).

use at_protocol::response::{Failure, Response};
use at_protocol::verb::{MessageType, NotifyFetch, NotifyList, NotifyRemove, NotifyStatus};
use at_protocol::{ErrorCode, Timestamp};
use serde_json::{Map, Value};

use super::{Answered, MAX_ANSWER, PAGE, Request, json, regex, too_long};
use crate::store::{Kind, Notification};

pub(super) async fn list(request: &Request<'_>, list: NotifyList) -> Answered {
    let regex = regex(list.regex.as_deref())?;
    let from = list.from.map(|day| day.bounds().0);
    let until = list.to.map(|day| day.bounds().1);
    if until.is_some_and(|until| from.is_some_and(|from| until <= from)) {
        return Err(Failure::new(ErrorCode::IllegalArguments, "ToDate cannot be less than FromDate"));
    }
    let mut after = from.map_or(0, |from| from.as_millis() - 1);
    let mut listed = String::new();
    loop {
        let page = request.node.store.received_after(request.tenant, after, PAGE, request.now).await?;
        let Some(last) = page.last() else { break };
        after = last.created.as_millis();
        for found in &page {
            if until.is_some_and(|until| found.created >= until) {
                return Ok(bracketed(&listed));
            }
            let matched = regex
                .as_ref()
                .is_none_or(|regex| regex.is_match(&found.key) || regex.is_match(&found.from.to_string()));
            if matched && found.kind == Kind::Received && request.who.may_watch(found.record().as_ref()) {
                listed.push_str(if listed.is_empty() { "" } else { "," });
                listed.push_str(&json(&found.frame()));
            }
            if listed.len() > MAX_ANSWER {
                return Err(too_long());
            }
        }
    }
    Ok(bracketed(&listed))
}

fn bracketed(listed: &str) -> Response {
    Response::Data(if listed.is_empty() { "null".to_owned() } else { format!("[{listed}]") })
}

pub(super) async fn status(request: &Request<'_>, status: NotifyStatus) -> Answered {
    let found = request.node.store.notification(request.tenant, &status.id).await?;
    let Some(found) = found else { return Ok(Response::Data("null".to_owned())) };
    readable(request, "notify:status", &found)?;
    Ok(Response::Data(found.status_at(request.now).to_owned()))
}

pub(super) async fn fetch(request: &Request<'_>, fetch: NotifyFetch) -> Answered {
    let found = request.node.store.notification(request.tenant, &fetch.id).await?;
    let Some(found) = found.filter(|found| found.expires > request.now) else {
        let gone = serde_json::json!({
            "id": fetch.id,
            "notificationStatus": "NotificationStatus.expired",
        });
        return Ok(Response::Data(gone.to_string()));
    };
    readable(request, "notify:fetch", &found)?;
    Ok(Response::Data(Value::Object(whole(&found, request.now)).to_string()))
}

pub(super) async fn remove(request: &Request<'_>, remove: NotifyRemove) -> Answered {
    if let Some(found) = request.node.store.notification(request.tenant, &remove.id).await? {
        let record = found.record();
        if !request.who.may_manage(record.as_ref()) {
            return Err(request.who.denial("notify:remove", &found.key));
        }
        request.node.store.remove_notification(request.tenant, &remove.id).await?;
    }
    Ok(Response::Data("success".to_owned()))
}

fn readable(request: &Request<'_>, word: &str, found: &Notification) -> Result<(), Failure> {
    if request.who.may_watch(found.record().as_ref()) {
        Ok(())
    } else {
        Err(request.who.denial(word, &found.key))
    }
}

/// All members are strings, absent ones the string `null`.
fn whole(found: &Notification, now: Timestamp) -> Map<String, Value> {
    let kind = match found.kind {
        Kind::Sent => "sent",
        Kind::Received => "received",
        Kind::Own => "self",
    };
    let message_type = match found.message_type {
        MessageType::Key => "key",
        MessageType::Text => "text",
    };
    let text = |text: String| Value::String(text);
    [
        ("id", text(found.id.clone())),
        ("fromAtSign", text(found.from.to_string())),
        ("notificationDateTime", text(found.created.to_string())),
        ("toAtSign", text(found.to.to_string())),
        ("notification", text(found.key.clone())),
        ("type", text(format!("NotificationType.{kind}"))),
        ("opType", text(format!("OperationType.{}", found.operation))),
        ("messageType", text(format!("MessageType.{message_type}"))),
        ("priority", text(format!("NotificationPriority.{}", found.priority))),
        ("notificationStatus", text(format!("NotificationStatus.{}", found.status_at(now)))),
        ("retryCount", text(found.attempts.to_string())),
        ("strategy", text(found.strategy.to_string())),
        ("notifier", text(found.notifier.clone())),
        ("depth", text(found.latest_n.to_string())),
        ("expiresAt", text(found.expires.to_string())),
        ("atValue", text(found.value.clone().unwrap_or_else(|| "null".to_owned()))),
        ("atMetadata", text(json(&found.metadata))),
        ("ttl", text(found.ttln.to_string())),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
