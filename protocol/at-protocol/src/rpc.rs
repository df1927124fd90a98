//! AtRpc: a request and its answers as notifications (client conventions §6.1).
//!
//! The key carries the type and the id, `request.<reqId>.<domain>.__rpcs.<base>`; the encrypted value
//! carries JSON with the id once more.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::KeyName;

/// How long a request or an answer may wait for an absent party, in milliseconds (client conventions §6.1).
pub const TTLN_MS: u64 = 30_000;

/// Microseconds since the epoch at which the caller asked; at most 2^53, since JavaScript readers exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// What a notification is in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The caller asks.
    Request,
    /// The callee has it and will act.
    Ack,
    /// The callee will not act.
    Nack,
    /// The callee has acted.
    Success,
    /// The callee acted and failed.
    Error,
}

/// The name of a notification of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcName {
    /// What it is.
    pub kind: Kind,
    /// Which conversation.
    pub id: RequestId,
    /// What is called, such as `cmd.boiler`.
    pub domain: String,
    /// The namespace of both parties.
    pub base: String,
}

/// What a request's value holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The id of its name, once more.
    pub req_id: RequestId,
    /// What the caller wants.
    pub payload: Value,
}

/// What an answer's value holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Which request is answered.
    pub req_id: RequestId,
    /// What the answer is; this decides, not the message.
    pub resp_type: Kind,
    /// What the callee has to say.
    pub payload: Value,
    /// For people.
    pub message: Option<String>,
}

/// The name is not one of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an AtRpc notification")]
pub struct NotRpc;

impl RpcName {
    /// The name as part of a key.
    ///
    /// # Errors
    /// Domain or base hold what no key can.
    pub fn key_name(&self) -> Result<KeyName, crate::key::InvalidKey> {
        self.to_string().parse()
    }
}

impl fmt::Display for RpcName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, id, domain, base } = self;
        write!(f, "{kind}.{}.{domain}.__rpcs.{base}", id.0)
    }
}

impl FromStr for RpcName {
    type Err = NotRpc;

    fn from_str(name: &str) -> Result<Self, NotRpc> {
        let (head, base) = name.split_once(".__rpcs.").ok_or(NotRpc)?;
        let mut parts = head.splitn(3, '.');
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(NotRpc);
        let (kind, id, domain) = (part()?.parse()?, part()?, part()?);
        let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        let id = id.parse().ok().filter(|_| digits).ok_or(NotRpc)?;
        Ok(Self { kind, id: RequestId(id), domain: domain.to_owned(), base: base.to_owned() })
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::Success => "success",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Kind {
    type Err = NotRpc;

    fn from_str(word: &str) -> Result<Self, NotRpc> {
        let kinds = [Self::Request, Self::Ack, Self::Nack, Self::Success, Self::Error];
        kinds.into_iter().find(|kind| kind.word() == word).ok_or(NotRpc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let text = "request.1729770000123456.cmd.boiler.__rpcs.plant7";
        let name: RpcName = text.parse().unwrap();
        assert_eq!(
            (name.kind, name.id, name.domain.as_str()),
            (Kind::Request, RequestId(1_729_770_000_123_456), "cmd.boiler")
        );
        assert_eq!(name.to_string(), text);
        for bad in [
            "request.x.cmd.__rpcs.p",
            "request.1.__rpcs.p",
            "shout.1.cmd.__rpcs.p",
            "request.1.cmd.p",
            "request.+1.cmd.__rpcs.p",
        ] {
            assert_eq!(bad.parse::<RpcName>(), Err(NotRpc), "{bad}");
        }
    }

    #[test]
    fn values_have_the_published_members() {
        let answer = Answer {
            req_id: RequestId(5),
            resp_type: Kind::Ack,
            payload: serde_json::json!({}),
            message: None,
        };
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"reqId":5,"respType":"ack","payload":{},"message":null}"#
        );
    }
}
