//! `llookup`, `lookup`, `plookup`: reading (wire reference §4.8 to §4.10).

use std::fmt;

use super::VerbError;
use super::params::{Params, key, scope};
use crate::key::InvalidKey;
use crate::{AtKey, AtSign, KeyName};

/// How much of a record is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shape {
    /// The value.
    #[default]
    Value,
    /// The metadata.
    Meta,
    /// Key, value and metadata.
    All,
}

/// `llookup[:meta|:all][:cached]:[public:|@with:]name@owner`: reads the server's own store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LLookup {
    /// Which record.
    pub key: AtKey,
    /// How much of it.
    pub shape: Shape,
}

/// `lookup[:bypassCache:<b>][:meta|:all]:name@owner`: reads what `owner` shares with the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The name, without a scope: who asks decides the scope.
    pub name: KeyName,
    /// Whose record.
    pub owner: AtSign,
    /// How much of it.
    pub shape: Shape,
    /// Whether a cached copy will not do.
    pub bypass_cache: bool,
}

/// `plookup[:bypassCache:<b>][:meta|:all]:name@owner`: reads a public record of `owner`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PLookup {
    /// The name, without `public:`.
    pub name: KeyName,
    /// Whose record.
    pub owner: AtSign,
    /// How much of it.
    pub shape: Shape,
    /// Whether a cached copy will not do.
    pub bypass_cache: bool,
}

const LLOOKUP: &str = "e.g llookup:@bob:phone@alice";
const LOOKUP: &str = "e.g lookup:phone@alice";
const PLOOKUP: &str = "e.g plookup:location@alice";

pub(super) fn llookup(rest: &str) -> Result<LLookup, VerbError> {
    let mut params = Params::after_colon(rest).ok_or(VerbError::Syntax { usage: LLOOKUP })?;
    let shape = shape(&mut params);
    let cached = params.flag("cached");
    let scope = scope(&mut params)?;
    if let Some(name) = params.rest.strip_prefix("privatekey:") {
        return Ok(LLookup { key: AtKey::PrivateKey { name: name.parse()? }, shape });
    }
    let (name, owner) = params.rest.rsplit_once('@').ok_or(VerbError::Key(InvalidKey::NoOwner))?;
    Ok(LLookup { key: key(cached, scope, name, Some(owner), LLOOKUP)?, shape })
}

pub(super) fn lookup(rest: &str) -> Result<Lookup, VerbError> {
    let (name, owner, shape, bypass_cache) = remote(rest, LOOKUP)?;
    Ok(Lookup { name, owner, shape, bypass_cache })
}

pub(super) fn plookup(rest: &str) -> Result<PLookup, VerbError> {
    let (name, owner, shape, bypass_cache) = remote(rest, PLOOKUP)?;
    Ok(PLookup { name, owner, shape, bypass_cache })
}

fn remote(rest: &str, usage: &'static str) -> Result<(KeyName, AtSign, Shape, bool), VerbError> {
    let mut params = Params::after_colon(rest).ok_or(VerbError::Syntax { usage })?;
    let bypass = match params.named("bypassCache").map(str::to_ascii_lowercase).as_deref() {
        Some("true") => true,
        Some("false") | None => false,
        Some(_) => return Err(VerbError::Syntax { usage }),
    };
    let shape = shape(&mut params);
    let (name, owner) = params.rest.rsplit_once('@').ok_or(VerbError::Syntax { usage })?;
    Ok((name.parse()?, owner.parse()?, shape, bypass))
}

fn shape(params: &mut Params<'_>) -> Shape {
    if params.flag("meta") {
        Shape::Meta
    } else if params.flag("all") {
        Shape::All
    } else {
        Shape::Value
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value => "",
            Self::Meta => "meta:",
            Self::All => "all:",
        })
    }
}

impl fmt::Display for LLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "llookup:{}{}", self.shape, self.key)
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bypass = if self.bypass_cache { "bypassCache:true:" } else { "" };
        write!(f, "lookup:{bypass}{}{}{}", self.shape, self.name, self.owner)
    }
}

impl fmt::Display for PLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bypass = if self.bypass_cache { "bypassCache:true:" } else { "" };
        write!(f, "plookup:{bypass}{}{}{}", self.shape, self.name, self.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "llookup:public:location@alice",
                "llookup:cached:@alice:phone@bob",
                "llookup:cached:public:publickey@bob",
                "llookup:meta:phone@alice",
                "llookup:all:@bob:phone.wavi@alice",
                "llookup:privatekey:at_pkam_publickey",
                "lookup:publickey@alice",
                "lookup:bypassCache:true:all:phone.wavi@bob",
                "lookup:_4a160d33-0c63@bob",
                "plookup:meta:location@bob",
            ],
            &[("plookup:bypassCache:false:location@bob", "plookup:location@bob")],
        );
    }

    #[test]
    fn refuses_names_with_scopes_or_without_owners() {
        refused(&[
            "llookup",
            "llookup:x",
            "llookup:cached:x@alice",
            "lookup:x",
            "plookup:public:x@bob",
            "lookup:bypassCache:yes:x@bob",
        ]);
    }
}
