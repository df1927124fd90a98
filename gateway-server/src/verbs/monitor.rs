//! `monitor`: turns the connection into a stream (atProtocol wire reference §4.19).

use at_protocol::response::Failure;
use at_protocol::verb::Monitor;

use super::{Effect, Request, regex};
use crate::monitors::Subscription;

pub(super) async fn perform(request: &Request<'_>, monitor: Monitor) -> Result<Effect, Failure> {
    let regex = regex(monitor.regex.as_deref())?;
    let store = &request.node.store;
    let commit = store.last_commit(request.tenant).await?;
    // First the ring, then the store: what comes in between is in both and told apart by its moment.
    let lines = request.node.monitors().subscribe(request.tenant, commit);
    let seen = match monitor.since {
        Some(since) => since.as_millis(),
        None => store.last_notified(request.tenant).await?,
    };
    let subscription = Subscription::new(lines, seen, &monitor, regex, request.who.clone());
    Ok(Effect::Watch(Box::new(subscription), monitor.since.is_some()))
}
