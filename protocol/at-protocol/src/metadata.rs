//! What a record or a notification says about its value.
//!
//! On the wire metadata is a run of `:name:value` parameters (wire reference §4.0); in answers it is a
//! JSON object (§6.1). Parameters are printed in the one order that every server accepts and read in any
//! order, since clients differ.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::{AtSign, Timestamp};

/// Metadata as a client sets it. Each absent member keeps what the record had; a text member that is
/// literally `null` clears it ([`Metadata::merged_over`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Lifetime in milliseconds after birth; 0 means for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// Milliseconds until the record is born.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttb: Option<u64>,
    /// Seconds after which a cached copy is fetched again; -1 never, 0 not cacheable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttr: Option<i64>,
    /// Whether the deletion of this record also deletes its cached copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ccd: Option<bool>,
    /// When the record was made, if its owner knows better than the server.
    #[serde(rename = "cAt", skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// When it was changed last, if its owner knows better.
    #[serde(rename = "uAt", skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// Until when it can be read, whatever `ttl` says.
    #[serde(rename = "eAt", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// From when on it can be read, whatever `ttb` says.
    #[serde(rename = "aAt", skip_serializing_if = "Option::is_none")]
    pub available_at: Option<Timestamp>,
    /// Whether the value is base2e15 text of binary data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_binary: Option<bool>,
    /// Whether the value is ciphertext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_encrypted: Option<bool>,
    /// Signature of a public value with the owner's encryption key, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_signature: Option<String>,
    /// Historical; stored for the client, never shown.
    #[serde(skip)]
    pub shared_key_status: Option<String>,
    /// The pair key, wrapped to the recipient, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_key_enc: Option<String>,
    /// MD5 of the recipient's public key text, in hex: a change detector.
    #[serde(rename = "pubKeyCS", skip_serializing_if = "Option::is_none")]
    pub pub_key_cs: Option<String>,
    /// The later form of `pubKeyCS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pub_key_hash: Option<PublicKeyHash>,
    /// How a plain value was encoded; only `base64` is defined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// Free text, stored and returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enc_key_name: Option<String>,
    /// Free text, stored and returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enc_algo: Option<String>,
    /// Initialisation vector of the ciphertext, base64 of 16 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iv_nonce: Option<String>,
    /// Free text, stored and returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ske_enc_key_name: Option<String>,
    /// Free text, stored and returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ske_enc_algo: Option<String>,
    /// Whether the record refuses to be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
    /// What the application says about its own scheme: a JSON object, base64 on the wire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_metadata: Option<serde_json::Value>,
}

/// `pubKeyHash` and `hashingAlgo`: a hash of the recipient's public key and how it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKeyHash {
    /// The hash, in hex.
    pub hash: String,
    /// Its algorithm, such as `sha512`.
    #[serde(rename = "hashingAlgo", alias = "algo")]
    pub algo: String,
}

/// Metadata as an answer shows it: what the client set, and what the server knows (§6.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RecordMetadata {
    /// Who made the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<AtSign>,
    /// Who changed it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_by: Option<AtSign>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// When it was changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
    /// From when on it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_at: Option<Timestamp>,
    /// Until when it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When a cached copy wants to be fetched again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_at: Option<Timestamp>,
    /// Always `active`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// 0 at creation, one more at each change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// What the client set.
    #[serde(flatten)]
    pub set: Metadata,
}

/// A metadata parameter that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Valid value for {name} should be {expected}")]
pub struct InvalidParameter {
    name: &'static str,
    expected: &'static str,
}

impl Metadata {
    /// Takes the parameter `name` if it is one of metadata; `Ok(false)` if it is not.
    ///
    /// # Errors
    /// The parameter is one of ours and its value is not.
    pub(crate) fn take(&mut self, name: &str, value: &str) -> Result<bool, InvalidParameter> {
        let text = |name| word(name, value).map(|word| Some(word.to_owned()));
        match name.to_ascii_lowercase().as_str() {
            "ttl" => self.ttl = Some(number("ttl", "greater than or equal to 0", value)?),
            "ttb" => self.ttb = Some(number("ttb", "greater than or equal to 0", value)?),
            "ttr" => match number("ttr", "greater than or equal to -1", value)? {
                ttr if ttr >= -1 => self.ttr = Some(ttr),
                _ => return Err(InvalidParameter { name: "ttr", expected: "greater than or equal to -1" }),
            },
            "ccd" => self.ccd = Some(boolean("ccd", value)?),
            "cat" => self.created_at = Some(time("cAt", value)?),
            "uat" => self.updated_at = Some(time("uAt", value)?),
            "eat" => self.expires_at = Some(time("eAt", value)?),
            "aat" => self.available_at = Some(time("aAt", value)?),
            "isbinary" => self.is_binary = Some(boolean("isBinary", value)?),
            "isencrypted" => self.is_encrypted = Some(boolean("isEncrypted", value)?),
            "immutable" => self.immutable = Some(boolean("immutable", value)?),
            "datasignature" => self.data_signature = text("dataSignature")?,
            "sharedkeystatus" => self.shared_key_status = text("sharedKeyStatus")?,
            "sharedkeyenc" => self.shared_key_enc = text("sharedKeyEnc")?,
            "pubkeycs" => self.pub_key_cs = text("pubKeyCS")?,
            "pubkeyhash" | "hash" => self.public_key_hash().hash = word("pubKeyHash", value)?.to_owned(),
            "hashingalgo" | "algo" => self.public_key_hash().algo = word("hashingAlgo", value)?.to_owned(),
            "encoding" => self.encoding = text("encoding")?,
            "enckeyname" => self.enc_key_name = text("encKeyName")?,
            "encalgo" => self.enc_algo = text("encAlgo")?,
            "ivnonce" => self.iv_nonce = text("ivNonce")?,
            "appmetadata" => self.app_metadata = Some(json_object("appMetadata", value)?),
            "skeenckeyname" => self.ske_enc_key_name = text("skeEncKeyName")?,
            "skeencalgo" => self.ske_enc_algo = text("skeEncAlgo")?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads the JSON form that `update:json` has (§4.5): lifetimes that are not there are 0, and members
    /// that are not the client's to set are ignored.
    ///
    /// # Errors
    /// `None` if it is no object of this shape; else the member that is out of its range.
    pub(crate) fn from_update(json: serde_json::Value) -> Result<Self, Option<InvalidParameter>> {
        for (name, least) in [("ttl", 0), ("ttb", 0), ("ttr", -1)] {
            if json.get(name).and_then(serde_json::Value::as_i64).is_some_and(|number| number < least) {
                let expected =
                    if least == 0 { "greater than or equal to 0" } else { "greater than or equal to -1" };
                return Err(Some(InvalidParameter { name, expected }));
            }
        }
        let mut metadata: Self = serde_json::from_value(json).map_err(|_| None)?;
        if !matches!(metadata.app_metadata, None | Some(serde_json::Value::Object(_))) {
            return Err(None);
        }
        // What JSON can hold and a line cannot would end the line that other servers are told.
        for (name, text) in metadata.texts() {
            word(name, text)?;
        }
        metadata.ttl.get_or_insert(0);
        metadata.ttb.get_or_insert(0);
        metadata.ttr.get_or_insert(0);
        Ok(metadata)
    }

    /// The members that are words of the client's choice, and their names on the wire.
    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let hash = self.pub_key_hash.as_ref();
        [
            ("dataSignature", self.data_signature.as_deref()),
            ("sharedKeyEnc", self.shared_key_enc.as_deref()),
            ("pubKeyCS", self.pub_key_cs.as_deref()),
            ("pubKeyHash", hash.map(|hash| hash.hash.as_str())),
            ("hashingAlgo", hash.map(|hash| hash.algo.as_str())),
            ("encoding", self.encoding.as_deref()),
            ("encKeyName", self.enc_key_name.as_deref()),
            ("encAlgo", self.enc_algo.as_deref()),
            ("ivNonce", self.iv_nonce.as_deref()),
            ("skeEncKeyName", self.ske_enc_key_name.as_deref()),
            ("skeEncAlgo", self.ske_enc_algo.as_deref()),
        ]
        .into_iter()
        .filter_map(|(name, text)| Some((name, text?)))
    }

    fn public_key_hash(&mut self) -> &mut PublicKeyHash {
        self.pub_key_hash.get_or_insert_with(|| PublicKeyHash { hash: String::new(), algo: String::new() })
    }

    /// What a record has after an update with `self`, given what it had `before` (§4.5): absent keeps,
    /// `null` clears; `isBinary` and `isEncrypted` fall back to false; `ttl` 0 and `ttr` 0 mean none, and
    /// `ccd` means nothing without a `ttr`. A new `ttl` or `ttb` ends what was asserted instead of it; when
    /// a record was made or changed is asserted of one update only.
    #[must_use]
    pub fn merged_over(&self, before: &Self) -> Self {
        let text = |new: &Option<String>, old: &Option<String>| match new.as_deref() {
            Some("null") => None,
            Some(_) => new.clone(),
            None => old.clone(),
        };
        let ttr = self.ttr.or(before.ttr).filter(|ttr| *ttr != 0);
        Self {
            ttl: self.ttl.or(before.ttl),
            ttb: self.ttb.or(before.ttb),
            ttr,
            ccd: self.ccd.or(before.ccd).filter(|_| ttr.is_some()),
            created_at: self.created_at,
            updated_at: self.updated_at,
            expires_at: self.expires_at.or(before.expires_at.filter(|_| self.ttl.is_none())),
            available_at: self.available_at.or(before.available_at.filter(|_| self.ttb.is_none())),
            is_binary: Some(self.is_binary.unwrap_or(false)),
            is_encrypted: Some(self.is_encrypted.unwrap_or(false)),
            data_signature: text(&self.data_signature, &before.data_signature),
            shared_key_status: text(&self.shared_key_status, &before.shared_key_status),
            shared_key_enc: text(&self.shared_key_enc, &before.shared_key_enc),
            pub_key_cs: text(&self.pub_key_cs, &before.pub_key_cs),
            pub_key_hash: self
                .pub_key_hash
                .clone()
                .or_else(|| before.pub_key_hash.clone())
                .filter(|hash| hash.hash != "null"),
            encoding: text(&self.encoding, &before.encoding),
            enc_key_name: text(&self.enc_key_name, &before.enc_key_name),
            enc_algo: text(&self.enc_algo, &before.enc_algo),
            iv_nonce: text(&self.iv_nonce, &before.iv_nonce),
            ske_enc_key_name: text(&self.ske_enc_key_name, &before.ske_enc_key_name),
            ske_enc_algo: text(&self.ske_enc_algo, &before.ske_enc_algo),
            immutable: self.immutable.or(before.immutable),
            app_metadata: self
                .app_metadata
                .clone()
                .or_else(|| before.app_metadata.clone())
                .filter(serde_json::Value::is_object),
        }
    }
}

impl fmt::Display for Metadata {
    /// The wire fragment, each part with its leading colon, in the order of wire reference §4.0.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn part(f: &mut fmt::Formatter<'_>, name: &str, value: Option<&dyn fmt::Display>) -> fmt::Result {
            value.map_or(Ok(()), |value| write!(f, ":{name}:{value}"))
        }
        fn shown<T: fmt::Display>(value: &Option<T>) -> Option<&dyn fmt::Display> {
            value.as_ref().map(|value| value as &dyn fmt::Display)
        }
        part(f, "ttl", shown(&self.ttl))?;
        part(f, "ttb", shown(&self.ttb))?;
        part(f, "ttr", shown(&self.ttr))?;
        part(f, "ccd", shown(&self.ccd))?;
        for (name, time) in [
            ("cAt", self.created_at),
            ("uAt", self.updated_at),
            ("eAt", self.expires_at),
            ("aAt", self.available_at),
        ] {
            part(f, name, shown(&time.map(Timestamp::iso)))?;
        }
        part(f, "dataSignature", shown(&self.data_signature))?;
        part(f, "sharedKeyStatus", shown(&self.shared_key_status))?;
        part(f, "isBinary", shown(&self.is_binary))?;
        part(f, "isEncrypted", shown(&self.is_encrypted))?;
        part(f, "sharedKeyEnc", shown(&self.shared_key_enc))?;
        part(f, "pubKeyCS", shown(&self.pub_key_cs))?;
        if let Some(PublicKeyHash { hash, algo }) = &self.pub_key_hash {
            write!(f, ":pubKeyHash:{hash}:hashingAlgo:{algo}")?;
        }
        part(f, "encoding", shown(&self.encoding))?;
        part(f, "encKeyName", shown(&self.enc_key_name))?;
        part(f, "encAlgo", shown(&self.enc_algo))?;
        part(f, "ivNonce", shown(&self.iv_nonce))?;
        part(f, "skeEncKeyName", shown(&self.ske_enc_key_name))?;
        part(f, "skeEncAlgo", shown(&self.ske_enc_algo))?;
        part(f, "immutable", shown(&self.immutable))?;
        let app = self.app_metadata.as_ref().map(|object| {
            if object.is_null() { "null".to_owned() } else { BASE64.encode(object.to_string()) }
        });
        part(f, "appMetadata", shown(&app))
    }
}

fn number<T: std::str::FromStr>(
    name: &'static str,
    expected: &'static str,
    value: &str,
) -> Result<T, InvalidParameter> {
    value.parse().map_err(|_| InvalidParameter { name, expected })
}

/// A parameter's text: no colon, no `@`, no white space (wire reference §4.0).
fn word<'a>(name: &'static str, value: &'a str) -> Result<&'a str, InvalidParameter> {
    let ends = |c: char| matches!(c, ':' | '@') || c.is_whitespace() || c.is_control();
    if value.contains(ends) {
        return Err(InvalidParameter { name, expected: "one word without : and @" });
    }
    Ok(value)
}

/// Python writes `True`.
fn boolean(name: &'static str, value: &str) -> Result<bool, InvalidParameter> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(InvalidParameter { name, expected: "true or false" }),
    }
}

fn time(name: &'static str, value: &str) -> Result<Timestamp, InvalidParameter> {
    value.parse().map_err(|_| InvalidParameter { name, expected: "a time like 2024-01-31T10:20:30.123Z" })
}

/// `null` clears what was there.
fn json_object(name: &'static str, value: &str) -> Result<serde_json::Value, InvalidParameter> {
    if value == "null" {
        return Ok(serde_json::Value::Null);
    }
    let json = BASE64.decode(value).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    json.filter(serde_json::Value::is_object)
        .ok_or(InvalidParameter { name, expected: "base64 of a JSON object" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Metadata {
        let mut metadata = Metadata::default();
        for (name, value) in pairs {
            assert!(metadata.take(name, value).unwrap(), "{name}");
        }
        metadata
    }

    #[test]
    fn prints_in_the_servers_order_whatever_order_was_read() {
        let metadata = read(&[
            ("sharedKeyEnc", "AbC="),
            ("isEncrypted", "True"),
            ("ttl", "5"),
            ("hash", "ab"),
            ("algo", "sha512"),
        ]);
        assert_eq!(
            metadata.to_string(),
            ":ttl:5:isEncrypted:true:sharedKeyEnc:AbC=:pubKeyHash:ab:hashingAlgo:sha512"
        );
        assert!(!Metadata::default().take("phone", "1").unwrap());
    }

    #[test]
    fn lifetimes_below_their_least_are_refused() {
        let mut metadata = Metadata::default();
        for (name, value) in [("ttl", "-1"), ("ttb", "-5"), ("ttr", "-2"), ("ccd", "maybe"), ("ttl", "x")] {
            assert!(metadata.take(name, value).is_err(), "{name}:{value}");
        }
        assert!(metadata.take("ttr", "-1").unwrap());
    }

    #[test]
    fn asserted_times_last_as_long_as_nothing_else_is_said() {
        let before = read(&[("cAt", "2024-01-31T10:20:30.123Z"), ("eAt", "2030-01-01T00:00:00Z")]);
        assert_eq!(before.to_string(), ":cAt:2024-01-31T10:20:30.123Z:eAt:2030-01-01T00:00:00.000Z");
        let kept = Metadata::default().merged_over(&before);
        assert_eq!((kept.created_at, kept.expires_at), (None, before.expires_at));
        assert_eq!(read(&[("ttl", "0")]).merged_over(&before).expires_at, None);
        assert!(Metadata::default().take("uAt", "yesterday").is_err());
    }

    #[test]
    fn structured_members_are_cleared_by_null_as_well() {
        let before =
            read(&[("pubKeyHash", "ab"), ("hashingAlgo", "sha512"), ("appMetadata", "eyJhIjoxfQ==")]);
        let kept = Metadata::default().merged_over(&before);
        assert!(kept.pub_key_hash.is_some() && kept.app_metadata.is_some());
        let cleared = read(&[("pubKeyHash", "null"), ("appMetadata", "null")]).merged_over(&before);
        assert_eq!((cleared.pub_key_hash, cleared.app_metadata), (None, None));
    }

    #[test]
    fn a_word_cannot_end_the_line_that_others_are_told() {
        for bad in ["a:b", "a@bob", "a b", "a\nnotify:@carol:x@alice:y", "a\r", "a\u{85}"] {
            assert!(Metadata::default().take("encAlgo", bad).is_err(), "{bad:?}");
            for json in [
                serde_json::json!({ "encAlgo": bad }),
                serde_json::json!({ "pubKeyHash": { "hash": "ab", "hashingAlgo": bad } }),
            ] {
                assert!(matches!(Metadata::from_update(json), Err(Some(_))), "{bad:?}");
            }
        }
    }

    #[test]
    fn an_update_keeps_clears_and_sets() {
        let before =
            read(&[("ttl", "9"), ("ivNonce", "abc"), ("encoding", "base64"), ("isEncrypted", "true")]);
        let after = read(&[("ivNonce", "null"), ("ccd", "true")]).merged_over(&before);
        assert_eq!((after.ttl, after.iv_nonce, after.encoding.as_deref()), (Some(9), None, Some("base64")));
        assert_eq!((after.is_encrypted, after.ccd), (Some(false), None));
    }

    #[test]
    fn answers_hold_only_what_is_known_in_the_published_order() {
        let shown = RecordMetadata {
            created_by: Some("@alice".parse().unwrap()),
            created_at: Some(Timestamp::from_millis(0)),
            status: Some("active".into()),
            version: Some(0),
            set: Metadata { ttl: Some(60000), is_binary: Some(false), ..Metadata::default() },
            ..RecordMetadata::default()
        };
        let json = serde_json::to_string(&shown).unwrap();
        assert_eq!(
            json,
            r#"{"createdBy":"@alice","createdAt":"1970-01-01 00:00:00.000Z","status":"active","version":0,"ttl":60000,"isBinary":false}"#
        );
        assert_eq!(serde_json::from_str::<RecordMetadata>(&json).unwrap(), shown);
    }
}
