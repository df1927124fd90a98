//! The agent's configuration: `agent.toml` and `agent.d/*.toml`.

mod outbox;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use at_client::Transport;
use at_protocol::AtSign;
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Address, Registrar, Registrars};
use atedge_adapters::modbus::{ModbusRtuConfig, ModbusTcpConfig};
use atedge_adapters::units::{Bytes, Duration};
use atedge_adapters::{AdapterConfig, Defaults, DeviceName, SecretSource, StreamName};
use atedge_service::config::{ConfigError, Sources};
use serde::Deserialize;
use serde_json::Value;

use crate::commands::{CommandConfig, CommandName, Rule};
use crate::keys;
use crate::outbox::{BatchLimit, Keep, OutboxOptions, Priority, StreamPolicy, WhenFull};
use crate::payload::name::is_reserved;
use crate::uplink::{FlowRules, SendRules};

pub use outbox::{DrainConfig, OutboxConfig, Rate, ThinConfig};

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
    /// The devices that have an atSign of their own: `[device.NAME]`. All others are named below the gateway's.
    #[serde(default)]
    pub device: BTreeMap<DeviceName, DeviceConfig>,
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
    /// Where Prometheus can ask for metrics; nowhere when absent.
    pub metrics: Option<MetricsConfig>,
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

/// A device with an atSign of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Its atSign: its readings come from it, and commands to the device go to it.
    pub atsign: AtSign,
    /// The keys of that: `"file:PATH"`, or `"credential:NAME"` for one that systemd passes on.
    pub keys: SecretSource,
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
    /// What of it must reach them: `"log"`, every record; `"latest"`, the newest of each device, in place of all that
    /// were not sent before it; `"sample"`, what does: devices are told at once, before it is on disk.
    #[serde(default)]
    pub keep: Keep,
    /// Whether the newest values of each device are to be had at any time as well, under `latest.<device>`.
    #[serde(default)]
    pub latest: bool,
    /// What a reader must be able to do; what it does not announce is waited for. With `"receipts"` only its
    /// receipts confirm records; without, it also does that its server has them. With `"aead"` records are sent
    /// in envelopes only, which no server can alter or forge; without, also as all SDKs read them, to a reader
    /// that announces nothing else.
    #[serde(default)]
    pub require: Vec<Requirement>,
    /// How many records travel together.
    #[serde(default)]
    pub batch: BatchConfig,
    /// How long a record is kept for a reader that does not confirm it.
    #[serde(default = "default_ttl")]
    pub ttl: Duration,
    /// How long records are kept for a reader that confirms nothing at all; as long as others without.
    pub hold: Option<Duration>,
    /// What goes first, and is dropped last: from 0, the first, to 9.
    #[serde(default)]
    pub priority: Priority,
    /// What to do when the queue is full, in place of what `[outbox]` says.
    pub full: Option<Vec<WhenFull>>,
    /// How it is thinned, in place of what `[outbox]` says.
    pub thin: Option<ThinConfig>,
}

/// What a reader must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Requirement {
    /// Confirm by receipts.
    Receipts,
    /// Open envelopes.
    Aead,
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

/// Where Prometheus can ask for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// The address, `"127.0.0.1:9464"`.
    pub listen: SocketAddr,
    /// Whether it may be one that other machines can reach. Nobody is asked for a password there.
    #[serde(default)]
    pub allow_remote: bool,
}

/// A configuration that was checked.
pub struct Loaded {
    /// As it was written, for [`Difference::between`](crate::difference::Difference::between).
    pub tables: Value,
    /// Where what was written.
    pub sources: Sources,
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
    let mut errors = config.check(&sources);
    let (rules, more) = config.rules(&sources);
    errors.extend(more);
    ConfigError::all(errors)?;
    Ok(Loaded { tables: sources.parse()?, sources, config, rules })
}

/// Reads the adapters alone from `files` and the environment, and checks them: for those who look at devices
/// before there is anything else.
///
/// # Errors
/// With everything that is wrong, each with its place.
pub fn load_adapters(files: &[PathBuf]) -> Result<BTreeMap<String, AdapterConfig>, ConfigError> {
    Ok(load_offline(files)?.adapter)
}

/// Reads the configuration, and checks its adapters; keys and certificates need not be there.
///
/// # Errors
/// With everything that is wrong, each with its place.
pub fn load_offline(files: &[PathBuf]) -> Result<AgentConfig, ConfigError> {
    let sources = Sources::read(files, ENVIRONMENT)?;
    let config = AgentConfig::parse(&sources)?;
    ConfigError::all(config.check_adapters(&sources))?;
    Ok(config)
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

    /// What the form of the settings does not show.
    fn check(&self, sources: &Sources) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        if self.schema != SCHEMA {
            let title = format!("schema {} is not known", self.schema);
            errors.push(sources.complaint(&["schema"], &title, "expected 1"));
        }
        if let Some(ca) = &self.gateway.ca
            && let Err(cause) = std::fs::File::open(ca)
        {
            let title = format!("cannot read {}: {cause}", ca.display());
            errors.push(sources.complaint(&["gateway", "ca"], &title, "expected a PEM file"));
        }
        if let Err(cause) = keys::check(&self.gateway.keys) {
            let expected = "expected the file that `atedge onboard` wrote";
            errors.push(sources.complaint(&["gateway", "keys"], &cause.to_string(), expected));
        }
        if let Some(mistake) = self.outbox.mistake() {
            errors.push(sources.complaint(&["outbox", mistake.setting], mistake.what, mistake.expected));
        }
        if let Some(MetricsConfig { listen, allow_remote: false }) = self.metrics
            && !listen.ip().is_loopback()
        {
            let title = format!("others can reach {listen}, and nobody is asked for a password there");
            let expected = "expected 127.0.0.1, or `allow_remote = true` beside it";
            errors.push(sources.complaint(&["metrics", "listen"], &title, expected));
        }
        errors.extend(self.check_devices(sources));
        errors.extend(self.check_adapters(sources));
        errors.extend(self.check_streams(sources));
        errors
    }

    fn check_devices(&self, sources: &Sources) -> Vec<ConfigError> {
        let mut taken = BTreeMap::from([(&self.gateway.atsign, "the gateway")]);
        let mut errors = Vec::new();
        for (name, device) in &self.device {
            if let Some(who) = taken.insert(&device.atsign, name.as_str()) {
                let title = format!("{} is {who} already", device.atsign);
                let expected =
                    "expected an atSign for each; without a table the device is named below the gateway's";
                errors.push(sources.complaint(&["device", name.as_str(), "atsign"], &title, expected));
            }
        }
        errors
    }

    /// What is wrong with the keys of devices: each costs its own device, and the others nothing.
    pub fn check_device_keys(&self, sources: &Sources) -> Vec<ConfigError> {
        let complain = |(name, device): (&DeviceName, &DeviceConfig)| {
            let cause = keys::check(&device.keys).err()?.to_string();
            let expected = "expected the file that `atedge onboard` wrote for it";
            Some(sources.complaint(&["device", name.as_str(), "keys"], &cause, expected))
        };
        self.device.iter().filter_map(complain).collect()
    }

    fn check_adapters(&self, sources: &Sources) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        if let Err(error) = self.defaults.report.check() {
            let path: Vec<&str> = ["defaults"].into_iter().chain(error.setting.split('.')).collect();
            errors.push(sources.complaint(&path, &error.what, ""));
        }
        for (name, adapter) in &self.adapter {
            let mut complain = |path: &[&str], title: &str, expected: &str| {
                let path: Vec<&str> = ["adapter", name].iter().chain(path).copied().collect();
                errors.push(sources.complaint(&path, title, expected));
            };
            if let Err(error) = adapter.check() {
                complain(&error.setting.split('.').collect::<Vec<_>>(), &error.what, "");
            }
            for (path, stream) in streams_of(adapter) {
                if !self.stream.contains_key(stream) {
                    let path: Vec<&str> = path.iter().map(String::as_str).collect();
                    let expected = format!("expected a stream with a table [stream.{stream}]");
                    complain(&path, &format!("nobody reads the stream {stream}"), &expected);
                }
            }
        }
        errors
    }

    fn check_streams(&self, sources: &Sources) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        for (name, stream) in &self.stream {
            let mut complain = |path: &[&str], title: &str, expected: &str| {
                let path: Vec<&str> = ["stream", name.as_str()].iter().chain(path).copied().collect();
                errors.push(sources.complaint(&path, title, expected));
            };
            if is_reserved(name.as_str()) {
                complain(&[], &format!("no stream can be called {name}"), "expected another name");
            }
            if stream.to.is_empty() {
                complain(&["to"], "a stream needs a reader", "expected at least one atSign");
            }
            if stream.batch.records == 0 {
                complain(&["batch", "records"], "a batch of nothing", "expected at least 1");
            }
            if stream.batch.bytes > MOST_BATCH {
                complain(&["batch", "bytes"], "too large a batch", &format!("expected at most {MOST_BATCH}"));
            }
        }
        errors
    }

    /// The commands, checked, and what is wrong with the others.
    fn rules(&self, sources: &Sources) -> (BTreeMap<CommandName, Rule>, Vec<ConfigError>) {
        let (mut rules, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, command) in &self.command {
            match Rule::new(command, &self.adapter) {
                Ok(rule) => drop(rules.insert(name.clone(), rule)),
                Err(error) => {
                    let name = name.to_string();
                    let path: Vec<&str> =
                        ["command", &name].into_iter().chain(error.setting.split('.')).collect();
                    errors.push(sources.complaint(&path, &error.what, &error.expected));
                }
            }
        }
        (rules, errors)
    }

    /// What the outbox must know.
    pub fn outbox_options(&self, folder: PathBuf) -> OutboxOptions {
        let queue = &self.outbox;
        let policy = |stream: &StreamConfig| StreamPolicy {
            readers: stream.to.iter().cloned().collect(),
            receipts: stream.require.contains(&Requirement::Receipts),
            ttl: stream.ttl.get(),
            hold: stream.hold.unwrap_or(stream.ttl).get(),
            priority: stream.priority,
            keep: stream.keep,
            full: match (&stream.full, stream.keep) {
                (Some(full), _) => full.clone(),
                (None, Keep::Log | Keep::Latest) => queue.full.clone(),
                (None, Keep::Sample) => vec![WhenFull::DropOldest],
            },
            thin: stream.thin.as_ref().unwrap_or(&queue.thin).rules(),
        };
        let streams = self.stream.iter().map(|(name, stream)| (name.clone(), policy(stream))).collect();
        OutboxOptions {
            max_bytes: queue.max.get(),
            min_free: queue.min_free,
            reserve: queue.reserve.iter().map(|(priority, bytes)| (*priority, bytes.get())).collect(),
            linger: queue.spare_flash.get(),
            apart: self.device.keys().cloned().collect(),
            ..OutboxOptions::new(folder, streams)
        }
    }

    /// What the uplink must know.
    pub fn send_rules(&self) -> SendRules {
        let rules = |stream: &StreamConfig| FlowRules {
            limit: BatchLimit { records: stream.batch.records, bytes: stream.batch.bytes.size() },
            linger: stream.batch.linger.get(),
            receipts: stream.require.contains(&Requirement::Receipts),
            aead: stream.require.contains(&Requirement::Aead),
            ttln: stream.ttl.get().min(MOST_TTLN),
            priority: stream.priority,
        };
        let streams = self.stream.iter();
        let streams = streams
            .map(|(name, stream)| (name.clone(), (stream.to.clone(), Arc::new(rules(stream)))))
            .collect();
        // Each atSign drains by itself; together they keep to the rate.
        let mut drain = self.outbox.drain.rules();
        drain.rate = drain.rate.map(|rate| (rate / (1 + self.device.len() as u64)).max(1));
        let named = self.stream.iter();
        let latest = named.clone().filter(|(_, stream)| stream.latest);
        let samples = named.filter(|(_, stream)| stream.keep == Keep::Sample);
        SendRules {
            streams,
            drain,
            latest: latest.map(|(name, stream)| (name.clone(), stream.ttl.get())).collect(),
            samples: samples.map(|(name, _)| name.clone()).collect(),
        }
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
