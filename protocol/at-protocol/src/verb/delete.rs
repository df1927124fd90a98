//! `delete`: removes a record (wire reference §4.7).

use std::fmt;

use super::VerbError;
use super::notify::Priority;
use super::params::{Params, key, scope};
use crate::AtKey;

/// `delete[:priority:<p>][:cached]:[public:|@with:]name[@owner]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// Which record.
    pub key: AtKey,
    /// How urgent the notification of the deletion is.
    pub priority: Option<Priority>,
}

const USAGE: &str = "e.g delete:@alice:phone@bob";

pub(super) fn parse(rest: &str) -> Result<Delete, VerbError> {
    let mut params = Params::after_colon(rest).ok_or(VerbError::Syntax { usage: USAGE })?;
    let priority =
        params.named("priority").map(|text| text.parse().map_err(|()| VerbError::Syntax { usage: USAGE }));
    let cached = params.flag("cached");
    let scope = scope(&mut params)?;
    let (name, owner) = match params.rest.rsplit_once('@') {
        Some((name, owner)) => (name, Some(owner)),
        None => (params.rest, None),
    };
    if params.rest.contains(' ') || (owner.is_none() && name != "privatekey:at_secret") {
        return Err(VerbError::Syntax { usage: USAGE });
    }
    Ok(Delete { key: key(cached, scope, name, owner, USAGE)?, priority: priority.transpose()? })
}

impl fmt::Display for Delete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("delete")?;
        if let Some(priority) = self.priority {
            write!(f, ":priority:{priority}")?;
        }
        write!(f, ":{}", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "delete:@bob:phone.wavi@alice",
                "delete:cached:@alice:k@bob",
                "delete:cached:public:k@bob",
                "delete:privatekey:at_secret",
                "delete:priority:high:public:x@alice",
            ],
            &[("delete:Phone@ALICE", "delete:phone@alice")],
        );
    }

    #[test]
    fn refuses_keys_of_the_server_itself() {
        refused(&[
            "delete",
            "delete:privatekey:at_pkam_publickey",
            "delete:x",
            "delete:priority:urgent:x@alice",
            "delete:x y@alice",
        ]);
    }
}
