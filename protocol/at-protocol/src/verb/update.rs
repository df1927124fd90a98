//! `update` and `update:meta`: write a record, or what is said about it (wire reference §4.5, §4.6).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::VerbError;
use super::params::{Params, key, scope};
use crate::metadata::InvalidParameter;
use crate::{AtKey, Metadata};

/// `update[:nc]<metadata>:[public:|@with:]name[@owner] <value>`, the same as JSON, or
/// `update:meta[:nc]:[public:|@with:]name@owner<metadata>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Which record. `privatekey:` names have no owner.
    pub key: AtKey,
    /// What is said about the value; absent members keep what the record had.
    pub metadata: Metadata,
    /// The value, without line ends; `None` leaves it as it is.
    pub value: Option<String>,
    /// Whether the commit log is not told, and forgets what it knew of the key.
    pub uncommitted: bool,
}

impl Update {
    /// The writing of a value.
    #[must_use]
    pub fn of(key: AtKey, metadata: Metadata, value: impl Into<String>) -> Self {
        Self { key, metadata, value: Some(value.into()), uncommitted: false }
    }
}

/// What `update:json` carries. Members that are not known here are ignored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    at_key: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_with: Option<String>,
    #[serde(default)]
    is_public: bool,
    metadata: Option<serde_json::Value>,
}

const USAGE: &str = "e.g update:@alice:location@bob sanfrancisco";
const META: &str = "e.g update:meta:@alice:location@bob:ttl:60000";

pub(super) fn parse(rest: &str) -> Result<Update, VerbError> {
    let mut params = Params::after_colon(rest).ok_or(VerbError::Syntax { usage: USAGE })?;
    if params.flag("meta") {
        return meta(params);
    }
    let uncommitted = params.flag("nc");
    if params.flag("json") {
        return json(params.rest, uncommitted);
    }
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
    let key = key(false, scope, name, owner, USAGE)?;
    Ok(Update { key, metadata, value: Some(value.to_owned()), uncommitted })
}

/// Here metadata follows the key.
fn meta(mut params: Params<'_>) -> Result<Update, VerbError> {
    let syntax = VerbError::Syntax { usage: META };
    let uncommitted = params.flag("nc");
    let scope = scope(&mut params)?;
    let (name, rest) = params.rest.split_once('@').ok_or(syntax.clone())?;
    // One colon more makes the last parameter like the others.
    let spelled = format!("{rest}:");
    let (owner, rest) = spelled.split_once(':').ok_or(syntax.clone())?;
    let (mut params, mut metadata) = (Params { rest }, Metadata::default());
    params.metadata(&mut metadata)?;
    if !params.rest.is_empty() {
        return Err(syntax);
    }
    Ok(Update { key: key(false, scope, name, Some(owner), META)?, metadata, value: None, uncommitted })
}

fn json(text: &str, uncommitted: bool) -> Result<Update, VerbError> {
    let json: Json = serde_json::from_str(text).map_err(|_| VerbError::Json)?;
    if json.value.contains(['\n', '\r']) {
        // It could not be told from the end of an answer.
        return Err(VerbError::Syntax { usage: "a value cannot contain line ends" });
    }
    let said = json.metadata.filter(|metadata| !metadata.is_null()).unwrap_or_else(|| serde_json::json!({}));
    let is_public =
        json.is_public || said.get("isPublic").and_then(serde_json::Value::as_bool).unwrap_or(false);
    let metadata = Metadata::from_update(said)
        .map_err(|invalid| invalid.map_or(VerbError::Json, |invalid: InvalidParameter| invalid.into()))?;
    let owner = json.shared_by.map(|owner| format!("@{}", owner.trim_start_matches('@'))).unwrap_or_default();
    let with = json.shared_with.map(|with| format!("@{}:", with.trim_start_matches('@')));
    let scope = if is_public { "public:".to_owned() } else { with.unwrap_or_default() };
    let key = if json.at_key.starts_with("privatekey:") {
        json.at_key.parse()?
    } else {
        format!("{scope}{}{owner}", json.at_key).parse()?
    };
    Ok(Update { key, metadata, value: Some(json.value), uncommitted })
}

impl Update {
    /// Whether only JSON can say it: a line loses the end of the value, and names no such key.
    fn needs_json(&self) -> bool {
        let is_odd = match self.key {
            AtKey::CachedPublic { .. } | AtKey::CachedShared { .. } | AtKey::Private { .. } => true,
            AtKey::Public { .. } | AtKey::Own { .. } | AtKey::Shared { .. } | AtKey::PrivateKey { .. } => {
                false
            }
        };
        is_odd || self.value.as_ref().is_some_and(|value| value.is_empty() || value.trim_end() != value)
    }

    fn fmt_json(&self, value: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = Json {
            // The whole key, which is read back as it is.
            at_key: self.key.to_string(),
            value: value.to_owned(),
            shared_by: None,
            shared_with: None,
            is_public: false,
            metadata: serde_json::to_value(&self.metadata).ok(),
        };
        write!(f, ":json:{}", serde_json::to_string(&json).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Display for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uncommitted = if self.uncommitted { ":nc" } else { "" };
        let Self { key, metadata, value, .. } = self;
        match value {
            None => write!(f, "update:meta{uncommitted}:{key}{metadata}"),
            Some(value) if self.needs_json() => {
                write!(f, "update{uncommitted}")?;
                self.fmt_json(value, f)
            }
            Some(value) => write!(f, "update{uncommitted}{metadata}:{key} {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verb, VerbError, refused, round_trip};

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
                "update:nc:ttl:5:x@alice v",
                "update:cAt:2024-01-31T10:20:30.123Z:eAt:2030-01-31T10:20:30.000Z:immutable:true:x@alice v",
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
    fn reads_metadata_behind_the_key() {
        round_trip(
            &[
                "update:meta:@bob:phone@alice:ttl:60000:ttb:0",
                "update:meta:public:location.wavi@alice:ttr:-1:ccd:true",
                "update:meta:nc:phone@alice:eAt:2030-01-31T10:20:30.000Z:encoding:null",
                "update:meta:phone@alice",
            ],
            &[],
        );
        refused(&[
            "update:meta",
            "update:meta:",
            "update:meta:phone",
            "update:meta:phone@alice:ttl:-1",
            "update:meta:phone@alice:nothing:1",
            "update:meta:phone@alice v",
        ]);
    }

    #[test]
    fn reads_json() {
        let lifetimes = "ttl:0:ttb:0:ttr:0";
        round_trip(
            &[],
            &[
                (
                    r#"update:json:{"atKey":"phone.wavi","value":"x y","sharedBy":"@alice","sharedWith":"@bob","metadata":{"ttl":1000}}"#,
                    "update:ttl:1000:ttb:0:ttr:0:@bob:phone.wavi@alice x y",
                ),
                (
                    r#"update:nc:json:{"atKey":"p","value":"1","sharedBy":"alice","metadata":{"isPublic":true,"createdAt":null}}"#,
                    &format!("update:nc:{lifetimes}:public:p@alice 1"),
                ),
                (
                    r#"update:json:{"atKey":"privatekey:at_pkam_publickey","value":"k","sharedBy":"@alice"}"#,
                    &format!("update:{lifetimes}:privatekey:at_pkam_publickey k"),
                ),
                (
                    r#"update:json:{"atKey":"cached:@alice:x","value":"v","sharedBy":"@bob","metadata":{}}"#,
                    r#"update:json:{"atKey":"cached:@alice:x@bob","value":"v","isPublic":false,"metadata":{"ttl":0,"ttb":0,"ttr":0}}"#,
                ),
                (
                    r#"update:json:{"atKey":"x","value":"","sharedBy":"@alice","metadata":null}"#,
                    r#"update:json:{"atKey":"x@alice","value":"","isPublic":false,"metadata":{"ttl":0,"ttb":0,"ttr":0}}"#,
                ),
            ],
        );
    }

    #[test]
    fn json_that_is_none_is_told_from_values_out_of_range() {
        for json in ["", "x", "[]", "{}", r#"{"atKey":"x"}"#, r#"{"atKey":"x","value":1}"#] {
            assert_eq!(format!("update:json:{json}").parse::<Verb>(), Err(VerbError::Json), "{json}");
        }
        let odd = r#"update:json:{"atKey":"x","value":"v","sharedBy":"@a","metadata":{"ttl":"soon"}}"#;
        assert_eq!(odd.parse::<Verb>(), Err(VerbError::Json));
        for (members, error) in [
            (r#""metadata":{"ttl":-1}"#, "Valid value for ttl"),
            (r#""metadata":{"ttr":-2}"#, "Valid value for ttr"),
        ] {
            let line = format!(r#"update:json:{{"atKey":"x","value":"v","sharedBy":"@a",{members}}}"#);
            assert!(line.parse::<Verb>().unwrap_err().to_string().starts_with(error), "{line}");
        }
        refused(&[
            r#"update:json:{"atKey":"","value":"v","sharedBy":"@a"}"#,
            r#"update:json:{"atKey":"x","value":"v"}"#,
            r#"update:json:{"atKey":"x","value":"a\nb","sharedBy":"@a"}"#,
        ]);
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
            "update:cAt:soon:x@alice v",
        ]);
        assert!("update:ttr:-2:x@alice v".parse::<Verb>().is_err());
    }
}
