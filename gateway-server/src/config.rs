//! The settings of `server.toml`.

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
    /// The database file, in the state folder unless it is an absolute path. With several shards it is the
    /// pattern of their names: `server-0.db`, `server-1.db` …
    pub path: PathBuf,
    /// Over how many files the atSigns are spread, 1 to 64, each with a writer of its own; it is decided when
    /// the store is made. Left out: as the store has it, 4 for a new one, so that one file's commits do not
    /// keep everybody waiting and one damaged file takes a quarter of the atSigns down.
    pub shards: Option<usize>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { kind: StoreKind::Sqlite, path: PathBuf::from("server.db"), shards: None }
    }
}

/// Kinds of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// SQLite databases.
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
    #[serde(with = "humantime_serde")]
    pub handshake: Duration,
    /// How long a new connection may go without one whole line.
    #[serde(with = "humantime_serde")]
    pub login: Duration,
    /// How long a client may take to accept what it is sent.
    #[serde(with = "humantime_serde")]
    pub write: Duration,
    /// Most bytes of unfinished lines that all connections may hold together.
    pub buffers: usize,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            connections: 12_000,
            handshake: Duration::from_secs(10),
            login: Duration::from_secs(30),
            write: Duration::from_secs(30),
            buffers: 256 * 1024 * 1024,
        }
    }
}

/// `[notifications]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotificationsConfig {
    /// How long one waits for its recipient that does not say so itself.
    #[serde(with = "humantime_serde")]
    pub ttln: Duration,
    /// How often monitors are told the newest commit id; `"0s"` never.
    #[serde(with = "humantime_serde")]
    pub ticker: Duration,
}

impl Default for NotificationsConfig {
    fn default() -> Self {
        Self { ttln: Duration::from_mins(15), ticker: Duration::from_secs(15) }
    }
}

impl NotificationsConfig {
    /// `ttln` in milliseconds, as notifications have it.
    #[must_use]
    pub fn ttln_ms(&self) -> u64 {
        u64::try_from(self.ttln.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let read = |text: &str| toml::from_str::<NotificationsConfig>(text).map(|config| config.ttln_ms());
        assert_eq!(read("ttln = \"200ms\"").unwrap(), 200);
        assert_eq!(read("ttln = \"15m\"").unwrap(), 900_000);
        for bad in
            ["ttln = 5", "ttln = \"5\"", "ttln = \"-1s\"", "ttln = \"99999999999999999999s\"", "ttl = \"5s\""]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
