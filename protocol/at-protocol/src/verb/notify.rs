//! `notify`: sends a notification (wire reference §4.13).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::VerbError;
use super::params::Params;
use crate::{AtSign, Metadata, Timestamp};

/// `notify[:id:…][:update|:delete][:messageType:…]…<metadata>:@to:<key>[@owner][:<value>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// The sender's own id; the server makes one where absent.
    pub id: Option<String>,
    /// What happened to the key.
    pub operation: Option<Operation>,
    /// Whether the key names a record or is the message itself.
    pub message_type: Option<MessageType>,
    /// Before which others it goes.
    pub priority: Option<Priority>,
    /// Whether older ones of the same notifier are superseded.
    pub strategy: Option<Strategy>,
    /// How many of a notifier's are kept under [`Strategy::Latest`].
    pub latest_n: Option<u32>,
    /// Who of the sender's applications sends.
    pub notifier: Option<String>,
    /// How long it may wait for its recipient, in milliseconds.
    pub ttln: Option<u64>,
    /// When its time is over; outranks `ttln`.
    pub expires: Option<Timestamp>,
    /// Whether the sender cares only for who listens now. Nothing that is not kept can be acknowledged,
    /// so it is kept like any other.
    pub ephemeral: bool,
    /// What is said about the value.
    pub metadata: Metadata,
    /// Who gets it.
    pub to: AtSign,
    /// The record's name, lower case; for a text message, the text.
    pub key: String,
    /// Whose record it is; the sender's where absent.
    pub owner: Option<AtSign>,
    /// The record's value.
    pub value: Option<String>,
}

/// What a notification says happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// The record was written.
    #[default]
    Update,
    /// The record was removed.
    Delete,
}

/// What stands in a notification's key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageType {
    /// The name of a record.
    #[default]
    #[serde(rename = "MessageType.key")]
    Key,
    /// The message itself.
    #[serde(rename = "MessageType.text")]
    Text,
}

/// How urgent a notification is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Priority {
    /// Waits for the others.
    #[default]
    Low,
    /// In between.
    Medium,
    /// Goes first.
    High,
}

/// What becomes of older notifications that still wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// All are delivered.
    #[default]
    All,
    /// Only the latest of a notifier are.
    Latest,
}

const USAGE: &str = "e.g notify:update:messageType:key:@bob:phone.wavi@alice:+1 555";
const SYNTAX: VerbError = VerbError::Syntax { usage: USAGE };

pub(super) fn parse(mut params: Params<'_>) -> Result<Notify, VerbError> {
    let mut notify = Notify::parameters(&mut params)?;
    notify.to = params.atsign()?.ok_or(SYNTAX)?;
    notify.target(params.rest)?;
    Ok(notify)
}

impl Notify {
    /// The notification that `operation` happened to the record `key` of `owner`, for `to`.
    #[must_use]
    pub fn of(to: AtSign, key: &crate::KeyName, owner: AtSign, value: Option<String>) -> Self {
        Self { key: key.to_string(), owner: Some(owner), value, ..Self::blank(to) }
    }

    /// Reads what comes before the recipient, who is nobody yet. SDKs differ in the order of the
    /// parameters: any is taken.
    pub(super) fn parameters(params: &mut Params<'_>) -> Result<Self, VerbError> {
        let mut notify = Self::blank(AtSign::from_str("nobody")?);
        loop {
            if params.flag("update") {
                notify.operation = Some(Operation::Update);
            } else if params.flag("delete") {
                notify.operation = Some(Operation::Delete);
            } else if params.flag("eph") {
                notify.ephemeral = true;
            } else {
                match params.pair() {
                    Some((name, value, rest)) if notify.take(name, value)? => params.rest = rest,
                    _ => return Ok(notify),
                }
            }
        }
    }

    fn blank(to: AtSign) -> Self {
        Self {
            id: None,
            operation: None,
            message_type: None,
            priority: None,
            strategy: None,
            latest_n: None,
            notifier: None,
            ttln: None,
            expires: None,
            ephemeral: false,
            metadata: Metadata::default(),
            to,
            key: String::new(),
            owner: None,
            value: None,
        }
    }

    fn take(&mut self, name: &str, value: &str) -> Result<bool, VerbError> {
        match name.to_ascii_lowercase().as_str() {
            "id" if is_id(value) => self.id = Some(value.to_owned()),
            // The C client writes an underscore.
            "messagetype" | "message_type" => self.message_type = Some(value.parse().map_err(|()| SYNTAX)?),
            "priority" => self.priority = Some(value.parse().map_err(|()| SYNTAX)?),
            "strategy" => self.strategy = Some(value.parse().map_err(|()| SYNTAX)?),
            "latestn" => self.latest_n = Some(value.parse().map_err(|_| SYNTAX)?),
            "notifier" if !value.is_empty() => self.notifier = Some(value.to_owned()),
            "ttln" => self.ttln = Some(value.parse().map_err(|_| SYNTAX)?),
            "eatn" => self.expires = Some(value.parse().map_err(|_| SYNTAX)?),
            "id" | "notifier" => return Err(SYNTAX),
            _ => return Ok(self.metadata.take(name, value)?),
        }
        Ok(true)
    }

    /// Reads `<key>[@owner][:<value>]`. The key of a text message is any text without `@`.
    pub(super) fn target(&mut self, rest: &str) -> Result<(), VerbError> {
        let (key, tail) = match rest.split_once('@') {
            Some((key, tail)) => (key, Some(tail)),
            None => (rest, None),
        };
        if key.is_empty() || key.starts_with(':') || key.contains("::") {
            return Err(SYNTAX);
        }
        let (key, value_of_key) = match (self.message_type.unwrap_or_default(), tail) {
            (MessageType::Text, _) | (MessageType::Key, Some(_)) => (key, None),
            (MessageType::Key, None) => {
                key.split_once(':').map_or((key, None), |(key, value)| (key, Some(value)))
            }
        };
        self.key = match self.message_type.unwrap_or_default() {
            MessageType::Text => key.to_owned(),
            MessageType::Key => key.parse::<crate::KeyName>()?.to_string(),
        };
        self.value = value_of_key.map(str::to_owned);
        if let Some(tail) = tail {
            let (owner, value) = match tail.split_once(':') {
                Some((owner, value)) => (owner, Some(value)),
                None => (tail, None),
            };
            self.owner = Some(owner.parse()?);
            self.value = value.map(str::to_owned);
        }
        self.value = self.value.take().filter(|value| !value.is_empty());
        Ok(())
    }
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

macro_rules! words {
    ($type:ty, $($variant:ident = $word:literal),+) => {
        impl FromStr for $type {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                match text.to_ascii_lowercase().as_str() {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(()),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words!(Operation, Update = "update", Delete = "delete");
words!(MessageType, Key = "key", Text = "text");
words!(Priority, Low = "low", Medium = "medium", High = "high");
words!(Strategy, All = "all", Latest = "latest");

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("notify")?;
        if let Some(id) = &self.id {
            write!(f, ":id:{id}")?;
        }
        if let Some(operation) = self.operation {
            write!(f, ":{operation}")?;
        }
        if let Some(message_type) = self.message_type {
            write!(f, ":messageType:{message_type}")?;
        }
        if let Some(priority) = self.priority {
            write!(f, ":priority:{priority}")?;
        }
        if let Some(strategy) = self.strategy {
            write!(f, ":strategy:{strategy}")?;
        }
        if let Some(latest_n) = self.latest_n {
            write!(f, ":latestN:{latest_n}")?;
        }
        if let Some(notifier) = &self.notifier {
            write!(f, ":notifier:{notifier}")?;
        }
        if let Some(ttln) = self.ttln {
            write!(f, ":ttln:{ttln}")?;
        }
        if let Some(expires) = self.expires {
            write!(f, ":eAtn:{}", expires.to_string().replace(' ', "T"))?;
        }
        f.write_str(if self.ephemeral { ":eph" } else { "" })?;
        write!(f, "{}:{}:{}", self.metadata, self.to, Target(self))
    }
}

/// `<key>[@owner][:<value>]` of a notification.
pub(super) struct Target<'a>(pub(super) &'a Notify);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(notify) = self;
        f.write_str(&notify.key)?;
        if let Some(owner) = &notify.owner {
            write!(f, "{owner}")?;
        }
        notify.value.as_ref().map_or(Ok(()), |value| write!(f, ":{value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verb, refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "notify:id:6ad2-1:update:messageType:key:priority:low:strategy:all:latestN:1:notifier:SYSTEM:ttln:86400000:isEncrypted:true:sharedKeyEnc:A=:pubKeyCS:ab:ivNonce:C=:@bob:temp.edgegw@alice:Zm9v",
                "notify:update:ttr:-1:ivNonce:C=:@bob:attalk.ai6bh@alice:Zm9v",
                "notify:delete:@bob:phone.wavi@alice",
                "notify:messageType:text:@bob:hello there",
                "notify:@bob:phone.wavi@alice:a:b @c",
                "notify:id:x:update:messageType:key:notifier:SYSTEM:ttln:900000:ttr:3888000:ccd:true:isEncrypted:false:@bob:shared_key@alice:x",
                "notify:id:x:ttln:7:eAtn:2030-01-31T10:00:00.250Z:eph:ttl:5:@bob:n@alice:v",
            ],
            &[
                (
                    "notify:id:u:update:ttl:5:ttln:7:isEncrypted:true:@bob:n@alice:v",
                    "notify:id:u:update:ttln:7:ttl:5:isEncrypted:true:@bob:n@alice:v",
                ),
                ("notify:message_type:key:@bob:n@alice:v", "notify:messageType:key:@bob:n@alice:v"),
                ("notify:@bob:n:v", "notify:@bob:n:v"),
                (
                    "notify:eph:eAtn:2030-01-31T10:00:00Z:@bob:n@alice",
                    "notify:eAtn:2030-01-31T10:00:00.000Z:eph:@bob:n@alice",
                ),
            ],
        );
    }

    #[test]
    fn refuses_what_names_nobody_or_nothing() {
        refused(&[
            "notify",
            "notify:",
            "notify:x@alice:v",
            "notify:@bob",
            "notify:@bob:",
            "notify:@bob:@alice:v",
            "notify:public:x@alice:v",
            "notify:id:a b:@bob:x@alice",
            "notify:ttln:x:@bob:k@alice",
            "notify:eAtn:tomorrow:@bob:k@alice",
            "notify:eAtn:tomorrowZ:@bob:k@alice",
            "notify:ttr:-2:@bob:k@alice",
            "notify:ttl:-1:@bob:k@alice",
        ]);
    }

    #[test]
    fn a_text_message_keeps_its_case_and_colons() {
        let Verb::Notify(notify) = "notify:messageType:text:@bob:Hello: you".parse().unwrap() else {
            panic!()
        };
        assert_eq!((notify.key.as_str(), notify.value), ("Hello: you", None));
    }
}
