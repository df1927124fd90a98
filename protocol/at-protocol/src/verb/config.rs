//! `config`: whom the server turns away, and its settings under test (wire reference §4.20).

use std::fmt;

use super::VerbError;
use super::params::Params;
use crate::AtSign;

/// `config:block:…`, `config:set:…`, `config:reset:…`, `config:print:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Config {
    /// Turns these atSigns away from now on.
    Block(Vec<AtSign>),
    /// Turns these atSigns away no more.
    Unblock(Vec<AtSign>),
    /// Lists who is turned away.
    ShowBlocked,
    /// Changes a setting until the server ends.
    Set {
        /// Which.
        name: String,
        /// To what.
        value: String,
    },
    /// Gives a setting back the value that it had at the start.
    Reset {
        /// Which.
        name: String,
    },
    /// Shows a setting.
    Print {
        /// Which.
        name: String,
    },
}

const USAGE: &str = "e.g config:block:add:@bob @carol";
const SYNTAX: VerbError = VerbError::Syntax { usage: USAGE };

pub(super) fn parse(rest: &str) -> Result<Config, VerbError> {
    let mut params = Params::after_colon(rest).ok_or(SYNTAX)?;
    if params.flag("block") {
        return block(params);
    }
    let (word, tail) = params.rest.split_once(':').ok_or(SYNTAX)?;
    let name = |text: &str| match text {
        name if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()) => Ok(name.to_owned()),
        _ => Err(SYNTAX),
    };
    match word.to_ascii_lowercase().as_str() {
        "set" => {
            let (setting, value) = tail.split_once('=').ok_or(SYNTAX)?;
            Ok(Config::Set { name: name(setting)?, value: value.to_owned() })
        }
        "reset" => Ok(Config::Reset { name: name(tail)? }),
        "print" => Ok(Config::Print { name: name(tail)? }),
        _ => Err(SYNTAX),
    }
}

fn block(mut params: Params<'_>) -> Result<Config, VerbError> {
    if params.rest.eq_ignore_ascii_case("show") {
        return Ok(Config::ShowBlocked);
    }
    if params.flag("add") {
        return atsigns(params.rest).map(Config::Block);
    }
    if params.flag("remove") {
        return atsigns(params.rest).map(Config::Unblock);
    }
    Err(SYNTAX)
}

fn atsigns(text: &str) -> Result<Vec<AtSign>, VerbError> {
    let named = text.split_whitespace().map(|name| {
        let atsign = name.strip_prefix('@').filter(|name| !name.contains('@'));
        atsign.ok_or(SYNTAX)?.parse().map_err(|_| SYNTAX)
    });
    let named = named.collect::<Result<Vec<_>, _>>()?;
    if named.is_empty() { Err(SYNTAX) } else { Ok(named) }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, word: &str, atsigns: &[AtSign]| {
            write!(f, "config:block:{word}")?;
            atsigns
                .iter()
                .enumerate()
                .try_for_each(|(place, atsign)| write!(f, "{}{atsign}", if place == 0 { ':' } else { ' ' }))
        };
        match self {
            Self::Block(atsigns) => list(f, "add", atsigns),
            Self::Unblock(atsigns) => list(f, "remove", atsigns),
            Self::ShowBlocked => f.write_str("config:block:show"),
            Self::Set { name, value } => write!(f, "config:set:{name}={value}"),
            Self::Reset { name } => write!(f, "config:reset:{name}"),
            Self::Print { name } => write!(f, "config:print:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "config:block:add:@bob",
                "config:block:add:@bob @carol",
                "config:block:remove:@bob",
                "config:block:show",
                "config:set:autoNotify=false",
                "config:reset:autoNotify",
                "config:print:commitLogCompactionFrequencyMins",
            ],
            &[("CONFIG:Block:Add:@Bob  @c.arol", "config:block:add:@bob @carol")],
        );
    }

    #[test]
    fn refuses_what_blocks_nobody_or_sets_nothing() {
        refused(&[
            "config",
            "config:",
            "config:block",
            "config:block:list",
            "config:block:add:",
            "config:block:add:@@x",
            "config:block:add:bob",
            "config:block:remove",
            "config:block:show:@bob",
            "config:set:autoNotify",
            "config:set:=1",
            "config:reset:",
            "config:print:a b",
            "config:drop:x",
        ]);
    }
}
