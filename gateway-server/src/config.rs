//! The settings of `server.toml`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use at_protocol::directory::Address;
use atedge_service::tls::TlsSettings;
use serde::Deserialize;

/// All of `server.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Version of this format; 1.
    pub schema: Schema,
    /// Where the server listens.
    pub listen: ListenConfig,
    /// Its certificate.
    pub tls: TlsSettings,
    /// Where it keeps what it hosts.
    pub store: StoreConfig,
    /// Where it finds other atSigns' servers. Without a directory only atSigns of this node are reached.
    pub directory: Option<DirectoryConfig>,
    /// How other atServers prove themselves.
    pub peers: PeersConfig,
    /// What may be used up.
    pub limits: LimitsConfig,
    /// How notifications live.
    pub notifications: NotificationsConfig,
}

/// The version of a configuration file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct Schema(u32);

impl Default for Schema {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<u32> for Schema {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, String> {
        if version == 1 { Ok(Self(1)) } else { Err(format!("schema {version} is not known, expected 1")) }
    }
}

/// `[listen]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenConfig {
    /// Address and port that all tenants share.
    pub address: SocketAddr,
    /// The domain below which each tenant has a host name of its own, `<label>.<domain>`: clients that
    /// send it in the TLS handshake need not say `from:` first.
    pub domain: Option<String>,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self { address: SocketAddr::from(([0, 0, 0, 0], 6464)), domain: None }
    }
}

/// `[store]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// What kind of store; `"sqlite"`.
    pub kind: StoreKind,
    /// The database file, in the state folder unless it is an absolute path.
    pub path: PathBuf,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { kind: StoreKind::Sqlite, path: PathBuf::from("server.db") }
    }
}

/// Kinds of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// One SQLite database.
    Sqlite,
}

/// `[directory]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryConfig {
    /// Host and port of the atDirectory.
    pub address: Address,
    /// PEM file with authorities that are trusted besides the system's, for the directory and for other
    /// atServers.
    pub ca: Option<PathBuf>,
}

/// `[peers]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeersConfig {
    /// Whether another atServer must show a certificate for the host that the directory names.
    pub certificates: Certificates,
}

/// Whether peers need certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certificates {
    /// They do.
    #[default]
    Required,
    /// The signature alone will do.
    Optional,
}

/// `[limits]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// What all tenants share.
    pub node: NodeLimits,
}

/// `[limits.node]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeLimits {
    /// Most connections at a time.
    pub connections: usize,
    /// How long a TLS handshake may take.
    pub handshake: Span,
    /// How long a new connection may go without one whole line.
    pub login: Span,
    /// How long a client may take to accept what it is sent.
    pub write: Span,
    /// Most bytes of unfinished lines that all connections may hold together.
    pub buffers: usize,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            connections: 12_000,
            handshake: Span::seconds(10),
            login: Span::seconds(30),
            write: Span::seconds(30),
            buffers: 256 * 1024 * 1024,
        }
    }
}

/// `[notifications]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotificationsConfig {
    /// How long one waits for its recipient that does not say so itself.
    pub ttln: Span,
    /// How often monitors are told the newest commit id; `"0s"` never.
    pub ticker: Span,
}

impl Default for NotificationsConfig {
    fn default() -> Self {
        Self { ttln: Span::seconds(15 * 60), ticker: Span::seconds(15) }
    }
}

/// A length of time with its unit: `"200ms"`, `"30s"`, `"15m"`, `"2h"`, `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(Duration);

impl Span {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The length.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// The length in milliseconds.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;

    fn try_from(text: String) -> Result<Self, InvalidSpan> {
        let invalid = || InvalidSpan(text.clone());
        let digits = text.chars().take_while(char::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            "d" => 24 * 60 * 60 * 1000,
            _ => return Err(invalid()),
        };
        number.checked_mul(unit_ms).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(invalid)
    }
}

/// The text is no length of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSpan(String);

impl fmt::Display for InvalidSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a length of time, expected one like \"30s\", \"15m\" or \"200ms\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        let span = |text: &str| Span::try_from(text.to_owned()).map(Span::as_millis);
        assert_eq!(span("200ms"), Ok(200));
        assert_eq!(span("15m"), Ok(900_000));
        for text in ["", "5", "s", "-1s", "1 s", "99999999999999999999s", "1w"] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
