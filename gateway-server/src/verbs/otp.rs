//! `otp`: passcodes for those who want to enroll (atProtocol wire reference §4.24).

use at_protocol::response::{Failure, Response};
use at_protocol::verb::Otp;
use at_protocol::{AtKey, Metadata};

use super::{Answered, Request};
use crate::store::{Edit, Write};

/// The namespace of the records that hold passcodes.
const NAMESPACE: &str = "__otp";
/// Characters of a code that is made here; what is shorter is none.
pub(super) const LENGTH: usize = 6;
/// The name of the passcode that is good for any number of requests.
pub(super) const LASTING: &str = "spp";

pub(super) async fn perform(request: &Request<'_>, otp: Otp) -> Answered {
    match otp {
        Otp::Get { ttl } => {
            let code = crate::random::code(LENGTH);
            let default = u64::try_from(request.node.config.enrollment.otp.as_millis()).unwrap_or(u64::MAX);
            let ttl = ttl.filter(|ttl| *ttl > 0).unwrap_or(default);
            keep(request, &code.to_lowercase(), &code, ttl).await?;
            Ok(Response::Data(code.as_str().to_owned()))
        }
        Otp::Put { code, ttl } => {
            keep(request, LASTING, code.reveal(), ttl.unwrap_or(0)).await?;
            Ok(Response::Data("ok".to_owned()))
        }
    }
}

/// Where a passcode of this name is kept.
pub(super) fn record(request: &Request<'_>, name: &str) -> Option<AtKey> {
    let name = format!("{name}.{NAMESPACE}").parse().ok()?;
    Some(AtKey::Private { name, owner: request.tenant.clone() })
}

/// Keeps a passcode for `ttl` milliseconds; 0 is for ever.
async fn keep(request: &Request<'_>, name: &str, code: &str, ttl: u64) -> Result<(), Failure> {
    let key = record(request, name).expect("letters and digits are a key's name");
    let metadata = Metadata { ttl: Some(ttl), ..Metadata::default() };
    let edits = vec![Edit::Replace { key, value: code.to_owned(), metadata }];
    let write = Write { edits, notification: None, now: request.now };
    request.node.store.write(request.tenant, write).await??;
    Ok(())
}
