//! The record of an application's enrollment (atProtocol wire reference §4.23).

use std::collections::BTreeMap;

use at_protocol::verb::EnrollRequest;
use at_protocol::{AtKey, AtSign};
use serde::{Deserialize, Serialize};

/// The namespace whose holders manage enrollments.
pub(crate) const MANAGE: &str = "__manage";
/// The namespace that stands for all others.
pub(crate) const ALL: &str = "*";

/// An enrollment as it is stored. Members not known here are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrollment {
    /// The session in which it was asked for.
    pub session_id: String,
    /// Name of the application.
    pub app_name: String,
    /// Name of the device.
    pub device_name: String,
    /// What it may touch, and how.
    pub namespaces: BTreeMap<String, Right>,
    /// The key that proves it.
    pub apkam_public_key: String,
    /// How it was asked for.
    pub request_type: String,
    /// What was decided.
    pub approval: Approval,
}

/// What an enrollment may do with a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Right {
    /// Read.
    #[serde(rename = "r")]
    Read,
    /// Read and write.
    #[serde(rename = "rw")]
    Write,
}

/// The decision about an enrollment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Where it stands.
    pub state: State,
}

/// Where an enrollment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody has decided.
    Pending,
    /// It was granted.
    Approved,
    /// It was refused.
    Denied,
    /// It was granted and taken back.
    Revoked,
    /// Its time is over.
    Expired,
}

impl Enrollment {
    /// What a connection that knows the activation secret asks for is granted at once, with all
    /// namespaces.
    pub(crate) fn first(session: &str, app: String, device: String, key: String) -> Self {
        Self {
            session_id: session.to_owned(),
            app_name: app,
            device_name: device,
            namespaces: [(MANAGE.to_owned(), Right::Write), (ALL.to_owned(), Right::Write)].into(),
            apkam_public_key: key,
            request_type: "newEnrollment".to_owned(),
            approval: Approval { state: State::Approved },
        }
    }

    /// The right that governs a name: its own namespace, else an enrolled one that it ends in, else `*`
    /// (wire reference §4.0, APKAM authorisation, point 4). Enrollments are managed elsewhere, never as
    /// records.
    pub(crate) fn right_over(&self, name: &at_protocol::KeyName) -> Option<Right> {
        let exact = name.namespace().and_then(|namespace| self.namespaces.get(namespace));
        if name.is_in(MANAGE) {
            return None;
        }
        exact
            .or_else(|| {
                self.namespaces.iter().find(|(namespace, _)| name.is_in(namespace)).map(|(_, right)| right)
            })
            .or_else(|| self.namespaces.get(ALL))
            .copied()
    }

    /// Whether it sees all namespaces.
    pub(crate) fn sees_all(&self) -> bool {
        self.namespaces.contains_key(ALL)
    }
}

/// The name of an enrollment's record.
pub(crate) fn record_key(id: &str, owner: &AtSign) -> Option<AtKey> {
    named(id, "new.enrollments", owner)
}

/// Where an enrollment finds the atSign's encryption private key, encrypted for it.
pub(crate) fn private_key_key(id: &str, owner: &AtSign) -> Option<AtKey> {
    named(id, "default_enc_private_key", owner)
}

/// Where an enrollment finds the atSign's self key, encrypted for it.
pub(crate) fn self_key_key(id: &str, owner: &AtSign) -> Option<AtKey> {
    named(id, "default_self_enc_key", owner)
}

fn named(id: &str, what: &str, owner: &AtSign) -> Option<AtKey> {
    // An id with a dot could name another kind of record.
    let plain = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let name = plain.then(|| format!("{id}.{what}.{MANAGE}").parse().ok()).flatten()?;
    Some(AtKey::Own { name, owner: owner.clone() })
}

/// One of the two default keys as it is stored: the ciphertext, and its initialisation vector if one was
/// given.
pub(crate) fn stored_key(value: &str, iv: Option<&str>) -> String {
    match iv {
        Some(iv) => serde_json::json!({ "value": value, "iv": iv }).to_string(),
        None => serde_json::json!({ "value": value }).to_string(),
    }
}

/// What every request must have, or the text of what is missing (wire reference §4.23, order of checks).
pub(crate) fn mandatory(request: &EnrollRequest) -> Result<(String, String, String), &'static str> {
    let given = |member: &Option<String>| member.clone().filter(|text| !text.is_empty());
    let app = given(&request.app_name).ok_or("appName is mandatory for enroll:request")?;
    let device = given(&request.device_name).ok_or("deviceName is mandatory for enroll:request")?;
    let key = given(&request.apkam_public_key).ok_or("apkam public key is mandatory for enroll:request")?;
    Ok((app, device, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolled(namespaces: &[(&str, Right)]) -> Enrollment {
        let mut enrollment = Enrollment::first("_s", "a".into(), "d".into(), "k".into());
        enrollment.namespaces = namespaces.iter().map(|(name, right)| ((*name).to_owned(), *right)).collect();
        enrollment
    }

    fn right(enrollment: &Enrollment, name: &str) -> Option<Right> {
        enrollment.right_over(&name.parse().unwrap())
    }

    #[test]
    fn the_nearest_namespace_governs() {
        let some = enrolled(&[("b", Right::Read), ("x.c", Right::Write)]);
        assert_eq!(right(&some, "k.b"), Some(Right::Read));
        assert_eq!(right(&some, "k.a.b"), Some(Right::Read));
        assert_eq!(right(&some, "k.x.c"), Some(Right::Write));
        assert_eq!((right(&some, "k.c"), right(&some, "k"), right(&some, "kb")), (None, None, None));
        let all = enrolled(&[("b", Right::Read), ("*", Right::Write)]);
        assert_eq!((right(&all, "k.b"), right(&all, "k")), (Some(Right::Read), Some(Right::Write)));
    }

    #[test]
    fn nobody_reaches_enrollments_as_records() {
        let all = enrolled(&[("*", Right::Write), (MANAGE, Right::Write)]);
        assert_eq!(right(&all, "1.new.enrollments.__manage"), None);
    }

    #[test]
    fn the_stored_form_is_the_published_one() {
        let json = serde_json::to_value(Enrollment::first("_s", "a".into(), "d".into(), "k".into())).unwrap();
        assert_eq!(json["namespaces"], serde_json::json!({"*": "rw", "__manage": "rw"}));
        assert_eq!(json["approval"]["state"], "approved");
        assert_eq!(record_key("a.b", &"@alice".parse().unwrap()), None);
    }
}
