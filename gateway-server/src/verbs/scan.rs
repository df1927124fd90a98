//! `scan`: lists keys (atProtocol wire reference §4.11).

use at_protocol::response::{Failure, Response};
use at_protocol::verb::Scan;
use at_protocol::{AtKey, AtSign, Verb};

use super::{Answered, MAX_ANSWER, PAGE, Request, json, regex, too_long};
use crate::access::Principal;
use crate::store::KeyPage;

pub(super) async fn perform(request: &Request<'_>, scan: Scan) -> Answered {
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
    let (mut bytes, mut after) = (0, None);
    loop {
        let page = KeyPage { prefix: prefix.to_owned(), after, limit: PAGE, now: request.now };
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
