//! The directory's two messages of old: an atSign, and where it is served (wire reference §1.1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::AtSign;

/// What a client asks: the atSign without its `@`, on one line.
#[must_use]
pub fn question(atsign: &AtSign) -> String {
    format!("{}\n", atsign.as_str())
}

/// Where an atSign's atServer listens: a DNS name or an IP address, and a port. `Display` is `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    host: Box<str>,
    port: u16,
}

/// The text is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address like host.example:6464")]
pub struct InvalidAddress(String);

impl Address {
    /// The host, as it must stand in the server's certificate.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port, and the UDP port beside it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host, at another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let invalid = || InvalidAddress(text.to_owned());
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(invalid)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.len() > 253 || host.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            return Err(invalid());
        }
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?;
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// Reads a directory's answer to one question: `None` where it knows no such atSign. Prompts before the
/// answer and the line end are taken off.
///
/// # Errors
/// The line is neither `null` nor an address.
pub fn answer(line: &str) -> Result<Option<Address>, InvalidAddress> {
    let text = line.trim().trim_start_matches('@');
    if text.eq_ignore_ascii_case("null") { Ok(None) } else { text.parse().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_an_address_or_null() {
        assert_eq!(answer("@host.example:6464\r\n").unwrap().unwrap().to_string(), "host.example:6464");
        assert_eq!(answer("null\r\n"), Ok(None));
        assert_eq!(answer("[::1]:6464").unwrap().unwrap().host(), "::1");
        for bad in ["", "host", ":6464", "host:0", "host:65536", "a b:1"] {
            assert!(answer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_question_is_the_bare_atsign() {
        assert_eq!(question(&"@alice".parse().unwrap()), "alice\n");
    }
}
