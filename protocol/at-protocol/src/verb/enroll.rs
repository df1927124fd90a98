//! `enroll`: an application's own keys (wire reference §4.23).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::VerbError;
use super::otp::Passcode;

/// `enroll:<operation>[:force][:<namespace>][:<json>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enroll {
    /// Asks for an enrollment; on a connection authenticated by CRAM it is granted at once.
    Request(EnrollRequest),
    /// Gives the connection's own enrollment another key.
    Update(EnrollRequest),
    /// Decides about an enrollment.
    Decide {
        /// How.
        decision: Decision,
        /// Whether a connection may revoke its own enrollment.
        force: bool,
        /// About which, and what goes with it.
        target: EnrollTarget,
    },
    /// Reads one enrollment.
    Fetch(EnrollTarget),
    /// Reads all enrollments that the caller may see.
    List(EnrollFilter),
    /// Who may read or write a namespace.
    ListNamespace(String),
    /// What is known of a namespace: when somebody last lost it.
    InfoNamespace(String),
}

/// What is decided about an enrollment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is granted.
    Approve,
    /// It is refused.
    Deny,
    /// It is taken back.
    Revoke,
    /// It is given again.
    Unrevoke,
    /// It is forgotten.
    Delete,
}

/// What an enrollment is asked for with. Members not known here are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnrollRequest {
    /// Which enrollment; for `update` only, where it is the connection's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrollment_id: Option<String>,
    /// Name of the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_name: Option<String>,
    /// Name of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Namespace to `r` or `rw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<BTreeMap<String, String>>,
    /// The passcode that whoever is not authenticated got from the owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otp: Option<Passcode>,
    /// The atSign's encryption private key, encrypted with the enrollment's symmetric key, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted_default_encryption_private_key: Option<String>,
    /// The atSign's self key, encrypted likewise, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted_default_self_encryption_key: Option<String>,
    /// Initialisation vector of the encrypted private key, base64; zeros where absent.
    #[serde(rename = "encPrivateKeyIV", skip_serializing_if = "Option::is_none")]
    pub enc_private_key_iv: Option<String>,
    /// Initialisation vector of the encrypted self key, base64; zeros where absent.
    #[serde(rename = "selfEncKeyIV", skip_serializing_if = "Option::is_none")]
    pub self_enc_key_iv: Option<String>,
    /// The symmetric key of the enrollment, encrypted to the atSign's public key, base64.
    #[serde(rename = "encryptedAPKAMSymmetricKey", skip_serializing_if = "Option::is_none")]
    pub encrypted_apkam_symmetric_key: Option<String>,
    /// The key that will prove this enrollment: base64 of SubjectPublicKeyInfo, or a hex point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apkam_public_key: Option<String>,
    /// The new key's own signature over `<enrollment id>|<apkam public key>|<signing algo>`, for `update`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apkam_public_key_signature: Option<String>,
    /// How the key signs, in words. The key itself decides; this is only shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_algo: Option<String>,
    /// How long the enrollment is good for after its approval, in milliseconds; 0 or less, for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apkam_keys_expiry_in_millis: Option<i64>,
    /// What the application says about itself to those who share a namespace with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

/// An enrollment that exists, and what a decision about it brings along. Members not known here are
/// ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnrollTarget {
    /// Which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrollment_id: Option<String>,
    /// See [`EnrollRequest::encrypted_default_encryption_private_key`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted_default_encryption_private_key: Option<String>,
    /// See [`EnrollRequest::encrypted_default_self_encryption_key`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted_default_self_encryption_key: Option<String>,
    /// See [`EnrollRequest::enc_private_key_iv`].
    #[serde(rename = "encPrivateKeyIV", skip_serializing_if = "Option::is_none")]
    pub enc_private_key_iv: Option<String>,
    /// See [`EnrollRequest::self_enc_key_iv`].
    #[serde(rename = "selfEncKeyIV", skip_serializing_if = "Option::is_none")]
    pub self_enc_key_iv: Option<String>,
    /// Whether what a revoked enrollment has approved stays approved. An addition of atedge: others ignore
    /// it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_approved: bool,
}

/// Which enrollments are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnrollFilter {
    /// Those in one of these states; all where absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrollment_status_filter: Option<Vec<String>>,
}

const USAGE: &str = r#"e.g enroll:request:{"appName":"wavi","deviceName":"pixel","apkamPublicKey":"…"}"#;

impl Decision {
    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::Revoke => "revoke",
            Self::Unrevoke => "unrevoke",
            Self::Delete => "delete",
        }
    }
}

pub(super) fn parse(rest: &str) -> Result<Enroll, VerbError> {
    let syntax = VerbError::Syntax { usage: USAGE };
    let rest = rest.strip_prefix(':').ok_or(syntax.clone())?;
    let end = rest.find([':', '{']).unwrap_or(rest.len());
    let (word, rest) = rest.split_at(end);
    let rest = rest.strip_prefix(':').unwrap_or(rest);
    let (force, rest) = match rest.get(..5) {
        Some(head) if head.eq_ignore_ascii_case("force") => (true, &rest[5..]),
        _ => (false, rest),
    };
    let rest = rest.strip_prefix(':').unwrap_or(rest);
    let decide = |decision| Ok(Enroll::Decide { decision, force, target: json(rest)? });
    match word.to_ascii_lowercase().as_str() {
        "request" => json(rest).map(Enroll::Request),
        "update" => json(rest).map(Enroll::Update),
        "approve" => decide(Decision::Approve),
        "deny" => decide(Decision::Deny),
        "revoke" => decide(Decision::Revoke),
        "unrevoke" => decide(Decision::Unrevoke),
        "delete" => decide(Decision::Delete),
        "fetch" => json(rest).map(Enroll::Fetch),
        "list" if rest.is_empty() => Ok(Enroll::List(EnrollFilter::default())),
        "list" => json(rest).map(Enroll::List),
        "listns" => namespace(rest).map(Enroll::ListNamespace),
        "infons" => namespace(rest).map(Enroll::InfoNamespace),
        _ => Err(syntax),
    }
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, VerbError> {
    if text.is_empty() {
        return Err(VerbError::NoEnrollParameters);
    }
    serde_json::from_str(text).map_err(|_| VerbError::Json)
}

fn namespace(text: &str) -> Result<String, VerbError> {
    if text.is_empty() || text.contains([':', '{', ' ']) {
        return Err(VerbError::Syntax { usage: "e.g enroll:listns:wavi" });
    }
    Ok(text.to_lowercase())
}

impl fmt::Display for Enroll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(request) => written(f, "request", request),
            Self::Update(request) => written(f, "update", request),
            Self::Decide { decision, force: true, target } => {
                written(f, &format!("{}:force", decision.word()), target)
            }
            Self::Decide { decision, force: false, target } => written(f, decision.word(), target),
            Self::Fetch(target) => written(f, "fetch", target),
            Self::List(filter) if *filter == EnrollFilter::default() => f.write_str("enroll:list"),
            Self::List(filter) => written(f, "list", filter),
            Self::ListNamespace(namespace) => write!(f, "enroll:listns:{namespace}"),
            Self::InfoNamespace(namespace) => write!(f, "enroll:infons:{namespace}"),
        }
    }
}

fn written<T: Serialize>(f: &mut fmt::Formatter<'_>, words: &str, members: &T) -> fmt::Result {
    write!(f, "enroll:{words}:{}", serde_json::to_string(members).map_err(|_| fmt::Error)?)
}

#[cfg(test)]
mod tests {
    use super::super::{Verb, VerbError, refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                r#"enroll:request:{"appName":"firstApp","deviceName":"firstDevice","encryptedDefaultEncryptionPrivateKey":"a","encryptedDefaultSelfEncryptionKey":"b","apkamPublicKey":"c"}"#,
                r#"enroll:request:{"appName":"wavi","deviceName":"pixel","namespaces":{"wavi":"rw"},"otp":"A1B2C3","encryptedAPKAMSymmetricKey":"s","apkamPublicKey":"c","apkamKeysExpiryInMillis":0}"#,
                r#"enroll:approve:{"enrollmentId":"1","encryptedDefaultEncryptionPrivateKey":"a","encryptedDefaultSelfEncryptionKey":"b","encPrivateKeyIV":"i","selfEncKeyIV":"j"}"#,
                r#"enroll:deny:{"enrollmentId":"1"}"#,
                r#"enroll:revoke:{"enrollmentId":"1","keepApproved":true}"#,
                r#"enroll:revoke:force:{"enrollmentId":"1"}"#,
                r#"enroll:unrevoke:{"enrollmentId":"1"}"#,
                r#"enroll:delete:{"enrollmentId":"1"}"#,
                r#"enroll:fetch:{"enrollmentId":"1"}"#,
                r#"enroll:update:{"apkamPublicKey":"c","apkamPublicKeySignature":"s"}"#,
                "enroll:list",
                r#"enroll:list:{"enrollmentStatusFilter":["approved","pending"]}"#,
                "enroll:listns:wavi",
                "enroll:infons:a.wavi",
            ],
            &[
                (
                    r#"enroll:request:{"apkamPublicKey":"c","appName":"x","deviceName":null,"future":1}"#,
                    r#"enroll:request:{"appName":"x","apkamPublicKey":"c"}"#,
                ),
                (r#"ENROLL:Revoke:FORCE{"enrollmentId":"1"}"#, r#"enroll:revoke:force:{"enrollmentId":"1"}"#),
                (r#"enroll:deny{"enrollmentId":"1"}"#, r#"enroll:deny:{"enrollmentId":"1"}"#),
                ("enroll:list:", "enroll:list"),
                ("enroll:list:{}", "enroll:list"),
            ],
        );
    }

    #[test]
    fn tells_missing_parameters_and_bad_ones_apart() {
        refused(&["enroll", "enroll:dance:{}", "enroll:listns", "enroll:listns:a b", "enroll:infons:"]);
        for line in
            ["enroll:request", "enroll:request:", "enroll:approve", "enroll:revoke:force", "enroll:fetch"]
        {
            assert_eq!(line.parse::<Verb>(), Err(VerbError::NoEnrollParameters), "{line}");
        }
        for line in [
            "enroll:request:{",
            "enroll:request:5",
            r#"enroll:request:{"namespaces":5}"#,
            r#"enroll:deny:{"enrollmentId":5}"#,
            "enroll:list:x",
        ] {
            assert_eq!(line.parse::<Verb>(), Err(VerbError::Json), "{line}");
        }
    }

    #[test]
    fn a_passcode_is_not_shown() {
        let verb: Verb = r#"enroll:request:{"otp":"A1B2C3"}"#.parse().unwrap();
        assert!(!format!("{verb:?}").contains("A1B2C3"));
    }
}
