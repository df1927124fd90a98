//! The settings of `server.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use at_protocol::AtKey;
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Address, Pattern, Registrar, Registrars};
use atedge_service::tls::TlsSettings;
use serde::Deserialize;

use crate::store::Quota;

/// All of `server.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Version of this format; 1.
    pub schema: Schema,
    /// Where the server listens.
    pub listen: ListenConfig,
    /// Who the server is among the nodes of its fleet.
    pub server: NodeConfig,
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
    /// How applications come by keys of their own.
    pub enrollment: EnrollmentConfig,
    /// What applies to all records.
    pub records: RecordsConfig,
    /// When copies of others' records are fetched again.
    pub refresh: RefreshConfig,
    /// What is kept about who called.
    pub access_log: AccessLogConfig,
    /// How bytes are sent through the server.
    pub streams: StreamsConfig,
    /// What test programs may do.
    pub testing: TestingConfig,
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
    /// Whether QUIC is spoken on the UDP port of the same number: many sessions on one connection, which
    /// outlives a change of address.
    pub quic: bool,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self { address: SocketAddr::from(([0, 0, 0, 0], 6464)), domain: None, quic: true }
    }
}

/// `[server]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// The host name or address under which others reach this node, as it stands in its certificate. The
    /// records of its atSigns name it, unless `[listen] domain` gives each a name of its own.
    pub host: Option<String>,
    /// The registrars whose signed records are believed: `"ed25519:…"`, or `{ key = "ed25519:…", atsigns =
    /// ["@plant7*"] }` for one whose atSigns are found by its records and in no other way. Without any, the
    /// directory is believed, and other servers are spoken to as atServers of old.
    pub registrars: Vec<RegistrarSetting>,
    /// File with what the registrar granted this node: `atedge registrar grant` writes it. Without one, the
    /// node signs no records.
    pub node_grant: Option<PathBuf>,
}

/// A registrar, as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum RegistrarSetting {
    /// Its key alone.
    Key(Ed25519Public),
    /// Its key, and the atSigns that are its own.
    #[serde(rename_all = "lowercase")]
    Owner {
        /// Its key.
        key: Ed25519Public,
        /// Its atSigns.
        atsigns: Vec<Pattern>,
    },
}

impl NodeConfig {
    /// Whom the node believes.
    #[must_use]
    pub fn trusted(&self) -> Registrars {
        let registrar = |setting: &RegistrarSetting| match setting.clone() {
            RegistrarSetting::Key(key) => Registrar { key, atsigns: Vec::new() },
            RegistrarSetting::Owner { key, atsigns } => Registrar { key, atsigns },
        };
        Registrars::new(self.registrars.iter().map(registrar).collect())
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
    /// Whether all of the files are looked at after each start, while the server serves already: damage is
    /// found before somebody needs what was there. `true`; a store of many gigabytes on a slow disk may have
    /// `atedge-server check --store` do it at night instead.
    pub check: bool,
    /// Most bytes of records that stay in memory because they were read lately, all shards together. 32 MiB
    /// hold forty thousand small records, so that what is asked for again and again, keys of logins
    /// above all, is answered without the database; it is a third of what ten thousand hosted atSigns may
    /// take.
    pub hot_bytes: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            kind: StoreKind::Sqlite,
            path: PathBuf::from("server.db"),
            shards: None,
            check: true,
            hot_bytes: 32 * 1024 * 1024,
        }
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
    /// What each tenant may have.
    pub tenant: TenantLimits,
    /// How failed logins are slowed down.
    pub logins: LoginLimits,
}

/// `[limits.node]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeLimits {
    /// Most connections at a time, or fewer if the system allows too few open files; 12,000, which is a
    /// fleet's 10,000 and room for those who come back before they were missed.
    pub connections: usize,
    /// Most connections from one source, an IPv4 address or an IPv6 /64; 4,096, a large site behind one
    /// address, and no more than a third of all places.
    pub connections_per_source: usize,
    /// Most TLS handshakes at a time, a quarter of them for one source; 256: each costs a millisecond or two
    /// of a core and then a round trip.
    pub handshakes: usize,
    /// How long a TLS handshake may take, from the first byte to the last; 10 s, several retransmissions
    /// on a bad mobile link.
    #[serde(with = "humantime_serde")]
    pub handshake: Duration,
    /// How long a new connection may go without one whole line; 30 s, as clients that wait for a person do
    /// not connect before they have an answer.
    #[serde(with = "humantime_serde")]
    pub login: Duration,
    /// How long a line may take from its first byte to its end, and a second more for each 16 KiB of it;
    /// 30 s.
    #[serde(with = "humantime_serde")]
    pub line: Duration,
    /// How long a client may take to accept what it is sent; 30 s.
    #[serde(with = "humantime_serde")]
    pub write: Duration,
    /// Most bytes for lines and answers beyond 8 KiB, of all connections together; 256 MiB, twenty-five of
    /// the longest lines. Who finds no room is not read until there is some.
    pub buffers: usize,
    /// How long an HTTP connection may be idle between requests; 15 s, as a page's resources follow each
    /// other at once.
    #[serde(with = "humantime_serde")]
    pub http_idle: Duration,
    /// Most commands in one `batch`: clients send a few dozen, and what is behind a batch waits for it.
    pub batch: usize,
    /// Most atSigns that one tenant may turn away: they stay in memory.
    pub blocked: usize,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            connections: 12_000,
            connections_per_source: 4_096,
            handshakes: 256,
            handshake: Duration::from_secs(10),
            login: Duration::from_secs(30),
            line: Duration::from_secs(30),
            write: Duration::from_secs(30),
            buffers: 256 * 1024 * 1024,
            http_idle: Duration::from_secs(15),
            batch: 1000,
            blocked: 1000,
        }
    }
}

/// `[limits.tenant]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantLimits {
    /// Most connections at a time of one tenant; 4,000: the reference allows 200, and a fleet whose
    /// devices share one atSign has a few for each.
    pub connections: usize,
    /// How many of them are kept for its owner, whatever strangers and other servers do; 1,000.
    pub reserved: usize,
    /// Most records, those of others that are cached included. 0 (the default): as many as the disk holds,
    /// because an operator knows best what a device of the fleet needs.
    pub keys: u64,
    /// Most bytes of keys and values of its records. 0 (the default): as the disk holds. Notifications do not
    /// count: they end by themselves.
    pub bytes: u64,
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self { connections: 4_000, reserved: 1_000, keys: 0, bytes: 0 }
    }
}

impl TenantLimits {
    /// The part that the store keeps.
    #[must_use]
    pub fn quota(&self) -> Quota {
        Quota { keys: self.keys, bytes: self.bytes }
    }
}

/// `[limits.logins]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoginLimits {
    /// Failures from one source, or in the name of one tenant, that cost nothing; 20, a site where
    /// somebody tries out keys.
    pub free: u32,
    /// Failures after which a source is refused unheard; 100.
    pub refused: u32,
    /// After how long one failure is forgotten; 6 s, which leaves a guesser ten a minute.
    #[serde(with = "humantime_serde")]
    pub forget: Duration,
    /// The longest an attempt has to wait; 4 s, below the patience of clients.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// Sources and tenants whose failures are remembered; 16,384, about 2 MB.
    pub remembered: usize,
}

impl Default for LoginLimits {
    fn default() -> Self {
        Self {
            free: 20,
            refused: 100,
            forget: Duration::from_secs(6),
            wait: Duration::from_secs(4),
            remembered: 16_384,
        }
    }
}

/// `[access_log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLogConfig {
    /// Most entries of one tenant; the oldest go first. Enough to tell who comes most often.
    pub entries: usize,
    /// How long an entry is kept: as long as the reference server does.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    /// Most entries that wait in memory to be written together; what comes while it is full is not noted.
    pub waiting: usize,
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Self { entries: 1000, keep: Duration::from_hours(15 * 24), waiting: 10_000 }
    }
}

/// `[streams]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamsConfig {
    /// Most streams of one tenant at a time: each holds two connections.
    pub per_tenant: usize,
    /// How long an announced stream waits for its receiver.
    #[serde(with = "humantime_serde")]
    pub pending: Duration,
    /// How long either end may stand still before both are cut.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
}

impl Default for StreamsConfig {
    fn default() -> Self {
        Self { per_tenant: 16, pending: Duration::from_mins(10), idle: Duration::from_mins(1) }
    }
}

/// `[testing]`. Not for servers that somebody relies on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TestingConfig {
    /// Whether the owner of a tenant may change settings of the whole node by `config:set`.
    pub enabled: bool,
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
    /// Most recipients of one `notify:all`, which is one transaction.
    pub recipients: usize,
}

impl Default for NotificationsConfig {
    fn default() -> Self {
        Self { ttln: Duration::from_mins(15), ticker: Duration::from_secs(15), recipients: 1000 }
    }
}

impl NotificationsConfig {
    /// `ttln` in milliseconds, as notifications have it.
    #[must_use]
    pub fn ttln_ms(&self) -> u64 {
        u64::try_from(self.ttln.as_millis()).unwrap_or(u64::MAX)
    }
}

/// `[enrollment]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnrollmentConfig {
    /// Most enrollments of an atSign, whatever became of them: all are read when one is asked for.
    pub most: usize,
    /// How long a request waits for its decision: a weekend.
    #[serde(with = "humantime_serde")]
    pub pending: Duration,
    /// How many requests one connection may make in `per`: a person who mistypes needs few, a program that
    /// guesses passcodes many.
    pub requests: usize,
    /// The time in which they are counted.
    #[serde(with = "humantime_serde")]
    pub per: Duration,
    /// The longest time for which the refusal of a wrong passcode is held back; the first ones take 1, 2, 3,
    /// 5, 8 … seconds. Less than the minute after which clients give up.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// How long a one-time passcode is good for that does not say so itself: long enough to be read out.
    #[serde(with = "humantime_serde")]
    pub otp: Duration,
}

impl Default for EnrollmentConfig {
    fn default() -> Self {
        Self {
            most: 5_000,
            pending: Duration::from_hours(48),
            requests: 5,
            per: Duration::from_hours(1),
            delay: Duration::from_secs(55),
            otp: Duration::from_mins(5),
        }
    }
}

/// `[records]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordsConfig {
    /// Whether those with whom a record is shared are told when it changes. They are unless this says no:
    /// applications rely on it.
    pub auto_notify: bool,
    /// Keys that nobody deletes besides the three without which an atSign is lost: as they are stored, but
    /// without the owner, such as `"public:location.wavi"`. None unless listed.
    pub protected: Vec<String>,
}

impl Default for RecordsConfig {
    fn default() -> Self {
        Self { auto_notify: true, protected: Vec::new() }
    }
}

impl RecordsConfig {
    /// What the key is called in this list, if it is there.
    pub(crate) fn protects(&self, key: &AtKey) -> Option<String> {
        let (text, owner) = (key.to_string(), key.owner()?.to_string());
        let bare = text.strip_suffix(&owner)?;
        self.protected.iter().find(|listed| listed.eq_ignore_ascii_case(bare)).cloned()
    }
}

/// `[refresh]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RefreshConfig {
    /// The hour of the day, UTC, at a random minute of which copies of others' records are fetched again
    /// whose time has come: 0 to 23, or `"off"`. 3 as in the reference, when few look.
    #[serde(deserialize_with = "hour")]
    pub hour: Option<u8>,
    /// Most fetches at a time. Few: nobody waits for them, and the other servers have their own work.
    pub parallel: usize,
    /// How long each of these pauses after a fetch, so that a large cache is spread over the hour.
    #[serde(with = "humantime_serde")]
    pub pause: Duration,
}

impl Default for RefreshConfig {
    fn default() -> Self {
        Self { hour: Some(3), parallel: 4, pause: Duration::from_millis(100) }
    }
}

/// An hour of the day, or `"off"`.
fn hour<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Hour(u8),
        Word(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Hour(hour) if hour < 24 => Ok(Some(hour)),
        Written::Word(word) if word == "off" => Ok(None),
        Written::Hour(_) | Written::Word(_) => {
            Err(serde::de::Error::custom("expected an hour from 0 to 23, or \"off\""))
        }
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

    #[test]
    fn an_hour_is_one_of_the_day() {
        let read = |text: &str| toml::from_str::<RefreshConfig>(text).map(|config| config.hour);
        assert_eq!(read("hour = 0"), Ok(Some(0)));
        assert_eq!(read("hour = \"off\""), Ok(None));
        for bad in ["hour = 24", "hour = -1", "hour = \"3\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_sample_says_what_the_defaults_are() {
        let sample = include_str!("../../packaging/server.toml");
        let told: ServerConfig = toml::from_str(&sample.replace("#: ", "")).unwrap();
        assert_eq!(format!("{told:#?}"), format!("{:#?}", ServerConfig::default()));
        assert!(toml::from_str::<ServerConfig>(sample).is_ok());
        let table = |line: &&str| line.starts_with('[') || line.starts_with("# [");
        assert_eq!(sample.lines().filter(table).count(), 15, "[testing] is in no sample");
    }
}
