//! A record as the model keeps it, and what its key says (atProtocol wire reference §5, §6).

use at_protocol::Timestamp;
use serde_json::{Map, Value, json};

use crate::steps::Shape;

#[derive(Clone)]
pub(super) struct Record {
    pub(super) value: String,
    pub(super) set: Map<String, Value>,
    pub(super) created: i64,
    pub(super) updated: i64,
    pub(super) available: Option<i64>,
    pub(super) expires: Option<i64>,
    pub(super) refresh: Option<i64>,
    pub(super) version: u64,
}

pub(super) fn owner(key: &str) -> &str {
    &key[key.rfind('@').expect("keys here have owners")..]
}

pub(super) fn name(key: &str) -> &str {
    let end = key.rfind('@').expect("keys here have owners");
    &key[key[..end].rfind(':').map_or(0, |colon| colon + 1)..end]
}

/// `@bob` of `@bob:name@alice`.
pub(super) fn shared_with(key: &str) -> Option<&str> {
    key.split_once(':').map(|(with, _)| with).filter(|with| with.starts_with('@'))
}

pub(super) fn is_committed(key: &str) -> bool {
    !key.starts_with("public:_") || key.starts_with("public:__")
}

/// What all applications of an atSign share (§5.3).
pub(super) fn is_reserved(key: &str) -> bool {
    key.strip_prefix("cached:").unwrap_or(key).starts_with('@') && name(key) == "shared_key"
}

pub(super) fn is_in_wavi(key: &str) -> bool {
    name(key).ends_with(".wavi")
}

/// §4.5: absent keeps, `null` clears, two flags fall back to false.
pub(super) fn merged(before: &Map<String, Value>, set: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = before.clone();
    for flag in ["isBinary", "isEncrypted"] {
        merged.insert(flag.into(), json!(false));
    }
    merged.extend(set.clone());
    merged.retain(|_, value| value != "null");
    if merged.get("ttr") == Some(&json!(0)) {
        merged.remove("ttr");
    }
    if !merged.contains_key("ttr") {
        merged.remove("ccd");
    }
    merged
}

impl Record {
    pub(super) fn is_expired(&self, now: i64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    pub(super) fn is_active(&self, now: i64) -> bool {
        !self.is_expired(now) && self.available.is_none_or(|available| available <= now)
    }

    pub(super) fn is_fresh(&self, now: i64) -> bool {
        let until = self.refresh.is_some_and(|refresh| refresh > now);
        self.is_active(now) && (until || self.set.get("ttr") == Some(&json!(-1)))
    }

    /// §6.1, without what is null.
    pub(super) fn metadata(&self, key: &str) -> Map<String, Value> {
        let time = |at: i64| Value::from(Timestamp::from_millis(at).to_string());
        let mut all = self.set.clone();
        all.insert("createdBy".into(), json!(owner(key)));
        if self.version > 0 {
            all.insert("updatedBy".into(), json!(owner(key)));
        }
        all.insert("createdAt".into(), time(self.created));
        all.insert("updatedAt".into(), time(self.updated));
        let times =
            [("availableAt", self.available), ("expiresAt", self.expires), ("refreshAt", self.refresh)];
        all.extend(times.into_iter().filter_map(|(name, at)| Some((name.into(), time(at?)))));
        all.insert("status".into(), json!("active"));
        all.insert("version".into(), json!(self.version));
        all
    }

    pub(super) fn shown(&self, key: &str, shape: Shape, now: i64) -> Value {
        match shape {
            _ if !self.is_active(now) => json!("null"),
            Shape::Value => json!(self.value),
            Shape::Meta => Value::Object(self.metadata(key)),
            Shape::All => json!({ "key": key, "data": self.value, "metaData": self.metadata(key) }),
        }
    }
}
