//! The agent's configuration: `agent.toml` and `agent.d/*.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use at_client::Transport;
use at_protocol::AtSign;
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Address, Registrar, Registrars};
use atedge_adapters::modbus::{ModbusRtuConfig, ModbusTcpConfig};
use atedge_adapters::units::{Bytes, Duration};
use atedge_adapters::{AdapterConfig, Defaults, SecretSource, StreamName};
use atedge_service::config::{ConfigError, Sources};
use serde::Deserialize;

use crate::commands::{CommandConfig, CommandName, Rule};
use crate::keys;
use crate::outbox::{BatchLimit, OutboxOptions, StreamPolicy};
use crate::payload::name::is_reserved;
use crate::uplink::{FlowRules, StreamRules};

/// The only version of the configuration that there is.
const SCHEMA: u32 = 1;
/// What environment variables begin with that set something: `ATEDGE__OUTBOX__MAX=1MiB`.
pub const ENVIRONMENT: &str = "ATEDGE";
/// Servers keep a notification for a reader that is away at most this long; the outbox keeps it longer.
const MOST_TTLN: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
/// Most bytes of a batch: sealed and in base64 it must fit a server's line.
const MOST_BATCH: Bytes = Bytes::mib(4);

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The version of this format: 1.
    pub schema: u32,
    /// Who this gateway is, and where its servers are.
    pub gateway: GatewayConfig,
    /// What adapters leave out.
    #[serde(default)]
    pub defaults: Defaults,
    /// What reads devices: `[adapter.NAME]`.
    #[serde(default)]
    pub adapter: BTreeMap<String, AdapterConfig>,
    /// Who gets what: `[stream.NAME]`.
    #[serde(default)]
    pub stream: BTreeMap<StreamName, StreamConfig>,
    /// The queue on disk.
    #[serde(default)]
    pub outbox: OutboxConfig,
    /// What others may have done: `[command."DEVICE.NAME"]`.
    #[serde(default)]
    pub command: BTreeMap<CommandName, CommandConfig>,
}

/// Who this gateway is, and where its servers are.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// The gateway's atSign.
    pub atsign: AtSign,
    /// Its keys: `"file:PATH"`, or `"credential:NAME"` for one that systemd passes on.
    pub keys: SecretSource,
    /// The directory, `"host:port"`.
    pub directory: Address,
    /// Trust the authorities in this PEM file too.
    pub ca: Option<PathBuf>,
    /// Which way to the atServer: `"auto"`, `"quic"` or `"tls"`. By itself it takes QUIC, on which all is one
    /// connection that a change of address does not break, and TLS where UDP does not pass.
    #[serde(default)]
    pub transport: Transport,
    /// The key of the fleet's registrar, `"ed25519:…"`: where it has granted a node, only that node is spoken
    /// to, whatever the directory says.
    pub registrar: Option<Ed25519Public>,
    /// The last part of all key names: up to 32 of `a-z`, `0-9` and `_`.
    pub namespace: Namespace,
}

impl GatewayConfig {
    /// Whom to believe about where atServers are; nobody in particular without a registrar.
    #[must_use]
    pub fn registrars(&self) -> Registrars {
        let registrar = |key: &Ed25519Public| Registrar { key: key.clone(), atsigns: Vec::new() };
        Registrars::new(self.registrar.iter().map(registrar).collect())
    }
}

/// A namespace of the fleet: 1 to 32 of `a-z`, `0-9` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Namespace(String);

/// A text that is no [`Namespace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a namespace has 1 to 32 characters of a-z, 0-9 and `_`")]
pub struct InvalidNamespace;

impl Namespace {
    /// The namespace as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Namespace {
    type Error = InvalidNamespace;

    fn try_from(text: String) -> Result<Self, InvalidNamespace> {
        let fits = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if fits && (1..=32).contains(&text.len()) { Ok(Self(text)) } else { Err(InvalidNamespace) }
    }
}

/// Who gets a stream, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The readers; each gets its own ciphertext.
    pub to: Vec<AtSign>,
    /// What a reader must be able to do. With `["receipts"]` only its receipts confirm records; without,
    /// it also does that its server has them.
    #[serde(default)]
    pub require: Vec<Requirement>,
    /// How many records travel together.
    #[serde(default)]
    pub batch: BatchConfig,
    /// How long a record is kept for a reader that does not confirm it.
    #[serde(default = "default_ttl")]
    pub ttl: Duration,
}

/// What a reader must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Requirement {
    /// Confirm by receipts.
    Receipts,
}

/// How many records travel together: as many as there are, up to these limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Most records.
    pub records: usize,
    /// Most bytes before sealing; at most 4 MiB. A larger record travels alone.
    pub bytes: Bytes,
    /// How long a batch waits for more before it goes.
    pub linger: Duration,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { records: 500, bytes: Bytes::kib(64), linger: Duration::from_secs(1) }
    }
}

fn default_ttl() -> Duration {
    Duration::from_secs(crate::outbox::DEFAULT_TTL.as_secs())
}

/// The queue on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxConfig {
    /// Size of its database. When it is reached, nothing more is acknowledged until there is room.
    pub max: Bytes,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self { max: Bytes::mib(512) }
    }
}

/// A configuration that was checked.
pub struct Loaded {
    /// The settings.
    pub config: AgentConfig,
    /// The declared commands.
    pub rules: BTreeMap<CommandName, Rule>,
}

/// Reads the configuration from `files` and the environment, and checks it. Touches no network.
///
/// # Errors
/// With everything that is wrong, each with its place.
pub fn load(files: &[PathBuf]) -> Result<Loaded, ConfigError> {
    let sources = Sources::read(files, ENVIRONMENT)?;
    let config = AgentConfig::parse(&sources)?;
    config.check(&sources)?;
    let rules = config.rules(&sources)?;
    Ok(Loaded { config, rules })
}

/// Reads the adapters alone from `files` and the environment, and checks them: for those who look at devices
/// before there is anything else.
///
/// # Errors
/// With everything that is wrong, each with its place.
pub fn load_adapters(files: &[PathBuf]) -> Result<BTreeMap<String, AdapterConfig>, ConfigError> {
    let sources = Sources::read(files, ENVIRONMENT)?;
    let config = AgentConfig::parse(&sources)?;
    config.check_adapters(&sources)?;
    Ok(config.adapter)
}

impl AgentConfig {
    /// The settings, with the adapters' defaults filled in.
    fn parse(sources: &Sources) -> Result<Self, ConfigError> {
        let mut config: Self = sources.parse()?;
        for adapter in config.adapter.values_mut() {
            adapter.fill(&config.defaults);
        }
        Ok(config)
    }

    /// What the form of the settings does not show; the first problem found.
    fn check(&self, sources: &Sources) -> Result<(), ConfigError> {
        if self.schema != SCHEMA {
            let title = format!("schema {} is not known", self.schema);
            return Err(sources.complaint(&["schema"], &title, "expected 1"));
        }
        if let Some(ca) = &self.gateway.ca
            && let Err(cause) = std::fs::File::open(ca)
        {
            let title = format!("cannot read {}: {cause}", ca.display());
            return Err(sources.complaint(&["gateway", "ca"], &title, "expected a PEM file"));
        }
        if let Err(cause) = keys::load(&self.gateway.keys) {
            let expected = "expected the file that `atedge onboard` wrote";
            return Err(sources.complaint(&["gateway", "keys"], &cause.to_string(), expected));
        }
        self.check_adapters(sources)?;
        self.check_streams(sources)
    }

    fn check_adapters(&self, sources: &Sources) -> Result<(), ConfigError> {
        if let Err(error) = self.defaults.report.check() {
            let path: Vec<&str> = ["defaults"].into_iter().chain(error.setting.split('.')).collect();
            return Err(sources.complaint(&path, &error.what, ""));
        }
        for (name, adapter) in &self.adapter {
            if let Err(error) = adapter.check() {
                let path: Vec<&str> = ["adapter", name].into_iter().chain(error.setting.split('.')).collect();
                return Err(sources.complaint(&path, &error.what, ""));
            }
            for (path, stream) in streams_of(adapter) {
                if !self.stream.contains_key(stream) {
                    let path: Vec<&str> =
                        ["adapter", name].into_iter().chain(path.iter().map(String::as_str)).collect();
                    let expected = format!("expected a stream with a table [stream.{stream}]");
                    return Err(sources.complaint(
                        &path,
                        &format!("nobody reads the stream {stream}"),
                        &expected,
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_streams(&self, sources: &Sources) -> Result<(), ConfigError> {
        for (name, stream) in &self.stream {
            let complain = |path: &[&str], title: &str, expected: &str| {
                let path: Vec<&str> = ["stream", name.as_str()].iter().chain(path).copied().collect();
                Err(sources.complaint(&path, title, expected))
            };
            if is_reserved(name.as_str()) {
                return complain(&[], &format!("no stream can be called {name}"), "expected another name");
            }
            if stream.to.is_empty() {
                return complain(&["to"], "a stream needs a reader", "expected at least one atSign");
            }
            if stream.batch.records == 0 {
                return complain(&["batch", "records"], "a batch of nothing", "expected at least 1");
            }
            if stream.batch.bytes > MOST_BATCH {
                return complain(
                    &["batch", "bytes"],
                    "too large a batch",
                    &format!("expected at most {MOST_BATCH}"),
                );
            }
        }
        Ok(())
    }

    /// The commands, checked.
    fn rules(&self, sources: &Sources) -> Result<BTreeMap<CommandName, Rule>, ConfigError> {
        let compile = |(name, command): (&CommandName, &CommandConfig)| {
            let rule = Rule::new(command, &self.adapter).map_err(|error| {
                let name = name.to_string();
                let path: Vec<&str> =
                    ["command", &name].into_iter().chain(error.setting.split('.')).collect();
                sources.complaint(&path, &error.what, &error.expected)
            })?;
            Ok((name.clone(), rule))
        };
        self.command.iter().map(compile).collect()
    }

    /// What the outbox must know.
    pub fn outbox_options(&self, folder: PathBuf) -> OutboxOptions {
        let policy = |stream: &StreamConfig| StreamPolicy {
            readers: stream.to.iter().cloned().collect(),
            receipts: stream.require.contains(&Requirement::Receipts),
            ttl: stream.ttl.get(),
        };
        let streams = self.stream.iter().map(|(name, stream)| (name.clone(), policy(stream))).collect();
        OutboxOptions { max_bytes: self.outbox.max.get(), ..OutboxOptions::new(folder, streams) }
    }

    /// What the uplink must know.
    pub fn stream_rules(&self) -> StreamRules {
        let rules = |stream: &StreamConfig| FlowRules {
            limit: BatchLimit { records: stream.batch.records, bytes: stream.batch.bytes.size() },
            linger: stream.batch.linger.get(),
            receipts: stream.require.contains(&Requirement::Receipts),
            ttln: stream.ttl.get().min(MOST_TTLN),
        };
        let streams = self.stream.iter();
        streams.map(|(name, stream)| (name.clone(), (stream.to.clone(), rules(stream)))).collect()
    }
}

/// The streams that an adapter's readings go to, each with the path of the setting that says so.
fn streams_of(adapter: &AdapterConfig) -> Vec<(Vec<String>, &StreamName)> {
    let path = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
    match adapter {
        AdapterConfig::Mqtt(mqtt) => {
            mqtt.route.iter().map(|(name, route)| (path(&["route", name, "stream"]), &route.stream)).collect()
        }
        AdapterConfig::Serial(serial) => vec![(path(&["stream"]), &serial.stream)],
        AdapterConfig::ModbusRtu(ModbusRtuConfig { unit, .. })
        | AdapterConfig::ModbusTcp(ModbusTcpConfig { unit, .. }) => {
            unit.iter().map(|(id, unit)| (path(&["unit", &id.to_string(), "stream"]), &unit.stream)).collect()
        }
        AdapterConfig::Process(process) => vec![(path(&["stream"]), &process.stream)],
    }
}

#[cfg(test)]
mod tests;
