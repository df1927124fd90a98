//! `enroll`: an application's own keys (wire reference §4.23).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::VerbError;

/// `enroll:<operation>:<json>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enroll {
    /// Asks for an enrollment; on a connection authenticated by CRAM it is granted at once.
    Request(EnrollRequest),
}

/// What an enrollment is asked with. Members not known here are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnrollRequest {
    /// Name of the application.
    pub app_name: Option<String>,
    /// Name of the device.
    pub device_name: Option<String>,
    /// Namespace to `r` or `rw`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<BTreeMap<String, String>>,
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
    /// The key that will prove this enrollment: base64 of SubjectPublicKeyInfo, or a hex point.
    pub apkam_public_key: Option<String>,
}

const USAGE: &str = r#"e.g enroll:request:{"appName":"wavi","deviceName":"pixel","apkamPublicKey":"…"}"#;

pub(super) fn parse(rest: &str) -> Result<Enroll, VerbError> {
    let syntax = VerbError::Syntax { usage: USAGE };
    let json = rest.strip_prefix(":request:").ok_or(syntax.clone())?;
    serde_json::from_str(json).map(Enroll::Request).map_err(|_| syntax)
}

impl fmt::Display for Enroll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Request(request) = self;
        write!(f, "enroll:request:{}", serde_json::to_string(request).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{refused, round_trip};

    #[test]
    fn reads_the_first_enrollment() {
        round_trip(
            &[
                r#"enroll:request:{"appName":"firstApp","deviceName":"firstDevice","encryptedDefaultEncryptionPrivateKey":"a","encryptedDefaultSelfEncryptionKey":"b","apkamPublicKey":"c"}"#,
            ],
            &[(
                r#"enroll:request:{"apkamPublicKey":"c","appName":"x","future":1}"#,
                r#"enroll:request:{"appName":"x","deviceName":null,"apkamPublicKey":"c"}"#,
            )],
        );
    }

    #[test]
    fn refuses_what_is_no_request() {
        refused(&["enroll", "enroll:request", "enroll:request:{", "enroll:dance:{}"]);
    }
}
