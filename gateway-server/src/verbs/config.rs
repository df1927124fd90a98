//! `config`: whom the tenant turns away, and settings under test (atProtocol wire reference §4.20).

use at_protocol::ErrorCode;
use at_protocol::response::{Failure, Response};
use at_protocol::verb::Config;

use super::{Answered, Request, json};

pub(super) async fn perform(request: &Request<'_>, config: Config) -> Answered {
    let node = request.node;
    let tenant = request.tenant;
    let changed = match config {
        Config::Block(atsigns) => {
            if atsigns.contains(tenant) {
                let message = format!("{tenant} cannot block itself");
                return Err(Failure::new(ErrorCode::IllegalArguments, message));
            }
            node.change_blocklist(tenant, |list| list.extend(atsigns)).await?
        }
        Config::Unblock(atsigns) => {
            node.change_blocklist(tenant, |list| list.retain(|atsign| !atsigns.contains(atsign))).await?
        }
        Config::ShowBlocked => {
            let list = node.blocklist(tenant).await?;
            let shown = if list.atsigns().is_empty() { "null".to_owned() } else { json(list.atsigns()) };
            return Ok(Response::Data(shown));
        }
        Config::Set { .. } | Config::Reset { .. } | Config::Print { .. } => {
            return settings(request, &config).await;
        }
    };
    changed.map(|()| Response::Data("success".to_owned())).map_err(|_| {
        let message = format!("at most {} atSigns can be blocked", node.config.limits.node.blocked);
        Failure::new(ErrorCode::IllegalArguments, message)
    })
}

async fn settings(request: &Request<'_>, config: &Config) -> Answered {
    let Some(testing) = &request.node.testing else {
        return Ok(Response::Data("testing mode disabled by default".to_owned()));
    };
    let told = match config {
        Config::Set { name, value } => testing.set(name, value).map(|()| "ok".to_owned()),
        Config::Reset { name } => testing.reset(name).map(|()| "ok".to_owned()),
        Config::Print { name } => testing.print(name),
        Config::Block(_) | Config::Unblock(_) | Config::ShowBlocked => None,
    };
    if let Config::Set { name, value } = &config
        && is_refresh(name, value)
    {
        request.node.refresh_copies().await?;
    }
    told.map(Response::Data)
        .ok_or_else(|| Failure::new(ErrorCode::InvalidSyntax, "Invalid syntax. e.g config:print:autoNotify"))
}

/// Whether this asks for the nightly refresh of copies at once (wire reference §6.5).
fn is_refresh(name: &str, value: &str) -> bool {
    name.eq_ignore_ascii_case("doCacheRefreshNow") && value == "true"
}
