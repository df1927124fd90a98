//! A notification as `monitor` and `notify:list` show it (wire reference §8.4).

use serde::{Deserialize, Serialize};

use crate::verb::{MessageType, Operation};
use crate::{AtSign, Metadata, Timestamp};

/// What stands before the JSON of a pushed notification.
pub const PREFIX: &str = "notification:";

/// One pushed or listed notification. The members stand in the order that clients' tests expect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frame {
    /// The sender's id; `-1` for the server's own ticker.
    pub id: String,
    /// Who sent it.
    pub from: AtSign,
    /// Whose monitor this is.
    pub to: AtSign,
    /// The record's full name, or `@to:<text>`.
    pub key: String,
    /// The record's value.
    #[serde(default)]
    pub value: Option<String>,
    /// What happened to the record.
    #[serde(default)]
    pub operation: Operation,
    /// When the server took it, in milliseconds since the epoch; the cursor of a replay.
    pub epoch_millis: i64,
    /// Whether `key` names a record.
    #[serde(default)]
    pub message_type: MessageType,
    /// Whether the value is ciphertext.
    #[serde(default)]
    pub is_encrypted: bool,
    /// What is said about the value; absent for the ticker.
    #[serde(default)]
    pub metadata: Option<FrameMetadata>,
}

/// The metadata of a frame. The first six are always there, as `null` where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the members are those of `Metadata`, where they are explained")]
pub struct FrameMetadata {
    pub enc_key_name: Option<String>,
    pub enc_algo: Option<String>,
    pub iv_nonce: Option<String>,
    pub ske_enc_key_name: Option<String>,
    pub ske_enc_algo: Option<String>,
    pub shared_key_enc: Option<String>,
    #[serde(rename = "pubKeyCS", skip_serializing_if = "Option::is_none")]
    pub pub_key_cs: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_signature: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttr: Option<i64>,
    /// When the value becomes readable, as text; `null` as text where it always was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_at: Option<String>,
    /// When the notification expires, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_metadata: Option<serde_json::Value>,
}

impl From<&Metadata> for FrameMetadata {
    fn from(metadata: &Metadata) -> Self {
        Self {
            enc_key_name: metadata.enc_key_name.clone(),
            enc_algo: metadata.enc_algo.clone(),
            iv_nonce: metadata.iv_nonce.clone(),
            ske_enc_key_name: metadata.ske_enc_key_name.clone(),
            ske_enc_algo: metadata.ske_enc_algo.clone(),
            shared_key_enc: metadata.shared_key_enc.clone(),
            pub_key_cs: metadata.pub_key_cs.clone(),
            data_signature: metadata.data_signature.clone(),
            ttl: metadata.ttl,
            ttb: metadata.ttb,
            ttr: metadata.ttr,
            available_at: None,
            expires_at: None,
            app_metadata: metadata.app_metadata.clone(),
        }
    }
}

impl Frame {
    /// The ticker by which a server tells monitors its last commit id (wire reference §8.5).
    #[must_use]
    pub fn stats(owner: &AtSign, last_commit: i64, operation: Operation, now: Timestamp) -> Self {
        Self {
            id: "-1".to_owned(),
            from: owner.clone(),
            to: owner.clone(),
            key: format!("statsNotification.{owner}"),
            value: Some(last_commit.to_string()),
            operation,
            epoch_millis: now.as_millis(),
            message_type: MessageType::Key,
            is_encrypted: false,
            metadata: None,
        }
    }

    /// Whether this is the ticker, which is neither stored nor decrypted.
    #[must_use]
    pub fn is_stats(&self) -> bool {
        self.id == "-1"
    }

    /// The key without `@to:` in front and `@from` behind: `temp.edgegw` of `@bob:temp.edgegw@alice`.
    #[must_use]
    pub fn name(&self) -> &str {
        let head = self.key.strip_prefix(&format!("{}:", self.to)).unwrap_or(&self.key);
        head.strip_suffix(&self.from.to_string()).unwrap_or(head)
    }

    /// The line that a monitor gets, with its end.
    #[must_use]
    pub fn line(&self) -> String {
        let json = serde_json::to_string(self).expect("a frame has only strings, numbers and plain maps");
        format!("{PREFIX} {json}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_published_members_in_order() {
        let frame = Frame {
            id: "6ad2".into(),
            from: "@bob".parse().unwrap(),
            to: "@alice".parse().unwrap(),
            key: "@alice:phone.wavi@bob".into(),
            value: Some("+1 555".into()),
            operation: Operation::Update,
            epoch_millis: 1_606_200_000_000,
            message_type: MessageType::Key,
            is_encrypted: true,
            metadata: Some(FrameMetadata { shared_key_enc: Some("s".into()), ..FrameMetadata::default() }),
        };
        let line = frame.line();
        assert_eq!(
            line,
            concat!(
                r#"notification: {"id":"6ad2","from":"@bob","to":"@alice","key":"@alice:phone.wavi@bob","value":"+1 555","operation":"update","#,
                r#""epochMillis":1606200000000,"messageType":"MessageType.key","isEncrypted":true,"#,
                r#""metadata":{"encKeyName":null,"encAlgo":null,"ivNonce":null,"skeEncKeyName":null,"skeEncAlgo":null,"sharedKeyEnc":"s"}}"#,
                "\n"
            )
        );
        assert_eq!(frame.name(), "phone.wavi");
        assert_eq!(
            serde_json::from_str::<Frame>(line.strip_prefix("notification: ").unwrap()).unwrap(),
            frame
        );
    }
}
