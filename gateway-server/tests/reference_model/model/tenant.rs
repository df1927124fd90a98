//! What the model keeps of one atSign: records, their commits, notifications (atProtocol wire reference §6.4,
//! §7, §8).

use std::collections::{BTreeMap, BTreeSet};

use at_protocol::Timestamp;
use serde_json::{Map, Value, json};

use super::Flaw;
use super::record::{Record, is_committed, merged, owner};

const DEFAULT_TTLN: i64 = 15 * 60 * 1000;
/// How long what was sent can be asked for after its time is over.
pub(super) const KEEP_SENT: i64 = 60 * 60 * 1000;
/// How long a copy is kept whose owner says nothing about copies.
pub(super) const UNASKED_COPY: i64 = 24 * 60 * 60 * 1000;

#[derive(Default)]
pub(super) struct Tenant {
    pub(super) records: BTreeMap<String, Record>,
    /// The newest commit of each key: its id, what was done and when.
    pub(super) log: BTreeMap<String, (i64, (char, i64))>,
    pub(super) next_commit: i64,
    /// By sender and id.
    pub(super) notes: BTreeMap<(String, String), Note>,
    pub(super) last_moment: i64,
    pub(super) blocked: BTreeSet<&'static str>,
    pub(super) unnamed: u64,
}

#[derive(Clone)]
pub(crate) struct Note {
    pub(crate) id: String,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) deletes: bool,
    pub(crate) text: bool,
    pub(crate) ttln: i64,
    /// The notifier, and how many of its are kept.
    pub(crate) latest: Option<(String, usize)>,
    pub(crate) set: Map<String, Value>,
    pub(super) received: bool,
    pub(super) delivered: bool,
    pub(super) created: i64,
}

impl Tenant {
    /// Writes a record over what was `before`; gives its commit id.
    pub(super) fn write(
        &mut self,
        key: &str,
        value: &str,
        set: &Map<String, Value>,
        before: Option<Record>,
        (now, operation): (i64, char),
    ) -> i64 {
        let before = before.filter(|before| !before.is_expired(now));
        let set = merged(&before.as_ref().map(|before| before.set.clone()).unwrap_or_default(), set);
        let millis = |name: &str| set.get(name).and_then(Value::as_i64).filter(|number| *number > 0);
        let available = millis("ttb").map(|ttb| now + ttb);
        let record = Record {
            value: value.to_owned(),
            created: before.as_ref().map_or(now, |before| before.created),
            updated: now,
            available,
            expires: millis("ttl").map(|ttl| available.unwrap_or(now) + ttl),
            refresh: millis("ttr").map(|ttr| now + ttr * 1000),
            version: before.map_or(0, |before| before.version + 1),
            set,
        };
        self.records.insert(key.to_owned(), record);
        self.commit(key, operation, now)
    }

    pub(super) fn delete(&mut self, key: &str, now: i64) -> i64 {
        self.records.remove(key);
        self.commit(key, '-', now)
    }

    /// Takes back what was just committed, with all that was before (§4.5, `nc`).
    pub(super) fn forget(&mut self, key: &str) -> i64 {
        if self.log.remove(key).is_some() {
            self.next_commit -= 1;
        }
        -1
    }

    /// The log in its order.
    pub(super) fn commits(&self) -> Vec<(i64, String, (char, i64))> {
        let mut log: Vec<_> = self.log.iter().map(|(key, (id, what))| (*id, key.clone(), *what)).collect();
        log.sort();
        log
    }

    fn commit(&mut self, key: &str, operation: char, now: i64) -> i64 {
        if !is_committed(key) {
            return -1;
        }
        self.log.insert(key.to_owned(), (self.next_commit, (operation, now)));
        self.next_commit += 1;
        self.next_commit - 1
    }

    /// Each notification of a tenant has a moment of its own, in order.
    pub(super) fn keep(&mut self, mut note: Note, now: i64) {
        self.last_moment = now.max(self.last_moment + 1);
        note.created = self.last_moment;
        self.unnamed += 1;
        let id = if note.id == "?" { format!("?{}", self.unnamed) } else { note.id.clone() };
        self.notes.insert((note.from.clone(), id), note);
    }

    pub(super) fn note(&self, id: &str) -> Option<&Note> {
        self.notes.values().filter(|note| note.id == id).max_by_key(|note| note.created)
    }

    /// What came for this tenant, with the copy that it asks for (§6.4).
    pub(super) fn receive(&mut self, note: Note, now: i64, flaw: Option<Flaw>) {
        let (key, is_foreign) = (format!("cached:{}", note.key), note.from != note.to);
        let note = Note { received: true, delivered: true, ..note };
        self.keep(note.clone(), now);
        if note.text || !is_foreign {
            return;
        }
        let asks = note.set.get("ttr").is_some_and(|ttr| *ttr != json!(0));
        let kept = self.records.get(&key);
        if note.deletes {
            let goes = kept.is_some_and(|kept| kept.set.get("ccd") == Some(&json!(true)));
            if goes && flaw != Some(Flaw::KeepsCopies) {
                self.delete(&key, now);
            }
        } else if let Some(value) = note.value.or(kept.map(|kept| kept.value.clone())).filter(|_| asks) {
            self.write(&key, &value, &note.set, None, (now, '*'));
        }
    }
}

impl Note {
    pub(crate) fn new(id: &str, to: &str, key: &str, value: Option<String>) -> Self {
        Self {
            id: id.to_owned(),
            from: String::new(),
            to: to.to_owned(),
            key: key.to_owned(),
            value,
            deletes: false,
            text: false,
            ttln: DEFAULT_TTLN,
            latest: None,
            set: Map::new(),
            received: false,
            delivered: false,
            created: 0,
        }
    }

    /// Whether this is about a record of this atSign's, or a text.
    pub(super) fn is_of(&self, atsign: &str) -> bool {
        self.text || owner(&self.key) == atsign
    }

    /// §4.17, without what the model does not keep.
    pub(super) fn fetched(&self) -> Value {
        let kind = if self.received { "received" } else { "sent" };
        let operation = if self.deletes { "delete" } else { "update" };
        let status = if self.delivered { "delivered" } else { "queued" };
        let (notifier, depth) = self.latest.clone().unwrap_or(("SYSTEM".to_owned(), 1));
        json!({
            "id": self.id, "fromAtSign": self.from, "toAtSign": self.to, "notification": self.key,
            "notificationDateTime": Timestamp::from_millis(self.created).to_string(),
            "expiresAt": Timestamp::from_millis(self.created + self.ttln).to_string(),
            "type": format!("NotificationType.{kind}"), "opType": format!("OperationType.{operation}"),
            "messageType": format!("MessageType.{}", if self.text { "text" } else { "key" }),
            "priority": "NotificationPriority.low",
            "notificationStatus": format!("NotificationStatus.{status}"), "retryCount": "0",
            "strategy": if self.latest.is_some() { "latest" } else { "all" },
            "notifier": notifier, "depth": depth.to_string(),
            "atValue": self.value.clone().unwrap_or("null".to_owned()), "ttl": self.ttln.to_string(),
        })
    }

    pub(super) fn shown(&self) -> Value {
        let encrypted = self.set.get("isEncrypted").cloned().unwrap_or(json!(!self.text));
        json!({
            "id": self.id, "from": self.from, "to": self.to, "key": self.key, "value": self.value,
            "operation": if self.deletes { "delete" } else { "update" }, "epochMillis": self.created,
            "messageType": if self.text { "MessageType.text" } else { "MessageType.key" },
            "isEncrypted": encrypted,
        })
    }
}
