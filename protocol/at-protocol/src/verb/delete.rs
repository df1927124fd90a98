//! `delete`: removes a record (wire reference §4.7).

use std::fmt;

use super::VerbError;
use super::notify::Priority;
use super::params::{Params, key, scope};
use crate::{AtKey, Timestamp};

/// `delete[:dAt:<time>][:nc][:force][:priority:<p>][:cached]:[public:|@with:]name[@owner]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    /// Which record.
    pub key: AtKey,
    /// How urgent the notification of the deletion is.
    pub priority: Option<Priority>,
    /// When it was deleted, if the client knows better than the server.
    pub deleted_at: Option<Timestamp>,
    /// Whether the commit log forgets the key instead of telling that it is gone.
    pub uncommitted: bool,
    /// Whether an immutable record goes as well.
    pub force: bool,
}

impl Delete {
    /// The deletion of a record without any more words.
    #[must_use]
    pub fn of(key: AtKey) -> Self {
        Self { key, priority: None, deleted_at: None, uncommitted: false, force: false }
    }
}

const USAGE: &str = "e.g delete:@alice:phone@bob";

pub(super) fn parse(rest: &str) -> Result<Delete, VerbError> {
    let mut params = Params::after_colon(rest).ok_or(VerbError::Syntax { usage: USAGE })?;
    let deleted_at =
        params.named("dAt").map(|text| text.parse().map_err(|_| VerbError::Syntax { usage: USAGE }));
    let uncommitted = params.flag("nc");
    let force = params.flag("force");
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
    Ok(Delete {
        key: key(cached, scope, name, owner, USAGE)?,
        priority: priority.transpose()?,
        deleted_at: deleted_at.transpose()?,
        uncommitted,
        force,
    })
}

impl fmt::Display for Delete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("delete")?;
        if let Some(time) = self.deleted_at {
            write!(f, ":dAt:{}", time.iso())?;
        }
        f.write_str(if self.uncommitted { ":nc" } else { "" })?;
        f.write_str(if self.force { ":force" } else { "" })?;
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
                "delete:dAt:2024-01-31T10:20:30.123Z:nc:force:priority:low:@bob:x@alice",
                "delete:nc:cached:public:x@bob",
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
            "delete:dAt:now:x@alice",
            "delete:nc",
        ]);
    }
}
