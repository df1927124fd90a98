//! `update`: writes a record (wire reference §4.5).

use std::fmt;

use super::VerbError;
use super::params::{Params, key, scope};
use crate::{AtKey, Metadata};

/// `update<metadata>:[public:|@with:]name[@owner] <value>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Which record. `privatekey:` names have no owner.
    pub key: AtKey,
    /// What is said about the value; absent members keep what the record had.
    pub metadata: Metadata,
    /// The value, without line ends.
    pub value: String,
}

const USAGE: &str = "e.g update:@alice:location@bob sanfrancisco";

pub(super) fn parse(rest: &str) -> Result<Update, VerbError> {
    let mut params = Params::after_colon(rest).ok_or(VerbError::Syntax { usage: USAGE })?;
    let mut metadata = Metadata::default();
    params.metadata(&mut metadata)?;
    let scope = scope(&mut params)?;
    let (name, value) = params.rest.split_once(' ').ok_or(VerbError::Syntax { usage: USAGE })?;
    if value.is_empty() {
        return Err(VerbError::Syntax { usage: USAGE });
    }
    let (name, owner) = match name.rsplit_once('@') {
        Some((name, owner)) => (name, Some(owner)),
        None => (name, None),
    };
    Ok(Update { key: key(false, scope, name, owner, USAGE)?, metadata, value: value.to_owned() })
}

impl fmt::Display for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "update{}:{} {}", self.metadata, self.key, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verb, refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "update:public:location@alice California",
                "update:@bob:phone.wavi@alice +1 555",
                "update:ttl:60000:ttr:10:ccd:true:@bob:otp.app@alice 1234",
                "update:isEncrypted:true:sharedKeyEnc:AbC=:pubKeyCS:1a2b:@bob:k.ns@alice Zm9v",
                "update:privatekey:at_pkam_publickey MIIB",
                "update:dataSignature:x=:isEncrypted:false:public:name.ns@alice a: b @c {\"d\":1}",
                "update:shared_key.bob@alice abc",
                "update:public:x@alice   leading",
                "update:appMetadata:eyJhIjoxfQ==:x@alice v",
            ],
            &[
                (
                    "update:sharedKeyEnc:A=:isBinary:false:ttl:1:@bob:k@alice v",
                    "update:ttl:1:isBinary:false:sharedKeyEnc:A=:@bob:k@alice v",
                ),
                ("update:ccd:True:ttr:-1:x@alice v", "update:ttr:-1:ccd:true:x@alice v"),
                ("update:PUBLIC:Phone.WAVI@alice V", "update:public:phone.wavi@alice V"),
            ],
        );
    }

    #[test]
    fn refuses_what_has_no_value_owner_or_sense() {
        refused(&[
            "update",
            "update:",
            "update:x@alice",
            "update:x@alice ",
            "update:x v",
            "update:ttl:-1:x@alice v",
            "update:a:b@alice v",
            "update:cached:@a:b@alice v",
            "update:@b@c:x@alice v",
        ]);
        assert!("update:ttr:-2:x@alice v".parse::<Verb>().is_err());
    }
}
