//! The `.atKeys` file: every key of an atSign, as every atSDK reads it.
//!
//! Its RSA keys are encrypted, but the key to that lies beside them, in the clear and under the zero IV.
//! So the file is as secret as what it holds. Whoever writes it keeps it from others.

use serde::{Deserialize, Serializer};
use zeroize::Zeroizing;

use crate::AtSign;
use crate::crypto::{AesKey, Iv, RsaPrivateKey, RsaPublicKey};

const PKAM_PUBLIC: &str = "aesPkamPublicKey";
const PKAM_PRIVATE: &str = "aesPkamPrivateKey";
const ENCRYPTION_PUBLIC: &str = "aesEncryptPublicKey";
const ENCRYPTION_PRIVATE: &str = "aesEncryptPrivateKey";
const SELF_KEY: &str = "selfEncryptionKey";
const APKAM_SYMMETRIC: &str = "apkamSymmetricKey";
const ENROLLMENT_ID: &str = "enrollmentId";

/// What a key file begins with that a gateway has sealed for itself: nobody else reads on.
pub const SEALED: &str = "atedge-sealed-1 ";

/// Every key that a client of an atSign has. No `Debug`, no `Clone`, zeroed when dropped.
pub struct AtKeys {
    /// Signs in, and does nothing else. Each enrolment has its own.
    pub pkam: RsaPrivateKey,
    /// Unwraps the keys of pairs and signs public values. All enrolments share it.
    pub encryption: RsaPrivateKey,
    /// Seals what the atSign keeps for itself. All enrolments share it.
    pub self_key: AesKey,
    /// Wraps the two shared secrets during enrolment. Absent in files from before 2023.
    pub apkam_symmetric: Option<AesKey>,
    /// Names the enrolment. Absent in old files, and until the server has answered `enroll:request`:
    /// keys are kept before they are announced, so that a crash in between costs nothing.
    pub enrollment_id: Option<String>,
}

/// Why a text is not a key file that we can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Not a JSON object of the right shape. The text itself is not shown, it may hold secrets.
    #[error("the key file is not a JSON object of texts (line {line}, column {column})")]
    NotJson {
        /// Line of the first fault, from 1.
        line: usize,
        /// Column of the first fault.
        column: usize,
    },
    /// The flat file lies inside an envelope that a passphrase opens.
    #[error("the key file is protected by a passphrase; export it without one")]
    PassphraseProtected,
    /// A gateway keeps it for itself.
    #[error("the key file is sealed by atedge-agent; `atedge-agent keys export` makes a plain one")]
    Sealed,
    /// An envelope of a version that nobody has described yet.
    #[error("the key file has an unknown version `v`; export it as a flat .atKeys file")]
    UnknownVersion,
    /// A field without which no client works.
    #[error("the key file has no {field}")]
    Missing {
        /// Its name in the file.
        field: &'static str,
    },
    /// A field that does not hold the key that it should, or is encrypted with another self key.
    #[error("the key file's {field} cannot be read")]
    Unreadable {
        /// Its name in the file.
        field: &'static str,
    },
    /// A public key that is not the other half of the private key beside it.
    #[error("the key file's {field} does not belong to the private key in it")]
    Mismatched {
        /// Its name in the file.
        field: &'static str,
    },
}

impl AtKeys {
    /// Makes the two key pairs of a new atSign around its two symmetric keys. Takes seconds on a small
    /// machine.
    #[must_use]
    pub fn generate(self_key: AesKey, apkam_symmetric: AesKey) -> Self {
        Self {
            pkam: RsaPrivateKey::generate(),
            encryption: RsaPrivateKey::generate(),
            self_key,
            apkam_symmetric: Some(apkam_symmetric),
            enrollment_id: None,
        }
    }

    /// Reads a flat key file in any order of fields, and ignores fields that it does not know.
    ///
    /// # Errors
    /// See [`KeyFileError`]; the first five fields of the format are mandatory.
    pub fn parse(json: &str) -> Result<Self, KeyFileError> {
        if json.starts_with(SEALED) {
            return Err(KeyFileError::Sealed);
        }
        let file: File = serde_json::from_str(json)
            .map_err(|fault| KeyFileError::NotJson { line: fault.line(), column: fault.column() })?;
        match (&file.v, &file.iv) {
            (Some(version), _) if *version != 1 => return Err(KeyFileError::UnknownVersion),
            (_, Some(_)) => return Err(KeyFileError::PassphraseProtected),
            _ => {}
        }
        let self_key = symmetric(SELF_KEY, required(SELF_KEY, file.self_encryption_key)?)?;
        let pair = |public, public_text, private, private_text| {
            key_pair(
                &self_key,
                public,
                required(public, public_text)?,
                private,
                required(private, private_text)?,
            )
        };
        Ok(Self {
            pkam: pair(PKAM_PUBLIC, file.aes_pkam_public_key, PKAM_PRIVATE, file.aes_pkam_private_key)?,
            encryption: pair(
                ENCRYPTION_PUBLIC,
                file.aes_encrypt_public_key,
                ENCRYPTION_PRIVATE,
                file.aes_encrypt_private_key,
            )?,
            apkam_symmetric: file
                .apkam_symmetric_key
                .map(|text| symmetric(APKAM_SYMMETRIC, text))
                .transpose()?,
            enrollment_id: file.enrollment_id,
            self_key,
        })
    }

    /// Writes the fields that Dart's at_auth writes, among them the self key once more under the atSign.
    #[must_use]
    pub fn to_json(&self, atsign: &AtSign) -> Zeroizing<String> {
        let enclose = |text: &str| Zeroizing::new(self.self_key.encrypt(&Iv::ZERO, text.as_bytes()));
        let atsign = atsign.to_string();
        let self_key = self.self_key.to_base64();
        let mut fields = vec![
            (PKAM_PUBLIC, enclose(self.pkam.public().to_base64())),
            (PKAM_PRIVATE, enclose(&self.pkam.to_pkcs8_base64())),
            (ENCRYPTION_PUBLIC, enclose(self.encryption.public().to_base64())),
            (ENCRYPTION_PRIVATE, enclose(&self.encryption.to_pkcs8_base64())),
            (SELF_KEY, self_key.clone()),
            (&atsign, self_key),
        ];
        fields.extend(self.apkam_symmetric.as_ref().map(|key| (APKAM_SYMMETRIC, key.to_base64())));
        fields.extend(self.enrollment_id.clone().map(|id| (ENROLLMENT_ID, Zeroizing::new(id))));
        write_object(&fields)
    }
}

/// The file as it lies there. Texts are copied once, into memory that is zeroed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    aes_pkam_public_key: Option<Zeroizing<String>>,
    aes_pkam_private_key: Option<Zeroizing<String>>,
    aes_encrypt_public_key: Option<Zeroizing<String>>,
    aes_encrypt_private_key: Option<Zeroizing<String>>,
    self_encryption_key: Option<Zeroizing<String>>,
    apkam_symmetric_key: Option<Zeroizing<String>>,
    enrollment_id: Option<String>,
    iv: Option<serde::de::IgnoredAny>,
    v: Option<serde_json::Value>,
}

fn required(field: &'static str, text: Option<Zeroizing<String>>) -> Result<Zeroizing<String>, KeyFileError> {
    text.ok_or(KeyFileError::Missing { field })
}

fn symmetric(field: &'static str, text: Zeroizing<String>) -> Result<AesKey, KeyFileError> {
    AesKey::from_base64(&text).map_err(|_| KeyFileError::Unreadable { field })
}

fn key_pair(
    self_key: &AesKey,
    public: &'static str,
    public_text: Zeroizing<String>,
    private: &'static str,
    private_text: Zeroizing<String>,
) -> Result<RsaPrivateKey, KeyFileError> {
    let disclose = |text: &str| {
        let bytes = self_key.decrypt(&Iv::ZERO, text).ok()?;
        Some(Zeroizing::new(std::str::from_utf8(&bytes).ok()?.to_owned()))
    };
    let key = disclose(&private_text)
        .and_then(|text| RsaPrivateKey::from_pkcs8_base64(&text).ok())
        .ok_or(KeyFileError::Unreadable { field: private })?;
    let half = disclose(&public_text)
        .and_then(|text| RsaPublicKey::from_spki_base64(&text).ok())
        .ok_or(KeyFileError::Unreadable { field: public })?;
    if half != *key.public() {
        return Err(KeyFileError::Mismatched { field: public });
    }
    Ok(key)
}

/// One flat JSON object, in a buffer that never grows: growing would leave a copy of the secrets behind.
fn write_object(fields: &[(&str, Zeroizing<String>)]) -> Zeroizing<String> {
    let mut json = Zeroizing::new(Vec::with_capacity(largest_size(fields)));
    serde_json::Serializer::new(&mut *json)
        .collect_map(fields.iter().map(|(name, text)| (*name, text.as_str())))
        .expect("texts are written to memory");
    Zeroizing::new(String::from_utf8(std::mem::take(&mut *json)).expect("JSON is UTF-8"))
}

/// Bytes of the object if every byte in it had to be escaped.
fn largest_size(fields: &[(&str, Zeroizing<String>)]) -> usize {
    const ESCAPED: usize = r"\u0000".len();
    let of_field =
        |(name, text): &(&str, Zeroizing<String>)| ESCAPED * (name.len() + text.len()) + r#""":"","#.len();
    fields.iter().map(of_field).sum::<usize>() + "{}".len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::crypto::vectors::vector;

    const PYTHON: &str = include_str!("../fixtures/python.atKeys");
    const ENROLLED: &str = include_str!("../fixtures/enrolled.atKeys");
    const ID: &str = "6f1c7d0e-6d3f-4f0e-9a53-0e6a5a2d9c11";

    fn fields(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    fn atsign() -> AtSign {
        "@fixture".parse().unwrap()
    }

    /// What becomes of the enrolled file after `change`.
    fn changed(change: impl FnOnce(&mut Map<String, Value>)) -> Result<AtKeys, KeyFileError> {
        let mut file = fields(ENROLLED);
        change(&mut file);
        AtKeys::parse(&Value::Object(file).to_string())
    }

    #[test]
    fn reads_what_python_writes() {
        let keys = AtKeys::parse(PYTHON).unwrap();
        assert_eq!(keys.encryption.to_pkcs8_base64().as_str(), vector("private"));
        assert_eq!(keys.pkam.to_pkcs8_base64().as_str(), vector("other_private"));
        assert!(keys.apkam_symmetric.is_none());
        assert_eq!(keys.enrollment_id, None);
    }

    #[test]
    fn writes_what_it_read() {
        let keys = AtKeys::parse(ENROLLED).unwrap();
        assert_eq!(keys.apkam_symmetric.as_ref().unwrap().to_base64().as_str(), vector("aes_key"));
        assert_eq!(keys.enrollment_id.as_deref(), Some(ID));
        assert_eq!(keys.to_json(&atsign()).as_str(), ENROLLED);
    }

    #[test]
    fn writes_what_python_reads() {
        let written = fields(&AtKeys::parse(PYTHON).unwrap().to_json(&atsign()));
        let python = fields(PYTHON);
        assert_eq!(written["@fixture"], python[SELF_KEY]);
        assert_eq!(written.len(), python.len() + 1);
        for (name, text) in python {
            assert_eq!(written[&name], text, "{name}");
        }
    }

    #[test]
    fn an_enrolment_is_added_to_keys_that_were_kept_before() {
        let mut keys = changed(|file| drop(file.remove(ENROLLMENT_ID))).unwrap();
        assert!(!keys.to_json(&atsign()).contains(ENROLLMENT_ID));
        keys.enrollment_id = Some(ID.to_owned());
        assert_eq!(keys.to_json(&atsign()).as_str(), ENROLLED);
    }

    #[test]
    fn new_keys_are_written_and_read() {
        let keys = AtKeys::generate(AesKey::from_bytes([1; 32]), AesKey::from_bytes([2; 32]));
        let read = AtKeys::parse(&keys.to_json(&atsign())).unwrap();
        assert_eq!(read.pkam.public(), keys.pkam.public());
        assert_eq!(read.encryption.public(), keys.encryption.public());
        assert_ne!(keys.pkam.public(), keys.encryption.public());
        assert_eq!(read.self_key.to_base64(), keys.self_key.to_base64());
    }

    #[test]
    fn later_fields_and_nulls_are_ignored() {
        let keys = changed(|file| {
            file.insert("version".into(), json!(1));
            file.insert("atsignKeys".into(), json!([{ "keyId": 1 }]));
            file.insert(APKAM_SYMMETRIC.into(), Value::Null);
        });
        assert!(keys.unwrap().apkam_symmetric.is_none());
    }

    #[test]
    fn a_missing_field_is_named() {
        for field in [SELF_KEY, PKAM_PUBLIC, PKAM_PRIVATE, ENCRYPTION_PUBLIC, ENCRYPTION_PRIVATE] {
            assert_eq!(changed(|file| drop(file.remove(field))).err(), Some(KeyFileError::Missing { field }));
        }
    }

    #[test]
    fn a_tampered_field_is_named() {
        for field in
            [SELF_KEY, PKAM_PUBLIC, PKAM_PRIVATE, ENCRYPTION_PUBLIC, ENCRYPTION_PRIVATE, APKAM_SYMMETRIC]
        {
            let cut = changed(|file| {
                let text = file[field].as_str().unwrap()[4..].to_owned();
                file.insert(field.to_owned(), text.into());
            });
            assert_eq!(cut.err(), Some(KeyFileError::Unreadable { field }));
        }
    }

    #[test]
    fn another_self_key_reads_nothing() {
        let other = AesKey::from_bytes([9; 32]).to_base64();
        let keys = changed(|file| drop(file.insert(SELF_KEY.into(), other.as_str().into())));
        assert_eq!(keys.err(), Some(KeyFileError::Unreadable { field: PKAM_PRIVATE }));
    }

    #[test]
    fn halves_of_different_pairs_are_found_out() {
        let keys = changed(|file| drop(file.insert(PKAM_PUBLIC.into(), file[ENCRYPTION_PUBLIC].clone())));
        assert_eq!(keys.err(), Some(KeyFileError::Mismatched { field: PKAM_PUBLIC }));
    }

    #[test]
    fn envelopes_are_refused_by_name() {
        for (envelope, error) in [
            (
                json!({ "content": "AA==", "iv": "AA==", "hashingAlgoType": "argon2id" }),
                KeyFileError::PassphraseProtected,
            ),
            (
                json!({ "v": 1, "content": "AA==", "iv": "AA==", "salt": "AA==" }),
                KeyFileError::PassphraseProtected,
            ),
            (json!({ "v": 2, "content": "AA==", "iv": "AA==" }), KeyFileError::UnknownVersion),
            (json!({ "v": "x" }), KeyFileError::UnknownVersion),
        ] {
            assert_eq!(AtKeys::parse(&envelope.to_string()).err(), Some(error), "{envelope}");
        }
        let both = changed(|file| drop(file.insert("iv".into(), "AA==".into())));
        assert_eq!(both.err(), Some(KeyFileError::PassphraseProtected));
    }

    #[test]
    fn a_fault_in_the_json_is_placed_and_not_shown() {
        for (json, line, column) in [("", 1, 0), ("{\n  \"enrollmentId\": 7\n}", 2, 19), ("\"SECRET\"", 1, 8)]
        {
            let error = AtKeys::parse(json).err().unwrap();
            assert_eq!(error, KeyFileError::NotJson { line, column });
            assert!(!error.to_string().contains("SECRET"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(json: String) {
            prop_assert!(AtKeys::parse(&json).is_err());
        }

        #[test]
        fn an_object_never_outgrows_its_buffer(names: [String; 2], texts: [String; 2]) {
            let members: Vec<_> = names.iter().map(String::as_str).zip(texts.map(Zeroizing::new)).collect();
            let json = write_object(&members);
            prop_assert_eq!(json.capacity(), largest_size(&members));
            let read: Map<_, _> = members.iter().map(|(name, text)| ((*name).to_owned(), json!(**text))).collect();
            prop_assert_eq!(fields(&json), read);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_changed_byte_never_makes_another_rsa_key(at in 0..ENROLLED.len(), byte in 0x20_u8..0x7f) {
            let mut file = ENROLLED.as_bytes().to_vec();
            file[at] = byte;
            if let Ok(keys) = AtKeys::parse(std::str::from_utf8(&file).unwrap()) {
                prop_assert_eq!(keys.encryption.to_pkcs8_base64(), Zeroizing::new(vector("private")));
                prop_assert_eq!(keys.pkam.to_pkcs8_base64(), Zeroizing::new(vector("other_private")));
            }
        }
    }
}
