//! What a caller asks for, and what becomes of it: the payloads inside AtRpc.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The payload of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The command's name, without its device.
    pub command: String,
    /// The arguments by name.
    #[serde(default)]
    pub args: Map<String, Value>,
    /// When it was asked for, in milliseconds since 1970.
    pub issued: i64,
    /// From when on it must not begin, in milliseconds since 1970.
    pub expires: i64,
    /// The idempotency key: of two calls of one caller with the same key, the second is answered from the
    /// record of the first. Where absent, the id of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Longest idempotency key, in bytes.
pub const MAX_KEY: usize = 128;

/// What became of a call. Each tells the truth: what is not known to have failed is not called failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It will be done; said at once, by `ack`.
    Accepted,
    /// It was done.
    Done,
    /// It was not done, and it is known that it was not.
    Failed,
    /// It is not allowed, or not as asked.
    Rejected,
    /// It came too late.
    Expired,
    /// It may have been done or not: the connection to the device broke, or the agent was killed.
    Unknown,
}

/// The payload of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What became of it.
    pub state: State,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Outcome {
    /// `state` without more words.
    pub const fn of(state: State) -> Self {
        Self { state, reason: None }
    }

    /// `state`, and why.
    pub fn because(state: State, reason: impl ToString) -> Self {
        Self { state, reason: Some(reason.to_string()) }
    }
}
