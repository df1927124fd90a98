//! Where a secret is kept. The configuration never holds the secret itself.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// A reference to a secret: `file:PATH`, or `credential:NAME` for one that systemd passes on
/// (`LoadCredential=` and its kin).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file; a line ending at its end is not part of the secret.
    File(PathBuf),
    /// A file of this name in the folder that `CREDENTIALS_DIRECTORY` names.
    Credential(String),
}

/// Why a secret is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The text is neither kind of reference.
    #[error("expected `file:PATH` or `credential:NAME`")]
    Reference,
    /// Nobody passed credentials to this process.
    #[error("credential {name} was not passed to this process: CREDENTIALS_DIRECTORY is not set")]
    NoCredentials {
        /// The credential asked for.
        name: String,
    },
    /// The file cannot be read as text.
    #[error("cannot read the secret in {}: {cause}", path.display())]
    Unreadable {
        /// Where it was looked for.
        path: PathBuf,
        /// The operating system's words.
        cause: io::Error,
    },
}

impl SecretSource {
    /// Reads the secret.
    ///
    /// # Errors
    /// When no credentials were passed, or the file cannot be read as UTF-8.
    pub fn read(&self) -> Result<String, SecretError> {
        let path = match self {
            Self::File(path) => path.clone(),
            Self::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => PathBuf::from(folder).join(name),
                None => return Err(SecretError::NoCredentials { name: name.clone() }),
            },
        };
        let mut text =
            std::fs::read_to_string(&path).map_err(|cause| SecretError::Unreadable { path, cause })?;
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        Ok(text)
    }
}

impl FromStr for SecretSource {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some(("credential", name)) if !name.is_empty() && !name.contains('/') => {
                Ok(Self::Credential(name.to_owned()))
            }
            _ => Err(SecretError::Reference),
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_without_its_line_ending() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "open sesame\n").unwrap();
        let source: SecretSource = format!("file:{}", path.display()).parse().unwrap();
        assert_eq!(source.read().unwrap(), "open sesame");
    }

    #[test]
    fn a_secret_itself_is_no_reference() {
        for text in ["hunter2", "file:", "credential:", "credential:../x", "env:PASSWORD"] {
            assert!(text.parse::<SecretSource>().is_err(), "{text} was taken");
        }
    }
}
