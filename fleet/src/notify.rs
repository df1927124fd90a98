//! `notify`: sends one notification and, if asked, waits for its delivery.

use std::time::Duration;

use anyhow::Result;
use at_client::{NotifyRequest, Status};
use atedge_service::Exit;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cli::Notify;
use crate::output::Output;
use crate::record::value;

/// How often the server is asked whether it has delivered: it tells only who asks.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Sends, and waits for as long as the command line says.
///
/// # Errors
/// The own server does not take the notification.
pub async fn run(args: Notify) -> Result<Exit> {
    let client = args.access.client(&args.atsign)?;
    let value = value(&args.value)?;
    let request = NotifyRequest::new(&args.to, &args.name, value.as_bytes());
    let id = client.notify(request).await?;
    let mut status = Status::Queued;
    if let Some(wait) = args.wait {
        let deadline = Instant::now() + wait;
        loop {
            status = client.notify_status(&id).await?;
            let over = matches!(status, Status::Delivered | Status::Expired) || Instant::now() >= deadline;
            if over {
                break;
            }
            sleep(ASK_EVERY).await;
        }
    }
    let word = word(status);
    Output::new(args.access.json).say(|| format!("{id} {word}"), || json!({ "id": id, "status": word }))?;
    Ok(if args.wait.is_some() && status != Status::Delivered { Exit::NotDelivered } else { Exit::Done })
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Queued => "queued",
        Status::Delivered => "delivered",
        Status::Errored => "errored",
        Status::Expired => "expired",
        Status::Unknown => "unknown",
    }
}
