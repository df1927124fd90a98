//! `notify:all`: sends a notification to several, in one transaction (atProtocol wire reference §4.14).

use at_protocol::ErrorCode;
use at_protocol::line::MAX_AUTHENTICATED;
use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Notify, NotifyAll};
use serde_json::Map;

use super::notify::{copy_fits, notification};
use super::{Answered, Request, json};

pub(super) async fn perform(request: &Request<'_>, all: NotifyAll) -> Answered {
    let NotifyAll { to, first } = all;
    let most = request.node.config.notifications.recipients;
    // Together the copies are no larger than a line may be.
    let copied = first.value.as_ref().map_or(0, String::len).saturating_mul(to.len());
    if to.len() > most || copied > MAX_AUTHENTICATED {
        let message = format!("at most {most} recipients, and {MAX_AUTHENTICATED} bytes for all of them");
        return Err(Failure::new(ErrorCode::IllegalArguments, message));
    }
    let mut ids = Map::new();
    let mut notifications = Vec::with_capacity(to.len());
    for to in to {
        let one = notification(request, request.tenant, Notify { to, ..first.clone() })?;
        copy_fits(&one)?;
        ids.insert(one.to.to_string(), one.id.clone().into());
        notifications.push(one);
    }
    request.node.store.send_all(notifications, request.now).await?;
    Ok(Response::SpacedData(json(&ids)))
}
