//! The pieces from which verbs are read.

use super::VerbError;
use crate::key::InvalidKey;
use crate::{AtKey, AtSign, KeyName, Metadata};

/// Parameters whose values are times such as `2024-01-31T10:00:00.000Z` (wire reference §4.0, §4.7, §4.13).
const TIMES: [&str; 6] = ["cAt", "uAt", "eAt", "aAt", "dAt", "eAtn"];

/// What is still unread of a line, after the verb and its separator.
#[derive(Clone, Copy)]
pub(super) struct Params<'a> {
    pub(super) rest: &'a str,
}

impl<'a> Params<'a> {
    /// What follows `verb:`; `None` when the verb stands alone or a space follows.
    pub(super) fn after_colon(rest: &'a str) -> Option<Self> {
        rest.strip_prefix(':').map(|rest| Self { rest })
    }

    /// Consumes `word:` (in any case), if that comes next.
    pub(super) fn flag(&mut self, word: &str) -> bool {
        match self.rest.split_once(':') {
            Some((head, rest)) if head.eq_ignore_ascii_case(word) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// The `name:value:` that comes next, and what follows it. Colons within a time are the time's.
    pub(super) fn pair(&self) -> Option<(&'a str, &'a str, &'a str)> {
        let (name, rest) = self.rest.split_once(':')?;
        let end = if TIMES.iter().any(|time| name.eq_ignore_ascii_case(time)) {
            rest.find("Z:")? + 1
        } else {
            rest.find(':')?
        };
        Some((name, &rest[..end], &rest[end + 1..]))
    }

    /// Consumes `name:value:` with this name (in any case) and hands back the value.
    pub(super) fn named(&mut self, name: &str) -> Option<&'a str> {
        let (found, value, rest) = self.pair()?;
        found.eq_ignore_ascii_case(name).then(|| {
            self.rest = rest;
            value
        })
    }

    /// Consumes metadata parameters, in any order.
    pub(super) fn metadata(&mut self, into: &mut Metadata) -> Result<(), VerbError> {
        while let Some((name, value, rest)) = self.pair() {
            if !into.take(name, value)? {
                break;
            }
            self.rest = rest;
        }
        Ok(())
    }

    /// Consumes `@atsign:`, if that comes next.
    pub(super) fn atsign(&mut self) -> Result<Option<AtSign>, VerbError> {
        let Some((head, rest)) = self.rest.strip_prefix('@').and_then(|rest| rest.split_once(':')) else {
            return Ok(None);
        };
        if head.contains(['@', ' ']) {
            return Ok(None);
        }
        self.rest = rest;
        Ok(Some(head.parse()?))
    }
}

/// Cuts off the regular expression that may follow the first space.
pub(super) fn regex(rest: &str) -> (&str, Option<String>) {
    match rest.split_once(' ') {
        Some((head, regex)) => (head, Some(regex.trim().to_owned()).filter(|regex| !regex.is_empty())),
        None => (rest, None),
    }
}

/// Who besides the owner a written record is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    Own,
    Public,
    With(AtSign),
}

/// A key with its scope: `[cached:][public:|@with:]name[@owner]`.
pub(super) fn key(
    cached: bool,
    scope: Scope,
    name: &str,
    owner: Option<&str>,
    usage: &'static str,
) -> Result<AtKey, VerbError> {
    let name: KeyName = match name.strip_prefix("privatekey:") {
        Some(private) if owner.is_none() => return Ok(AtKey::PrivateKey { name: private.parse()? }),
        _ => name.parse()?,
    };
    let owner: AtSign = owner.ok_or(VerbError::Key(InvalidKey::NoOwner))?.parse()?;
    match (cached, scope) {
        (false, Scope::Own) => Ok(AtKey::Own { name, owner }),
        (false, Scope::Public) => Ok(AtKey::Public { name, owner }),
        (false, Scope::With(with)) => Ok(AtKey::Shared { name, owner, with }),
        (true, Scope::Public) => Ok(AtKey::CachedPublic { name, owner }),
        (true, Scope::With(with)) => Ok(AtKey::CachedShared { name, owner, with }),
        (true, Scope::Own) => Err(VerbError::Syntax { usage }),
    }
}

/// Reads `public:` or `@with:`, if either comes next.
pub(super) fn scope(params: &mut Params<'_>) -> Result<Scope, VerbError> {
    if params.flag("public") {
        return Ok(Scope::Public);
    }
    Ok(params.atsign()?.map_or(Scope::Own, Scope::With))
}
