//! `noop` and `info` (atProtocol wire reference §4.26).

use std::time::Duration;

use at_protocol::ErrorCode;
use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Info, Noop};

use super::{Answered, Request};
use crate::access::Principal;

/// The version whose behaviour clients may expect: they gate features on it (wire reference §10.3).
pub(super) const VERSION: &str = "3.0.52";
/// Longest wait of a `noop`, in milliseconds.
const MAX_NOOP_MS: u64 = 5000;

pub(super) async fn noop(noop: Noop) -> Answered {
    if noop.delay_ms > MAX_NOOP_MS {
        let message =
            format!("noop:<durationInMillis> where the duration maximum is {MAX_NOOP_MS} milliseconds");
        return Err(Failure::new(ErrorCode::IllegalArguments, message));
    }
    if noop.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(noop.delay_ms)).await;
    }
    Ok(Response::Data("ok".to_owned()))
}

pub(super) fn info(request: &Request<'_>, info: Info) -> Answered {
    let uptime = request.node.uptime();
    if info.brief {
        let uptime = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        let brief = serde_json::json!({ "version": VERSION, "uptimeAsMillis": uptime });
        return Ok(Response::Data(brief.to_string()));
    }
    let mut whole = serde_json::json!({ "version": VERSION, "uptimeAsWords": words(uptime) });
    if let Principal::Enrolled(enrolled) = request.who {
        whole["apkam_metadata"] = serde_json::json!(enrolled.enrollment);
    }
    Ok(Response::Data(whole.to_string()))
}

fn words(uptime: Duration) -> String {
    let seconds = uptime.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    format!("{days} days {hours} hours {minutes} minutes {} seconds", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_is_told_in_words() {
        assert_eq!(words(Duration::from_secs(93_784)), "1 days 2 hours 3 minutes 4 seconds");
    }
}
