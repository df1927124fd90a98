//! `sync:from`: the commit log for clients that keep a copy (atProtocol wire reference §7.4).

use at_protocol::AtKey;
use at_protocol::response::Response;
use at_protocol::verb::Sync;
use serde_json::{Map, Value, json};

use super::{Answered, PAGE, Request, regex};
use crate::store::{Change, Commit, Record};

/// Entries where the request sets no limit.
const DEFAULT_LIMIT: usize = 25;
/// Largest answer of more than one entry, in bytes.
const MAX_BYTES: usize = 5_242_880;

pub(super) async fn perform(request: &Request<'_>, sync: Sync) -> Answered {
    let regex = regex(sync.regex.as_deref())?;
    let store = &request.node.store;
    let newest = store.last_commit(request.tenant).await?;
    let limit = sync.limit.unwrap_or(DEFAULT_LIMIT);
    let (mut after, mut entries, mut bytes) = (sync.from, Vec::new(), 0);
    // Where all entries pass, the first page is all there is to read.
    let mut read = limit.min(PAGE);
    'pages: while entries.len() < limit {
        let page = store.commits_after(request.tenant, after, read).await?;
        read = PAGE;
        let Some(last) = page.last() else { break };
        after = last.id;
        for commit in page {
            let matched = regex.as_ref().is_none_or(|regex| regex.is_match(&commit.key.to_string()));
            let skipped = commit.operation == Change::Gone
                && sync.skip_deletes_until.is_some_and(|until| commit.id <= until && commit.id != newest);
            if skipped || !(matched || is_everybodys(&commit.key)) || !request.who.may_sync(&commit.key) {
                continue;
            }
            let Some(entry) = entry(&commit) else { continue };
            bytes += entry.len() + 1;
            if entries.len() == limit || (bytes > MAX_BYTES && !entries.is_empty()) {
                break 'pages;
            }
            entries.push(entry);
        }
    }
    Ok(Response::Data(format!("[{}]", entries.join(","))))
}

/// Keys that every client needs, whatever it asks for.
fn is_everybodys(key: &AtKey) -> bool {
    match key {
        AtKey::Public { name, .. } => name.namespace().is_none(),
        AtKey::Shared { name, .. } | AtKey::CachedShared { name, .. } => name.as_str() == "shared_key",
        AtKey::Own { name, .. } => name.as_str().starts_with("shared_key."),
        AtKey::CachedPublic { .. } | AtKey::PrivateKey { .. } | AtKey::Private { .. } => false,
    }
}

/// One entry; none for a record that is gone while the log does not yet say so.
fn entry(commit: &Commit) -> Option<String> {
    let (value, metadata) = match (commit.operation, &commit.record) {
        (Change::Gone, _) => (Value::Null, Value::Null),
        (_, Some(record)) => (Value::String(record.value.clone()), metadata(&commit.key, record)),
        (_, None) => return None,
    };
    let entry = json!({
        "atKey": commit.key.to_string(),
        "value": value,
        "metadata": metadata,
        "commitId": commit.id,
        "operation": commit.operation.to_string(),
    });
    Some(entry.to_string())
}

/// The metadata object with every member as a string.
fn metadata(key: &AtKey, record: &Record) -> Value {
    let Ok(Value::Object(members)) = serde_json::to_value(record.shown(key.owner())) else {
        return Value::Null;
    };
    let strings: Map<String, Value> = members
        .into_iter()
        .map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name, Value::String(text))
        })
        .collect();
    Value::Object(strings)
}

#[cfg(test)]
mod tests {
    use at_protocol::{Metadata, Timestamp};

    use super::*;

    #[test]
    fn entries_have_the_published_form() {
        let metadata = Metadata { ttl: Some(60000), ..Metadata::default() };
        let record = Record::written(None, "1".into(), &metadata, Timestamp::from_millis(0));
        let key: AtKey = "@bob:phone.wavi@alice".parse().unwrap();
        let commit = Commit {
            id: 12,
            key: key.clone(),
            operation: Change::Whole,
            time: Timestamp::from_millis(0),
            record: Some(record),
        };
        let text = entry(&commit).unwrap();
        assert!(text.starts_with(r#"{"atKey":"@bob:phone.wavi@alice","value":"1","metadata":{"#), "{text}");
        assert!(text.contains(r#""ttl":"60000""#) && text.contains(r#""isEncrypted":"false""#), "{text}");
        assert!(text.ends_with(r#""commitId":12,"operation":"*"}"#), "{text}");
        let gone = Commit { operation: Change::Gone, record: None, ..commit.clone() };
        assert!(entry(&gone).unwrap().contains(r#""value":null,"metadata":null"#));
        assert_eq!(entry(&Commit { record: None, ..commit }), None);
    }
}
