//! `batch`: several commands in one (wire reference §4.26).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::VerbError;

/// `batch:[{"id":1,"command":"update:…"},…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What is to be done, in this order.
    pub commands: Vec<Command>,
}

/// One command of a batch. It is read when its turn comes: that it is no verb is its own failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// What the answer to it is called.
    pub id: i64,
    /// The line.
    pub command: String,
}

pub(super) fn parse(rest: &str) -> Result<Batch, VerbError> {
    let json = rest.strip_prefix(':').filter(|json| !json.is_empty());
    let json = json.ok_or(VerbError::Syntax { usage: r#"e.g batch:[{"id":1,"command":"update:…"}]"# })?;
    serde_json::from_str(json).map(|commands| Batch { commands }).map_err(|_| VerbError::Json)
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch:{}", serde_json::to_string(&self.commands).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verb, VerbError, refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                r#"batch:[{"id":1,"command":"update:phone.wavi@alice 1"},{"id":2,"command":"no verb"}]"#,
                "batch:[]",
            ],
            &[(
                r#"batch:[ { "command":"scan", "id":7, "more":true } ]"#,
                r#"batch:[{"id":7,"command":"scan"}]"#,
            )],
        );
    }

    #[test]
    fn refuses_what_is_no_list_of_commands() {
        refused(&["batch", "batch:", "batch x"]);
        for json in ["{", "{}", "[1]", r#"[{"id":"x","command":"scan"}]"#, r#"[{"id":1}]"#] {
            assert_eq!(format!("batch:{json}").parse::<Verb>(), Err(VerbError::Json), "{json}");
        }
    }
}
