//! What is asked, and how it is answered. Pure.

use serde::{Deserialize, Serialize};

/// Most bytes of an ask.
pub const MOST_ASK: usize = 1024;

/// Something asked of a running agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Read the configuration again and follow it.
    Reload {},
    /// Say how you are.
    Status {},
    /// Be the gateway, whoever else was.
    Claim {},
    /// Show what comes in, until the asker has gone.
    Tap {
        /// Through this adapter or of this device alone.
        #[serde(default)]
        of: Option<String>,
    },
}

/// Why a line asks nothing.
#[derive(Debug, thiserror::Error)]
#[error("not an ask: {0}; expected a line like {{\"ask\":\"reload\"}}")]
pub struct InvalidAsk(#[from] serde_json::Error);

impl Ask {
    /// Reads a line.
    ///
    /// # Errors
    /// When it asks nothing that is known.
    pub fn parse(line: &str) -> Result<Self, InvalidAsk> {
        Ok(serde_json::from_str(line)?)
    }
}

/// How an ask is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<T> {
    /// It was done, with this result.
    Done(T),
    /// It was not done: the ask or the configuration is wrong, or the asker may not.
    Refused(String),
    /// It was tried and failed.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_an_ask() {
        assert_eq!(Ask::parse(r#"{"ask":"reload"}"#).unwrap(), Ask::Reload {});
        assert_eq!(Ask::parse(r#"{"ask":"status"}"#).unwrap(), Ask::Status {});
        assert_eq!(Ask::parse(r#"{"ask":"claim"}"#).unwrap(), Ask::Claim {});
        assert_eq!(Ask::parse(r#"{"ask":"tap"}"#).unwrap(), Ask::Tap { of: None });
        let of = Some("boiler".to_owned());
        assert_eq!(Ask::parse(r#"{"ask":"tap","of":"boiler"}"#).unwrap(), Ask::Tap { of });
        for wrong in ["", "reload", "{}", r#"{"ask":"explode"}"#, r#"{"ask":"reload","now":true}"#] {
            assert!(Ask::parse(wrong).is_err(), "{wrong}");
        }
    }
}
