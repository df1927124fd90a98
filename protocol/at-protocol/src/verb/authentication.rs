//! `from`, `to`, `cram`, `pkam`: who is calling whom, and the proof (wire reference §3).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::VerbError;
use crate::AtSign;
use crate::crypto::Hash;

/// `from:<atSign>[:clientConfig:<json>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Who the caller says to be.
    pub atsign: AtSign,
    /// What the caller's library says about itself.
    pub config: Option<ClientConfig>,
}

/// The parts of `clientConfig` that are of use; others are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConfig {
    /// Version of the client's library; above 3.0.37 it takes errors as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// An identification of this installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Name of the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_name: Option<String>,
}

/// `to:<atSign>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To {
    /// Whose server the caller wants.
    pub atsign: AtSign,
}

/// `cram:<hex digest>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cram {
    /// Lower-case hex of SHA-512 over secret and challenge.
    pub digest: String,
}

/// `pkam:[signingAlgo:…:][hashingAlgo:…:][enrollmentId:…:]<signature>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkam {
    /// What kind of key signed; the stored key decides, this is a claim.
    pub signing: Option<SigningAlgo>,
    /// Which hash was signed; SHA-256 where not said.
    pub hashing: Option<Hash>,
    /// Whose key it is; the first key's where not said.
    pub enrollment: Option<String>,
    /// Signature over the challenge, base64 in either alphabet.
    pub signature: String,
}

/// Kinds of PKAM keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningAlgo {
    /// RSASSA-PKCS1-v1_5, 2048 bits.
    Rsa2048,
    /// ECDSA on P-256.
    EccSecp256r1,
}

const FROM: &str = "e.g from:@alice";
const TO: &str = "e.g to:@alice";
const CRAM: &str = "e.g cram:<digest>";
const PKAM: &str = "e.g pkam:<signature>";

pub(super) fn from(rest: &str) -> Result<From, VerbError> {
    let rest = rest.strip_prefix(':').ok_or(VerbError::Syntax { usage: FROM })?;
    let (atsign, config) = match rest.split_once(':') {
        None => (rest, None),
        Some((atsign, config)) => {
            let json = strip_prefix_ignoring_case(config, "clientConfig:");
            let json = json.ok_or(VerbError::Syntax { usage: FROM })?;
            let config = serde_json::from_str(json).map_err(|_| VerbError::Json)?;
            (atsign, Some(config))
        }
    };
    Ok(From { atsign: atsign.parse()?, config })
}

pub(super) fn to(rest: &str) -> Result<To, VerbError> {
    let atsign = rest.strip_prefix(':').ok_or(VerbError::Syntax { usage: TO })?;
    Ok(To { atsign: atsign.parse()? })
}

pub(super) fn cram(rest: &str) -> Result<Cram, VerbError> {
    match rest.strip_prefix(':') {
        Some(digest) if !digest.is_empty() => Ok(Cram { digest: digest.to_owned() }),
        _ => Err(VerbError::Syntax { usage: CRAM }),
    }
}

pub(super) fn pkam(rest: &str) -> Result<Pkam, VerbError> {
    let mut params = super::params::Params::after_colon(rest).ok_or(VerbError::Syntax { usage: PKAM })?;
    let signing = params.named("signingAlgo").map(|algo| match algo.to_ascii_lowercase().as_str() {
        "rsa2048" => Ok(SigningAlgo::Rsa2048),
        "ecc_secp256r1" => Ok(SigningAlgo::EccSecp256r1),
        _ => Err(VerbError::Syntax { usage: PKAM }),
    });
    let hashing = params
        .named("hashingAlgo")
        .map(|hash| hash.to_ascii_lowercase().parse().map_err(|_| VerbError::Syntax { usage: PKAM }));
    let enrollment = params.named("enrollmentId").map(str::to_owned);
    if params.rest.is_empty() || params.rest.contains([':', ' ']) {
        return Err(VerbError::Syntax { usage: PKAM });
    }
    Ok(Pkam {
        signing: signing.transpose()?,
        hashing: hashing.transpose()?,
        enrollment,
        signature: params.rest.to_owned(),
    })
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from:{}", self.atsign)?;
        match &self.config {
            Some(config) => {
                let json = serde_json::to_string(config).map_err(|_| fmt::Error)?;
                write!(f, ":clientConfig:{json}")
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to:{}", self.atsign)
    }
}

impl fmt::Display for Cram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cram:{}", self.digest)
    }
}

impl fmt::Display for Pkam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkam:")?;
        match self.signing {
            Some(SigningAlgo::Rsa2048) => f.write_str("signingAlgo:rsa2048:")?,
            Some(SigningAlgo::EccSecp256r1) => f.write_str("signingAlgo:ecc_secp256r1:")?,
            None => {}
        }
        if let Some(hash) = self.hashing {
            write!(f, "hashingAlgo:{hash}:")?;
        }
        if let Some(id) = &self.enrollment {
            write!(f, "enrollmentId:{id}:")?;
        }
        f.write_str(&self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "from:@alice",
                r#"from:@alice:clientConfig:{"version":"3.3.0","clientId":"1"}"#,
                "to:@alice",
                "cram:1df818c903a8",
                "pkam:AbC+/==",
                "pkam:signingAlgo:rsa2048:hashingAlgo:sha256:enrollmentId:4a16-0d33:AbC=",
                "pkam:signingAlgo:ecc_secp256r1:AbC",
                "pol",
            ],
            &[("from:alice", "from:@alice"), ("FROM:@A.lice", "from:@alice")],
        );
    }

    #[test]
    fn refuses_what_is_cut_short() {
        refused(&[
            "from",
            "from:",
            "from:@a@b",
            "from:@alice:x",
            "from:@alice:clientConfig:{",
            "to",
            "to:",
            "to:@a b",
            "cram:",
            "pkam:",
            "pkam:signingAlgo:rot13:x",
        ]);
    }
}
