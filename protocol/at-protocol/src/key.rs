//! The names of records.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::AtSign;

/// Longest full key, in characters; cached copies may have [`MAX_CACHED_KEY`] (wire reference §4.5).
pub const MAX_KEY: usize = 248;
/// Longest full key of a cached copy, in characters (wire reference §6.4).
pub const MAX_CACHED_KEY: usize = 255;

/// The part of a key between scope and owner: `entity` or `entity.namespace`, lower case, at least one
/// character, without `:`, `@`, white space or control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyName(Box<str>);

/// The full name of a record, by who may read it (wire reference §5.2). `Display` is the stored key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AtKey {
    /// `public:name@owner`: anyone may read it.
    Public {
        /// What is named.
        name: KeyName,
        /// Whose record it is.
        owner: AtSign,
    },
    /// `name@owner`: the owner's own ("self") record.
    Own {
        /// What is named.
        name: KeyName,
        /// Whose record it is.
        owner: AtSign,
    },
    /// `@with:name@owner`: shared with one other atSign (or with the owner itself).
    Shared {
        /// What is named.
        name: KeyName,
        /// Whose record it is.
        owner: AtSign,
        /// Who may read it.
        with: AtSign,
    },
    /// `cached:public:name@owner`: a copy of somebody's public record.
    CachedPublic {
        /// What is named.
        name: KeyName,
        /// Whose record it is a copy of.
        owner: AtSign,
    },
    /// `cached:@with:name@owner`: a copy of what `owner` shared with `with`.
    CachedShared {
        /// What is named.
        name: KeyName,
        /// Whose record it is a copy of.
        owner: AtSign,
        /// With whom it was shared.
        with: AtSign,
    },
    /// `privatekey:name`: the server's own, without owner suffix.
    PrivateKey {
        /// What is named.
        name: KeyName,
    },
    /// `private:name@owner`: the owner's server's own; never listed, never synced.
    Private {
        /// What is named.
        name: KeyName,
        /// Whose record it is.
        owner: AtSign,
    },
}

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The name is empty.
    #[error("a key needs a name")]
    Empty,
    /// A character that a name cannot have.
    #[error("a key name cannot contain {0:?}")]
    Character(char),
    /// No `@owner` at the end.
    #[error("the key does not say whose it is: add @owner")]
    NoOwner,
    /// One of its atSigns is none.
    #[error(transparent)]
    AtSign(#[from] crate::atsign::InvalidAtSign),
}

impl KeyName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the last dot, if there is one: `wavi` of `phone.wavi`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.0.rsplit_once('.').map(|(_, namespace)| namespace)
    }

    /// Whether the name lies in `namespace`, which may itself have dots (wire reference §4.0).
    #[must_use]
    pub fn is_in(&self, namespace: &str) -> bool {
        self.0.strip_suffix(namespace).is_some_and(|head| head.ends_with('.'))
    }
}

impl FromStr for KeyName {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        // Most are written as they are meant.
        let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.');
        if !text.is_empty() && text.bytes().all(is_plain) {
            return Ok(Self(text.into()));
        }
        let name: String = text.chars().filter(|c| *c != ' ').flat_map(char::to_lowercase).collect();
        if let Some(bad) =
            name.chars().find(|c| matches!(c, ':' | '@') || c.is_whitespace() || c.is_control())
        {
            return Err(InvalidKey::Character(bad));
        }
        if name.is_empty() { Err(InvalidKey::Empty) } else { Ok(Self(name.into())) }
    }
}

impl AtKey {
    /// The name between scope and owner.
    #[must_use]
    pub fn name(&self) -> &KeyName {
        match self {
            Self::Public { name, .. }
            | Self::Own { name, .. }
            | Self::Shared { name, .. }
            | Self::CachedPublic { name, .. }
            | Self::CachedShared { name, .. }
            | Self::PrivateKey { name }
            | Self::Private { name, .. } => name,
        }
    }

    /// The atSign after the last `@`; none for `privatekey:`.
    #[must_use]
    pub fn owner(&self) -> Option<&AtSign> {
        match self {
            Self::Public { owner, .. }
            | Self::Own { owner, .. }
            | Self::Shared { owner, .. }
            | Self::CachedPublic { owner, .. }
            | Self::CachedShared { owner, .. }
            | Self::Private { owner, .. } => Some(owner),
            Self::PrivateKey { .. } => None,
        }
    }

    /// Whether a change of this record enters the commit log (wire reference §7.2): not what the server
    /// keeps for itself or for applications, not hidden public records but those beginning `__`.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        match self {
            Self::PrivateKey { .. } | Self::Private { .. } => false,
            Self::Public { name, .. } => {
                !self.is_kept_key() && (!name.as_str().starts_with('_') || name.as_str().starts_with("__"))
            }
            Self::Own { .. } | Self::Shared { .. } => !self.is_enrollment() && !self.is_kept_key(),
            Self::CachedPublic { .. } | Self::CachedShared { .. } => true,
        }
    }

    /// Whether `scan` shows this record to its owner when hidden ones are not asked for (§4.11).
    #[must_use]
    pub fn is_listed(&self, show_hidden: bool) -> bool {
        match self {
            Self::PrivateKey { .. } | Self::Private { .. } => false,
            Self::Public { name, .. } => {
                !name.as_str().starts_with('_') || (show_hidden && name.as_str().starts_with("__"))
            }
            Self::Own { name, .. } => show_hidden || !name.as_str().starts_with('_'),
            Self::Shared { .. } | Self::CachedPublic { .. } | Self::CachedShared { .. } => true,
        }
    }

    /// Whether this is what the verb `keys` keeps for an application (§4.25), which no copy follows.
    fn is_kept_key(&self) -> bool {
        let name = self.name().as_str();
        name.contains(".__public_keys.") || name.contains(".__self_keys.")
    }

    /// Whether this is the record of an enrollment, or a key that an enrollment's approval left behind.
    #[must_use]
    pub fn is_enrollment(&self) -> bool {
        let name = self.name().as_str();
        name.ends_with(".new.enrollments.__manage")
            || name.ends_with(".default_enc_private_key.__manage")
            || name.ends_with(".default_self_enc_key.__manage")
    }
}

impl FromStr for AtKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let text = text.trim();
        let lower = text.to_lowercase();
        if let Some(name) = lower.strip_prefix("privatekey:") {
            return Ok(Self::PrivateKey { name: name.parse()? });
        }
        let (head, owner) = lower.rsplit_once('@').ok_or(InvalidKey::NoOwner)?;
        let owner: AtSign = owner.parse()?;
        let (cached, head) = match head.strip_prefix("cached:") {
            Some(rest) => (true, rest),
            None => (false, head),
        };
        if let Some(name) = head.strip_prefix("public:") {
            let name = name.parse()?;
            return Ok(if cached {
                Self::CachedPublic { name, owner }
            } else {
                Self::Public { name, owner }
            });
        }
        if let Some(shared) = head.strip_prefix('@') {
            let (with, name) = shared.split_once(':').ok_or(InvalidKey::Empty)?;
            let (with, name) = (with.parse()?, name.parse()?);
            return Ok(if cached {
                Self::CachedShared { name, owner, with }
            } else {
                Self::Shared { name, owner, with }
            });
        }
        match head.strip_prefix("private:") {
            Some(name) if !cached => Ok(Self::Private { name: name.parse()?, owner }),
            _ if cached => Err(InvalidKey::Character(':')),
            _ => Ok(Self::Own { name: head.parse()?, owner }),
        }
    }
}

impl fmt::Display for AtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public { name, owner } => write!(f, "public:{name}{owner}"),
            Self::Own { name, owner } => write!(f, "{name}{owner}"),
            Self::Shared { name, owner, with } => write!(f, "{with}:{name}{owner}"),
            Self::CachedPublic { name, owner } => write!(f, "cached:public:{name}{owner}"),
            Self::CachedShared { name, owner, with } => write!(f, "cached:{with}:{name}{owner}"),
            Self::PrivateKey { name } => write!(f, "privatekey:{name}"),
            Self::Private { name, owner } => write!(f, "private:{name}{owner}"),
        }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! text_conversions {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = InvalidKey;

            fn try_from(text: String) -> Result<Self, InvalidKey> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

text_conversions!(KeyName);
text_conversions!(AtKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_key_prints_as_it_was_read() {
        for text in [
            "public:location@alice",
            "phone.wavi@alice",
            "@bob:phone.wavi@alice",
            "cached:public:publickey@bob",
            "cached:@alice:phone.wavi@bob",
            "privatekey:at_secret",
            "private:blocklist@alice",
            "_hidden@alice",
            "public:__deep.ns@alice",
        ] {
            assert_eq!(text.parse::<AtKey>().unwrap().to_string(), text);
        }
        assert_eq!("@Bob:PHONE.wavi@Al.ice".parse::<AtKey>().unwrap().to_string(), "@bob:phone.wavi@alice");
    }

    #[test]
    fn keys_without_owner_or_name_are_refused() {
        assert_eq!("phone".parse::<AtKey>(), Err(InvalidKey::NoOwner));
        assert_eq!("@bob:@alice".parse::<AtKey>(), Err(InvalidKey::Empty));
        assert_eq!("public:a:b@alice".parse::<AtKey>(), Err(InvalidKey::Character(':')));
        assert_eq!("cached:phone@alice".parse::<AtKey>(), Err(InvalidKey::Character(':')));
    }

    #[test]
    fn namespaces_match_by_whole_segments() {
        let name: KeyName = "x.a.b".parse().unwrap();
        assert_eq!(name.namespace(), Some("b"));
        assert!(name.is_in("b") && name.is_in("a.b") && !name.is_in("x.a.b") && !name.is_in(".b"));
        assert!(!"xb".parse::<KeyName>().unwrap().is_in("b"));
    }

    #[test]
    fn hidden_records_are_neither_listed_nor_committed() {
        let key = |text: &str| text.parse::<AtKey>().unwrap();
        assert!(!key("public:_x@alice").is_committed() && !key("public:_x@alice").is_listed(true));
        assert!(key("public:__x@alice").is_committed() && key("public:__x@alice").is_listed(true));
        assert!(key("_x@alice").is_committed() && !key("_x@alice").is_listed(false));
        assert!(!key("private:x@alice").is_committed() && !key("privatekey:x").is_listed(true));
        for text in [
            "1-2.new.enrollments.__manage@alice",
            "1-2.default_enc_private_key.__manage@alice",
            "1-2.default_self_enc_key.__manage@alice",
            "public:k.__public_keys.__global@alice",
            "app.device.k.__self_keys.__global@alice",
            "private:app.device.k.__private_keys.__global@alice",
            "private:spp.__otp@alice",
        ] {
            assert!(!key(text).is_committed(), "{text}");
        }
        for text in
            ["@bob:_x@alice", "public:x.__y@alice", "cached:public:_x@bob", "x.events.__atserver@alice"]
        {
            assert!(key(text).is_committed(), "{text}");
        }
    }
}
