//! A notification as the store keeps it (atProtocol wire reference §8.1).

use at_protocol::notification::{Frame, FrameMetadata};
use at_protocol::verb::{MessageType, Notify, Operation, Priority, Strategy};
use at_protocol::{AtKey, AtSign, Metadata, Timestamp};

use super::{Outcome, Settled};

/// How ids begin whose sender promises never to use them for anything else.
const UNIQUE_PREFIX: &str = "ae1-";

/// Which way a notification goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From the tenant to somebody.
    Sent,
    /// From somebody (or itself) to the tenant.
    Received,
    /// From the tenant's server to those of the tenant's connections that ask for it.
    Own,
}

/// How a notification fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits for its first delivery.
    Queued,
    /// A delivery failed and will be repeated.
    Retrying,
    /// The recipient's server has it.
    Delivered,
    /// It was given up.
    Errored,
    /// It was not delivered in time.
    Expired,
}

/// One notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Which way it goes.
    pub kind: Kind,
    /// The sender's id for it.
    pub id: String,
    /// Who sends it.
    pub from: AtSign,
    /// Who gets it.
    pub to: AtSign,
    /// The record's full key, or `@to:<text>`.
    pub key: String,
    /// The record's value.
    pub value: Option<String>,
    /// What happened to the record.
    pub operation: Operation,
    /// Whether the key names a record.
    pub message_type: MessageType,
    /// Before which others it goes.
    pub priority: Priority,
    /// Whether it supersedes others of its notifier.
    pub strategy: Strategy,
    /// How many of its notifier are kept then.
    pub latest_n: u32,
    /// Who of the sender's applications sends.
    pub notifier: String,
    /// Lifetime in milliseconds.
    pub ttln: u64,
    /// Whether the value is ciphertext.
    pub is_encrypted: bool,
    /// What is said about the value.
    pub metadata: Metadata,
    /// When it was sent or received: one later than any before of the same tenant, so that it also orders.
    pub created: Timestamp,
    /// When its time is over.
    pub expires: Timestamp,
    /// How it fares.
    pub status: Status,
    /// How many deliveries failed.
    pub attempts: u32,
}

/// Whether an id has the form that is used once only, so that a repeat is known for a repeat.
#[must_use]
pub fn is_unique(id: &str) -> bool {
    id.starts_with(UNIQUE_PREFIX)
}

impl Notification {
    /// How its delivery went.
    #[must_use]
    pub fn settled(&self, outcome: Outcome) -> Settled {
        Settled { id: self.id.clone(), created: self.created, outcome }
    }

    /// The record that the key names.
    #[must_use]
    pub fn record(&self) -> Option<AtKey> {
        match self.message_type {
            MessageType::Key => self.key.parse().ok(),
            MessageType::Text => None,
        }
    }

    /// The key under which the recipient keeps a copy of the record.
    #[must_use]
    pub fn cached_key(&self) -> Option<AtKey> {
        match self.record()? {
            AtKey::Shared { name, owner, with } if owner != with => {
                Some(AtKey::CachedShared { name, owner, with })
            }
            AtKey::Shared { .. }
            | AtKey::Public { .. }
            | AtKey::Own { .. }
            | AtKey::CachedPublic { .. }
            | AtKey::CachedShared { .. }
            | AtKey::PrivateKey { .. }
            | AtKey::Private { .. } => None,
        }
    }

    /// What a monitor or a list shows.
    #[must_use]
    pub fn frame(&self) -> Frame {
        let ttb = self.metadata.ttb.filter(|ttb| *ttb > 0);
        let available = ttb.map_or("null".to_owned(), |ttb| self.created.plus_millis(ttb).to_string());
        let metadata = FrameMetadata {
            available_at: Some(available),
            expires_at: Some(self.expires.to_string()),
            ..FrameMetadata::from(&self.metadata)
        };
        Frame {
            id: self.id.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            key: self.key.clone(),
            value: self.value.clone(),
            operation: self.operation,
            epoch_millis: self.created.as_millis(),
            message_type: self.message_type,
            is_encrypted: self.is_encrypted,
            metadata: Some(metadata),
        }
    }

    /// What the recipient's server is told (§4.13); `None` if the key is not one that can be.
    #[must_use]
    pub fn line(&self) -> Option<Notify> {
        let (key, owner) = match self.record() {
            Some(AtKey::Shared { name, owner, .. }) => (name.to_string(), Some(owner)),
            Some(_) => return None,
            None => (self.key.strip_prefix(&format!("{}:", self.to))?.to_owned(), None),
        };
        Some(Notify {
            id: Some(self.id.clone()),
            operation: Some(self.operation),
            message_type: Some(self.message_type),
            priority: None,
            strategy: None,
            latest_n: None,
            notifier: Some(self.notifier.clone()),
            ttln: Some(self.ttln),
            // Older servers refuse the line that has these; `ttln` says it, too.
            expires: None,
            ephemeral: false,
            metadata: Metadata { is_encrypted: Some(self.is_encrypted), ..self.metadata.clone() },
            to: self.to.clone(),
            key,
            owner: owner.or_else(|| Some(self.from.clone())),
            value: self.value.clone(),
        })
    }

    /// How it fares, in the word of `notify:status`: expiry outranks all else (§4.16).
    #[must_use]
    pub fn status_at(&self, now: Timestamp) -> &'static str {
        match self.status {
            _ if self.expires <= now => "expired",
            Status::Queued => "queued",
            Status::Delivered => "delivered",
            Status::Retrying | Status::Errored => "errored",
            Status::Expired => "expired",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Something from `from` to `to`, a day long.
    pub(crate) fn notification(id: &str, from: &str, to: &str) -> Notification {
        let (from, to): (AtSign, AtSign) = (from.parse().unwrap(), to.parse().unwrap());
        Notification {
            kind: Kind::Sent,
            id: id.to_owned(),
            key: format!("{to}:temp.edge{from}"),
            from,
            to,
            value: Some("v".to_owned()),
            operation: Operation::Update,
            message_type: MessageType::Key,
            priority: Priority::Low,
            strategy: Strategy::All,
            latest_n: 1,
            notifier: "SYSTEM".to_owned(),
            ttln: 86_400_000,
            is_encrypted: true,
            metadata: Metadata::default(),
            created: Timestamp::from_millis(0),
            expires: Timestamp::from_millis(86_400_000),
            status: Status::Queued,
            attempts: 0,
        }
    }

    #[test]
    fn a_peer_is_told_all_but_what_concerns_the_queue() {
        let mut sent = notification("i1", "@alice", "@bob");
        sent.metadata.ttr = Some(-1);
        assert_eq!(
            sent.line().unwrap().to_string(),
            "notify:id:i1:update:messageType:key:notifier:SYSTEM:ttln:86400000:ttr:-1:isEncrypted:true:@bob:temp.edge@alice:v"
        );
        sent.message_type = MessageType::Text;
        sent.key = "@bob:hello there".to_owned();
        sent.value = None;
        assert!(sent.line().unwrap().to_string().ends_with(":@bob:hello there@alice"));
    }

    #[test]
    fn expiry_outranks_what_happened_before() {
        let mut sent = notification("i1", "@alice", "@bob");
        assert_eq!(sent.status_at(Timestamp::from_millis(1)), "queued");
        sent.status = Status::Delivered;
        assert_eq!(sent.status_at(Timestamp::from_millis(1)), "delivered");
        assert_eq!(sent.status_at(Timestamp::from_millis(86_400_000)), "expired");
    }

    #[test]
    fn copies_are_kept_of_what_others_share() {
        let sent = notification("i1", "@alice", "@bob");
        assert_eq!(sent.cached_key().unwrap().to_string(), "cached:@bob:temp.edge@alice");
        assert_eq!(notification("i1", "@bob", "@bob").cached_key(), None);
    }
}
