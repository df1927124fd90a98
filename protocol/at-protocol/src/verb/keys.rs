//! `keys`: keys that an application keeps at its atServer (wire reference §4.25).

use std::fmt;

use super::VerbError;

/// `keys:<operation>[:<visibility>]…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keys {
    /// Stores a key.
    Put(Box<NewKey>),
    /// Names the keys of a kind that the same application has stored.
    List(KeyVisibility),
    /// Reads a key by its full name.
    Get(String),
    /// Removes a key by its full name.
    Delete(String),
}

/// Who may read a stored key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyVisibility {
    /// Anybody.
    Public,
    /// Only the application that stored it, and never by its record.
    Private,
    /// The application that stored it.
    Own,
}

/// A key that is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Who may read it.
    pub visibility: KeyVisibility,
    /// The namespace in which it is kept.
    pub namespace: String,
    /// Name of the application; public keys have none.
    pub app: Option<String>,
    /// Name of the device; public keys have none.
    pub device: Option<String>,
    /// What kind of key it is, in the application's words.
    pub key_type: Option<String>,
    /// By which key it is encrypted, in the application's words.
    pub encryption_key_name: Option<String>,
    /// Its name.
    pub name: String,
    /// The key.
    pub value: String,
}

const USAGE: &str = "e.g keys:put:self:namespace:__global:appName:wavi:deviceName:pixel:keyType:aes256:\
                     encryptionKeyName:k1:keyName:k2 <key>, keys:get:self or keys:get:keyName:<full key>";

pub(super) fn parse(rest: &str) -> Result<Keys, VerbError> {
    let syntax = VerbError::Syntax { usage: USAGE };
    let mut rest = rest.strip_prefix(':').ok_or(syntax.clone())?;
    let operation = word(&mut rest).to_ascii_lowercase();
    let visibility = match head(rest).to_ascii_lowercase().as_str() {
        "public" => Some(KeyVisibility::Public),
        "private" => Some(KeyVisibility::Private),
        "self" => Some(KeyVisibility::Own),
        _ => None,
    };
    if visibility.is_some() {
        word(&mut rest);
    }
    let mut named = |name: &str, allowed: fn(char) -> bool| {
        if !head(rest).eq_ignore_ascii_case(name) {
            return Ok(None);
        }
        word(&mut rest);
        let value = word(&mut rest);
        let fits = !value.is_empty() && value.chars().all(allowed);
        if fits { Ok(Some(value.to_owned())) } else { Err(VerbError::Syntax { usage: USAGE }) }
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let dashed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let (namespace, app) = (named("namespace", plain)?, named("appName", plain)?);
    let (device, key_type) = (named("deviceName", plain)?, named("keyType", dashed)?);
    let encryption_key_name = named("encryptionKeyName", dashed)?;
    let (name, value) = match rest.get(..8) {
        Some(word) if word.eq_ignore_ascii_case("keyName:") => {
            let (name, value) = rest[8..].split_once(' ').unwrap_or((&rest[8..], ""));
            (Some(name.to_owned()).filter(|name| !name.is_empty()), value)
        }
        _ if rest.is_empty() => (None, ""),
        _ => return Err(syntax),
    };
    match (operation.as_str(), visibility, name, value) {
        ("get", Some(visibility), None, "") => Ok(Keys::List(visibility)),
        ("get", _, Some(name), "") => Ok(Keys::Get(name)),
        ("delete", _, Some(name), "") => Ok(Keys::Delete(name)),
        ("put", Some(visibility), Some(name), value) if !value.is_empty() => {
            let namespace = namespace.ok_or(syntax.clone())?;
            if visibility != KeyVisibility::Public && (app.is_none() || device.is_none()) {
                return Err(syntax);
            }
            let value = value.to_owned();
            Ok(Keys::Put(Box::new(NewKey {
                visibility,
                namespace,
                app,
                device,
                key_type,
                encryption_key_name,
                name,
                value,
            })))
        }
        _ => Err(syntax),
    }
}

/// What comes before the next colon.
fn head(rest: &str) -> &str {
    rest.split(':').next().unwrap_or_default()
}

/// Takes what comes before the next colon, and the colon.
fn word<'a>(rest: &mut &'a str) -> &'a str {
    let (taken, left) = rest.split_once(':').unwrap_or((rest, ""));
    *rest = left;
    taken
}

impl fmt::Display for KeyVisibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Own => "self",
        })
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(visibility) => write!(f, "keys:get:{visibility}"),
            Self::Get(name) => write!(f, "keys:get:keyName:{name}"),
            Self::Delete(name) => write!(f, "keys:delete:keyName:{name}"),
            Self::Put(key) => {
                write!(f, "keys:put:{}:namespace:{}:", key.visibility, key.namespace)?;
                for (name, value) in [
                    ("appName", &key.app),
                    ("deviceName", &key.device),
                    ("keyType", &key.key_type),
                    ("encryptionKeyName", &key.encryption_key_name),
                ] {
                    value.as_ref().map_or(Ok(()), |value| write!(f, "{name}:{value}:"))?;
                }
                write!(f, "keyName:{} {}", key.name, key.value)
            }
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
                "keys:put:public:namespace:__global:keyType:rsa2048:keyName:encryptionPublicKey MIIB=",
                "keys:put:private:namespace:__global:appName:wavi:deviceName:pixel:keyType:rsa2048:\
                 encryptionKeyName:self-1:keyName:key_1 a b",
                "keys:get:self",
                "keys:get:private",
                "keys:get:public",
                "keys:get:keyName:1.default_self_enc_key.__manage@alice",
                "keys:get:keyName:public:k.__public_keys.__global@alice",
                "keys:delete:keyName:public:k.__public_keys.__global@alice",
            ],
            &[
                ("keys:get:self:keyName:x@alice", "keys:get:keyName:x@alice"),
                ("KEYS:Delete:Public:keyname:x@alice", "keys:delete:keyName:x@alice"),
            ],
        );
    }

    #[test]
    fn refuses_what_is_cut_short() {
        refused(&[
            "keys",
            "keys:",
            "keys:get",
            "keys:get:other",
            "keys:get:keyName:",
            "keys:get:keyName:x y",
            "keys:delete:self",
            "keys:put:self:namespace:a:keyName:k v",
            "keys:put:self:appName:a:deviceName:d:keyName:k v",
            "keys:put:public:namespace:a.b:keyName:k v",
            "keys:put:public:namespace:a:keyName:k",
            "keys:put:namespace:a:keyName:k v",
        ]);
    }
}
