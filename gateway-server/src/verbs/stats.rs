//! `stats`: what the server counts (atProtocol wire reference §4.21).

use at_protocol::ErrorCode;
use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Operation, Stats};
use regex::Regex;
use serde_json::{Map, Value, json};

use super::service::VERSION;
use super::{Answered, PAGE, Request, regex};
use crate::store::{Kind, Status};

/// The published metrics, in their order from 1.
const NAMES: [&str; 15] = [
    "activeInboundConnections",
    "activeOutboundConnections",
    "lastCommitID",
    "secondaryStorageSize",
    "topAtSigns",
    "topKeys",
    "secondaryServerVersion",
    "LastLoggedInDatetime",
    "diskSize",
    "LastPkam",
    "NotificationCount",
    "CommitLogCompactionStats",
    "AccessLogCompactionStats",
    "NotificationCompactionStats",
    "LatestCommitEntryOfEachKey",
];

pub(super) async fn perform(request: &Request<'_>, stats: Stats) -> Answered {
    let regex = regex(stats.regex.as_deref())?;
    let all: Vec<u32> = (1..=15).collect();
    let ids = if stats.ids.is_empty() { all } else { stats.ids };
    let mut told = Vec::new();
    for id in ids {
        let name = usize::try_from(id).ok().and_then(|id| NAMES.get(id - 1));
        let Some(name) = name else {
            let message = format!("stats {id} is not one of 1 to {}", NAMES.len());
            return Err(Failure::new(ErrorCode::InvalidSyntax, message));
        };
        let value = value(request, id, regex.as_ref()).await?;
        told.push(json!({ "id": id.to_string(), "name": name, "value": value }).to_string());
    }
    Ok(Response::SpacedData(format!("[{}]", told.join(", "))))
}

async fn value(request: &Request<'_>, id: u32, regex: Option<&Regex>) -> Result<String, Failure> {
    let node = request.node;
    Ok(match id {
        1 => node.admission.connections().to_string(),
        2 => node.outbound().to_string(),
        3 => last_commit(request, regex).await?.to_string(),
        4 => node.store.size().await?.to_string(),
        7 => VERSION.to_owned(),
        8 | 10 => node.last_login(request.tenant).map_or("Not Available".to_owned(), |time| time.to_string()),
        9 => {
            // Tenths of a megabyte, without going through a float.
            let tenths = node.store.size().await? / 100_000;
            json!({ "size": format!("{}.{}", tenths / 10, tenths % 10), "units": "MB" }).to_string()
        }
        11 => notifications(request).await?.to_string(),
        15 => latest(request, regex).await?.to_string(),
        // No log of visits is kept, and nothing needs compaction: one entry per key is all there ever is.
        _ => "{}".to_owned(),
    })
}

/// The newest commit that this connection may know of.
async fn last_commit(request: &Request<'_>, regex: Option<&Regex>) -> Result<i64, Failure> {
    let mut before = i64::MAX;
    loop {
        let page = request.node.store.commits_before(request.tenant, before, PAGE).await?;
        let Some(last) = page.last() else { return Ok(-1) };
        before = last.id;
        let seen = page.iter().find(|commit| {
            request.who.may_sync(&commit.key)
                && regex.is_none_or(|regex| regex.is_match(&commit.key.to_string()))
        });
        if let Some(commit) = seen {
            return Ok(commit.id);
        }
    }
}

async fn latest(request: &Request<'_>, regex: Option<&Regex>) -> Result<Value, Failure> {
    let mut entries = Map::new();
    let mut before = i64::MAX;
    loop {
        let page = request.node.store.commits_before(request.tenant, before, PAGE).await?;
        let Some(last) = page.last() else { return Ok(Value::Object(entries)) };
        before = last.id;
        for commit in &page {
            let key = commit.key.to_string();
            if request.who.may_sync(&commit.key) && regex.is_none_or(|regex| regex.is_match(&key)) {
                entries.insert(key, json!([commit.id, commit.operation.to_string()]));
            }
        }
    }
}

async fn notifications(request: &Request<'_>) -> Result<Value, Failure> {
    let tallies = request.node.store.tallies(request.tenant).await?;
    let count = |which: &dyn Fn(&crate::store::Tally) -> bool| -> u64 {
        tallies.iter().filter(|tally| which(tally)).map(|tally| tally.count).sum()
    };
    let status = |wanted: &'static [Status]| count(&|tally| wanted.contains(&tally.status));
    Ok(json!({
        "total": count(&|_| true),
        "type": {
            "sent": count(&|tally| tally.kind == Kind::Sent),
            "received": count(&|tally| tally.kind == Kind::Received),
        },
        "status": {
            "delivered": status(&[Status::Delivered]),
            "failed": status(&[Status::Errored, Status::Expired]),
            "queued": status(&[Status::Queued, Status::Retrying]),
        },
        "operations": {
            "update": count(&|tally| tally.operation == Operation::Update),
            "delete": count(&|tally| tally.operation == Operation::Delete),
        },
        "messageType": {
            "key": count(&|tally| !tally.is_text),
            "text": count(&|tally| tally.is_text),
        },
        "createdOn": request.now.as_millis(),
    }))
}
