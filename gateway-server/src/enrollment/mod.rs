//! The record of an application's enrollment (atProtocol wire reference §4.23).

mod throttle;

use std::collections::BTreeMap;

use at_protocol::{AtKey, AtSign, KeyName, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use throttle::Enrolling;

/// The namespace whose holders manage enrollments.
pub(crate) const MANAGE: &str = "__manage";
/// The namespace that stands for all others but the server's own.
pub(crate) const ALL: &str = "*";
/// What the server tells all applications.
const SERVER: &str = "__atserver";
/// Namespaces that no grant reaches: what is kept there is read and written by verbs of their own.
const RESERVED: [&str; 3] = [MANAGE, "__otp", "__e"];
/// How the name of every enrollment's record ends.
pub(crate) const RECORDS: &str = ".new.enrollments.__manage";

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
    /// The key with which its copies of the atSign's keys are encrypted, encrypted to the atSign.
    #[serde(rename = "encryptedAPKAMSymmetricKey", default, skip_serializing_if = "Option::is_none")]
    pub encrypted_apkam_symmetric_key: Option<String>,
    /// How long it is good for after its approval, in milliseconds; for ever where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apkam_keys_expiry_in_millis: Option<u64>,
    /// The enrollment whose connection approved it; none where the owner did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// When it was revoked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// Whether its key was also the atSign's first key, which went when it was revoked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_first_key: bool,
    /// How its key signs, in the application's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_algo: Option<String>,
    /// What the application says about itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
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

impl State {
    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

impl Right {
    /// Reads `r` or `rw`.
    pub(crate) fn of(text: &str) -> Option<Self> {
        match text {
            "r" => Some(Self::Read),
            "rw" => Some(Self::Write),
            _ => None,
        }
    }
}

impl Enrollment {
    /// An enrollment that was asked for and not decided.
    pub(crate) fn asked(session: &str, app: String, device: String, key: String) -> Self {
        Self {
            session_id: session.to_owned(),
            app_name: app,
            device_name: device,
            namespaces: BTreeMap::new(),
            apkam_public_key: key,
            request_type: "newEnrollment".to_owned(),
            approval: Approval { state: State::Pending },
            encrypted_apkam_symmetric_key: None,
            apkam_keys_expiry_in_millis: None,
            approved_by: None,
            revoked_at: None,
            was_first_key: false,
            signing_algo: None,
            metadata: None,
        }
    }

    /// What a connection that knows the activation secret asks for is granted at once, with all
    /// namespaces.
    pub(crate) fn granted_whole(mut self) -> Self {
        for namespace in [MANAGE, ALL] {
            self.namespaces.insert(namespace.to_owned(), Right::Write);
        }
        self.approval.state = State::Approved;
        self
    }

    /// The right that governs a name: its own namespace, else the longest enrolled one that it ends in,
    /// else `*` (wire reference §4.0, APKAM authorisation, point 4). What the server reserves for its own
    /// verbs is governed by none, and what it tells all is for all to read.
    pub(crate) fn right_over(&self, name: &KeyName) -> Option<Right> {
        if name.is_in(SERVER) {
            return Some(Right::Read);
        }
        if RESERVED.iter().any(|reserved| name.is_in(reserved)) {
            return None;
        }
        let exact = name.namespace().and_then(|namespace| self.namespaces.get(namespace));
        let within = || {
            let within = self.namespaces.iter().filter(|(namespace, _)| name.is_in(namespace));
            within.max_by_key(|(namespace, _)| namespace.len()).map(|(_, right)| right)
        };
        exact.or_else(within).or_else(|| self.namespaces.get(ALL)).copied()
    }

    /// The right over a whole namespace, by the same rule. `*` does not stand for `__manage`.
    pub(crate) fn right_in(&self, namespace: &str) -> Option<Right> {
        let exact = self.namespaces.get(namespace);
        let within = || {
            let suffix = |own: &str| namespace.strip_suffix(own).is_some_and(|head| head.ends_with('.'));
            let within = self.namespaces.iter().filter(|(own, _)| suffix(own));
            within.max_by_key(|(own, _)| own.len()).map(|(_, right)| right)
        };
        let all = || self.namespaces.get(ALL).filter(|_| namespace != MANAGE);
        exact.or_else(within).or_else(all).copied()
    }

    /// Whether its holder may decide about what `other` has asked for: whoever gives must have.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other
            .namespaces
            .iter()
            .all(|(namespace, right)| self.right_in(namespace).is_some_and(|own| own >= *right))
    }

    /// Whether it sees all namespaces.
    pub(crate) fn sees_all(&self) -> bool {
        self.namespaces.contains_key(ALL)
    }

    /// Whether its holder manages enrollments with this right.
    pub(crate) fn manages(&self, right: Right) -> bool {
        self.namespaces.get(MANAGE).is_some_and(|own| *own >= right)
    }
}

/// Whether a text is spelled as this server spells ids. No other spelling names an enrollment, or a
/// connection could hold one under a name by which it is not found.
pub(crate) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// The name of an enrollment's record.
pub(crate) fn record_key(id: &str, owner: &AtSign) -> Option<AtKey> {
    named(id, "new.enrollments", owner)
}

/// The id of the enrollment whose record this is.
pub(crate) fn id_of(key: &AtKey) -> Option<&str> {
    match key {
        AtKey::Own { name, .. } => name.as_str().strip_suffix(RECORDS).filter(|id| is_id(id)),
        AtKey::Public { .. }
        | AtKey::Shared { .. }
        | AtKey::CachedPublic { .. }
        | AtKey::CachedShared { .. }
        | AtKey::PrivateKey { .. }
        | AtKey::Private { .. } => None,
    }
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
    let name = is_id(id).then(|| format!("{id}.{what}.{MANAGE}").parse().ok()).flatten()?;
    Some(AtKey::Own { name, owner: owner.clone() })
}

/// One of the two default keys as it is stored: the ciphertext, and its initialisation vector if one was
/// given.
pub(crate) fn stored_key(value: &str, iv: Option<&str>) -> String {
    #[derive(Serialize)]
    struct Stored<'a> {
        value: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        iv: Option<&'a str>,
    }
    serde_json::to_string(&Stored { value, iv }).expect("two texts are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolled(namespaces: &[(&str, Right)]) -> Enrollment {
        let mut enrollment = Enrollment::asked("_s", "a".into(), "d".into(), "k".into());
        enrollment.namespaces = namespaces.iter().map(|(name, right)| ((*name).to_owned(), *right)).collect();
        enrollment
    }

    fn right(enrollment: &Enrollment, name: &str) -> Option<Right> {
        enrollment.right_over(&name.parse().unwrap())
    }

    #[test]
    fn the_nearest_namespace_governs() {
        let some = enrolled(&[("b", Right::Read), ("x.c", Right::Write), ("y.x.c", Right::Read)]);
        assert_eq!(right(&some, "k.b"), Some(Right::Read));
        assert_eq!(right(&some, "k.a.b"), Some(Right::Read));
        assert_eq!((right(&some, "k.x.c"), right(&some, "k.y.x.c")), (Some(Right::Write), Some(Right::Read)));
        assert_eq!((right(&some, "k.c"), right(&some, "k"), right(&some, "kb")), (None, None, None));
        let all = enrolled(&[("b", Right::Read), ("*", Right::Write)]);
        assert_eq!((right(&all, "k.b"), right(&all, "k")), (Some(Right::Read), Some(Right::Write)));
    }

    #[test]
    fn nobody_reaches_by_a_grant_what_the_server_reserves() {
        let all = enrolled(&[("*", Right::Write), (MANAGE, Right::Write), ("__otp", Right::Write)]);
        for name in ["1.new.enrollments.__manage", "spp.__otp", "x.2.a.__e"] {
            assert_eq!(right(&all, name), None, "{name}");
        }
        assert_eq!(right(&all, "1.events.__atserver"), Some(Right::Read));
        assert_eq!(right(&enrolled(&[]), "1.events.__atserver"), Some(Right::Read));
    }

    #[test]
    fn who_gives_must_have() {
        let has = enrolled(&[("b", Right::Write), ("c", Right::Read), (MANAGE, Right::Write)]);
        assert!(has.covers(&enrolled(&[("b", Right::Write), ("a.b", Right::Read), ("c", Right::Read)])));
        for more in [("c", Right::Write), ("d", Right::Read), ("*", Right::Read), ("ab", Right::Read)] {
            assert!(!has.covers(&enrolled(&[more])), "{more:?}");
        }
        let all = enrolled(&[("*", Right::Write)]);
        assert!(all.covers(&has_without_manage(&has)) && !all.covers(&has));
    }

    fn has_without_manage(has: &Enrollment) -> Enrollment {
        let mut without = has.clone();
        without.namespaces.remove(MANAGE);
        without
    }

    #[test]
    fn an_id_has_one_spelling() {
        let alice = "@alice".parse().unwrap();
        for bad in ["A1", "a.b", "a b", " a", "a_b", "ä", ""] {
            assert_eq!(record_key(bad, &alice), None, "{bad:?}");
        }
        let key = record_key("0f-1", &alice).unwrap();
        assert_eq!(
            (key.to_string().as_str(), id_of(&key)),
            ("0f-1.new.enrollments.__manage@alice", Some("0f-1"))
        );
        assert_eq!(id_of(&"a.b.new.enrollments.__manage@alice".parse().unwrap()), None);
    }

    #[test]
    fn the_stored_form_is_the_published_one() {
        let first = Enrollment::asked("_s", "a".into(), "d".into(), "k".into()).granted_whole();
        let json = serde_json::to_string(&first).unwrap();
        assert_eq!(
            json,
            r#"{"sessionId":"_s","appName":"a","deviceName":"d","namespaces":{"*":"rw","__manage":"rw"},"apkamPublicKey":"k","requestType":"newEnrollment","approval":{"state":"approved"}}"#
        );
    }
}
