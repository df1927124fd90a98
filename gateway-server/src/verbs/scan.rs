//! `scan`: lists keys, or the owner's commit log (atProtocol wire reference §4.11).

use at_protocol::response::{Failure, Response};
use at_protocol::verb::Scan;
use at_protocol::{AtKey, AtSign, ErrorCode, Verb};

use super::{Answered, MAX_ANSWER, PAGE, Request, json, regex, too_long};
use crate::access::Principal;
use crate::store::KeyPage;

pub(super) async fn perform(request: &Request<'_>, scan: Scan) -> Answered {
    if scan.commit_log {
        return commit_log(request, &scan).await;
    }
    if let Some(of) = scan.of.clone().filter(|of| of != request.tenant) {
        return of_another(request, &scan, &of).await;
    }
    let listed = match request.who {
        Principal::Anonymous => list(request, request.tenant, "public:", &scan).await?,
        Principal::Peer(peer) => list(request, request.tenant, &format!("{peer}:"), &scan).await?,
        Principal::Activation | Principal::Owner | Principal::Enrolled(_) => {
            list(request, request.tenant, "", &scan).await?
        }
    };
    Ok(Response::Data(json(&listed)))
}

async fn of_another(request: &Request<'_>, scan: &Scan, of: &AtSign) -> Answered {
    if request.node.is_hosted(of) {
        if request.node.is_blocked(of, request.tenant).await? {
            return Err(Failure::new(ErrorCode::Handshake, "Unable to connect"));
        }
        let listed = list(request, of, &format!("{}:", request.tenant), scan).await?;
        return Ok(Response::Data(json(&listed)));
    }
    let line = Verb::Scan(Scan { of: None, ..scan.clone() }).to_string();
    Ok(Response::Data(request.node.ask(request.tenant, of, &line, true).await?))
}

/// Keys that begin with `prefix`, which is taken off; with no prefix, what the owner's connection sees.
async fn list(
    request: &Request<'_>,
    tenant: &AtSign,
    prefix: &str,
    scan: &Scan,
) -> Result<Vec<String>, Failure> {
    let regex = regex(scan.regex.as_deref())?;
    let mut listed = Vec::new();
    let begins = scan.regex.as_deref().map(literal_prefix).unwrap_or_default();
    let range = if begins.starts_with(prefix) { begins.as_str() } else { prefix };
    let (mut bytes, mut after) = (0, None);
    loop {
        let page = KeyPage { prefix: range.to_owned(), after, limit: PAGE, now: request.now };
        let keys = request.node.store.keys(tenant, page).await?;
        let Some(last) = keys.last().cloned() else { return Ok(listed) };
        after = Some(last);
        for key in keys {
            let shown = key.strip_prefix(prefix).unwrap_or(&key);
            if regex.as_ref().is_some_and(|regex| !regex.is_match(&key))
                || !is_seen(request, scan, prefix, &key)
            {
                continue;
            }
            bytes += shown.len() + 3;
            if bytes > MAX_ANSWER {
                return Err(too_long());
            }
            listed.push(shown.to_owned());
        }
    }
}

/// How every text begins in which the regex matches: what stands between `^` and the first character that
/// means something else.
fn literal_prefix(regex: &str) -> String {
    let Some(anchored) = regex.strip_prefix('^').filter(|_| !regex.contains('|')) else {
        return String::new();
    };
    let mut prefix = String::new();
    let mut rest = anchored.chars().peekable();
    while let Some(c) = rest.next() {
        let literal = match c {
            '\\' => rest.next_if(|next| next.is_ascii_punctuation()),
            '.' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$' => None,
            other => Some(other),
        };
        let is_optional = matches!(rest.peek(), Some('*' | '?' | '{' | '+'));
        let Some(literal) = literal.filter(|_| !is_optional) else { break };
        prefix.push(literal);
    }
    prefix
}

/// The newest commit of each key that may be known, oldest first.
async fn commit_log(request: &Request<'_>, scan: &Scan) -> Answered {
    let regex = regex(scan.regex.as_deref())?;
    let (mut entries, mut bytes, mut before) = (Vec::new(), 0, i64::MAX);
    loop {
        let page = request.node.store.commits_before(request.tenant, before, PAGE).await?;
        let Some(last) = page.last() else { break };
        before = last.id;
        for commit in &page {
            let key = commit.key.to_string();
            if regex.as_ref().is_some_and(|regex| !regex.is_match(&key)) || !request.who.may_sync(&commit.key)
            {
                continue;
            }
            // Times of the log have microseconds.
            let time = commit.time.iso().replace('Z', "000Z");
            let (id, operation) = (commit.id, commit.operation.to_string());
            let entry = serde_json::json!({
                "atKey": key, "operation": operation, "commitId": id, "opTime": time,
            })
            .to_string();
            bytes += entry.len() + 1;
            if bytes > MAX_ANSWER {
                return Err(too_long());
            }
            entries.push(entry);
        }
    }
    entries.reverse();
    Ok(Response::Data(format!("[{}]", entries.join(","))))
}

fn is_seen(request: &Request<'_>, scan: &Scan, prefix: &str, key: &str) -> bool {
    match prefix {
        "" => key
            .parse::<AtKey>()
            .is_ok_and(|key| key.is_listed(scan.show_hidden) && request.who.may_list(&key)),
        "public:" => !key.starts_with("public:_"),
        // A peer sees all that is shared with it, hidden or not.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_stand_at_the_beginning_narrows_the_range() {
        for (regex, prefix) in [
            ("^public:x", "public:x"),
            (r"^public:phone\.wavi@.*", "public:phone.wavi@"),
            ("^@bob:", "@bob:"),
            ("^ab*", "a"),
            ("^ab?c", "a"),
            ("^ab{2}", "a"),
            ("^a+", ""),
            ("^public:a|x", ""),
            ("public:x", ""),
            (r"^a\d", "a"),
            (r"^\.*", ""),
            ("^(?i)a", ""),
            ("^", ""),
        ] {
            assert_eq!(literal_prefix(regex), prefix, "{regex}");
        }
    }
}
