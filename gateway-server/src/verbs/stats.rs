//! `stats`: what the server counts (atProtocol wire reference §4.21).

use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Operation, Stats};
use at_protocol::{ErrorCode, Timestamp};
use regex::Regex;
use serde_json::{Map, Value, json};

use super::service::VERSION;
use super::{Answered, PAGE, Request, regex};
use crate::sessions::Who;
use crate::store::{Kind, Status};

/// The published metrics, in their order from 1.
const NAMES: [&str; 17] = [
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
    "inboundConnectionsSummary",
    "inboundConnections",
];
/// The metrics that are told when none is asked for: later ones must be asked for by number.
const BASE: u32 = 15;
/// How many visitors and keys are told (`stats.top_visits` and `stats.top_keys`, wire reference §10.1).
const TOP: usize = 5;
/// Most connections that are listed.
const LISTED: usize = 1000;

pub(super) async fn perform(request: &Request<'_>, stats: Stats) -> Answered {
    let regex = regex(stats.regex.as_deref())?;
    let all: Vec<u32> = (1..=BASE).collect();
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
        5 | 6 | 8 | 10 => visits(request, id).await?,
        9 => {
            // Tenths of a megabyte, without going through a float.
            let tenths = node.store.size().await? / 100_000;
            json!({ "size": format!("{}.{}", tenths / 10, tenths % 10), "units": "MB" }).to_string()
        }
        11 => notifications(request).await?.to_string(),
        12..=14 => upkeep(request, id).to_string(),
        15 => latest(request, regex).await?.to_string(),
        16 => summary(request).to_string(),
        _ => sessions(request).to_string(),
    })
}

/// What the access log says.
async fn visits(request: &Request<'_>, id: u32) -> Result<String, Failure> {
    let node = request.node;
    node.flush_visits().await?;
    let visits = node.store.visits(request.tenant, TOP).await?;
    let counts = |counted: Vec<(String, u64)>| {
        let counts: Map<_, _> = counted.into_iter().map(|(name, count)| (name, count.into())).collect();
        Value::Object(counts).to_string()
    };
    let time = |time: Option<Timestamp>| time.map_or("Not Available".to_owned(), |time| time.to_string());
    Ok(match id {
        5 => counts(visits.atsigns.into_iter().map(|(atsign, count)| (atsign.to_string(), count)).collect()),
        6 => counts(visits.keys),
        // The newest may have been too many visits ago to be in the log still.
        8 => time(visits.last_login.max(node.last_login(request.tenant))),
        _ => time(visits.last_pkam.max(node.last_login(request.tenant))),
    })
}

/// The last run of what removes the old: of commits there is one per key, so that none is ever superseded.
fn upkeep(request: &Request<'_>, id: u32) -> Value {
    let Some(swept) = request.node.swept() else { return json!({}) };
    let deleted = match id {
        12 => 0,
        13 => swept.expired.visits,
        _ => swept.expired.notifications,
    };
    json!({
        "lastCompactionRun": swept.at.to_string(),
        "compactionDurationInMills": swept.took.as_millis().to_string(),
        "deletedKeysCount": deleted.to_string(),
    })
}

/// How many connections the tenant has, and whose.
fn summary(request: &Request<'_>) -> Value {
    let open = request.node.sessions().of(request.tenant);
    let count = |which: &dyn Fn(&Who) -> bool| open.iter().filter(|session| which(&session.who)).count();
    let other = count(&|who| matches!(who, Who::Peer(_)));
    let anonymous = count(&|who| matches!(who, Who::Anonymous));
    json!({
        "total": open.len(),
        "self": open.len() - other - anonymous,
        "other": other,
        "anon": anonymous,
    })
}

/// The tenant's connections, oldest first.
fn sessions(request: &Request<'_>) -> Value {
    let open = request.node.sessions().of(request.tenant).into_iter().take(LISTED);
    let listed = open.map(|session| {
        let (atsign, auth, enrollment) = match &session.who {
            Who::Anonymous => (None, None, None),
            Who::Peer(peer) => (Some(peer), Some("pol"), None),
            Who::Activation => (Some(request.tenant), Some("cram"), None),
            Who::Owner => (Some(request.tenant), Some("pkam"), None),
            Who::Enrolled(id) => (Some(request.tenant), Some("apkam"), Some(id)),
        };
        json!({
            "sessionId": session.id,
            "atSign": atsign,
            "authType": auth,
            "enrollmentId": enrollment,
            "since": session.since.to_string(),
            "address": session.address.map(|address| address.to_string()),
        })
    });
    Value::Array(listed.collect())
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
