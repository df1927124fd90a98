//! MQTT, versions 3.1.1 and 5: as the client of a broker, or listening for devices with no broker
//! between.
//!
//! In both roles a QoS 1 publication is acknowledged only once the reading is on disk, and what is
//! repeated carries a [`Delivery`](crate::Delivery) by which the gateway knows it again.

mod capture;
mod client;
mod in_order;
mod link;
mod listen;
mod route;
mod settling;
mod tls;
mod topic;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::client::Client;
use self::link::LinkOptions;
use self::listen::Rates;
use self::listen::{Limits, Listener};
use self::route::Routes;
pub use self::route::{DeviceTemplate, InvalidRoute, Route};
pub use self::tls::{TlsConfig, TlsError};
pub use self::topic::{InvalidTopic, TopicFilter, TopicPattern};
use crate::report::ReportConfig;
use crate::units::{Bytes, Duration};
use crate::{Adapter, AdapterError, Command, ConfigError, Intake, Running, SecretSource};

/// An adapter for MQTT: a table `[adapter.NAME]` with `type = "mqtt"`.
///
/// Exactly one of `url` and `listen` is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// Be the client of this broker: `"mqtt://127.0.0.1:1883"`, or `"mqtts://…"` over TLS. The port is 1883,
    /// with TLS 8883, where it is left out.
    pub url: Option<BrokerUrl>,
    /// Listen on this address: devices publish straight to the agent, with no broker. Anyone who can
    /// reach the address can publish; keep it to loopback or a network of devices.
    pub listen: Option<SocketAddr>,
    /// Certificates and keys: for a broker behind `mqtts://`, where all of them may be left out, or for a
    /// listener, which then speaks TLS only.
    pub tls: Option<TlsConfig>,
    /// The version to speak to a broker, `"3.1.1"` or `5`. Devices may speak either.
    #[serde(default)]
    pub version: Version,
    /// When a publication is acknowledged. There is one answer: `"queued"`, after it is on disk.
    #[serde(default)]
    pub ack: AckWhen,
    /// The client identifier at the broker, by which it knows our session. Two clients of one broker
    /// may not share it. The default is `atedge-` and the adapter's name.
    pub client_id: Option<String>,
    /// The user name at the broker.
    pub username: Option<String>,
    /// Where the password is kept: `"file:PATH"` or `"credential:NAME"`.
    pub password: Option<SecretSource>,
    /// Share the subscriptions of a broker with other clients of this group: each publication goes to one of
    /// them (`$share/GROUP/TOPIC`; MQTT 5, and most brokers with 3.1.1).
    pub share: Option<String>,
    /// What becomes of a broker's stored copies of what was said before (`url` only): `"skip"`, since they
    /// say nothing of now, or `"take"` them as readings at each new subscription.
    #[serde(default)]
    pub retained: Retained,
    /// How often to ask a broker whether it is still there, in whole seconds from `"5s"`.
    /// It is given up after twice as long.
    #[serde(default = "default_keep_alive")]
    pub keep_alive: Duration,
    /// How many publications a broker or a device may have sent that are not yet acknowledged. A
    /// 3.1.1 broker has a limit of its own.
    #[serde(default = "default_receive_maximum")]
    pub receive_maximum: u16,
    /// How long a broker (MQTT 5) keeps what arrives while we are away, from `"1m"`.
    #[serde(default = "default_session_expiry")]
    pub session_expiry: Duration,
    /// The largest payload, in either direction. A larger one is refused and counted. A device that
    /// sends a packet larger than this and 64 KiB is cut off.
    #[serde(default = "default_max")]
    pub max: Bytes,
    /// How many devices may be connected at once (`listen` only).
    #[serde(default = "default_connections")]
    pub connections: usize,
    /// What one device may do (`listen` only).
    #[serde(default)]
    pub limits: DeviceLimits,
    /// Which publications become readings, and how.
    #[serde(default)]
    pub route: BTreeMap<String, Route>,
    /// What is reported of all this, instead of `[defaults] report`.
    #[serde(default)]
    pub report: ReportConfig,
}

/// What one device of a listener may do. What is left out has no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceLimits {
    /// Publications a second. One that says more is held back, as TCP does it: nothing is lost.
    pub messages: Option<u32>,
    /// Bytes a second, topics and payloads together; held to it in the same way.
    pub bytes: Option<Bytes>,
    /// Different topics of one connection; what is published to others is refused and counted.
    pub topics: Option<usize>,
    /// Connections from one network address; more are refused and counted.
    pub connections: Option<usize>,
}

/// What becomes of a broker's stored copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retained {
    /// They are no readings.
    #[default]
    Skip,
    /// They are readings.
    Take,
}

fn default_keep_alive() -> Duration {
    Duration::from_secs(10)
}

fn default_receive_maximum() -> u16 {
    100
}

fn default_session_expiry() -> Duration {
    Duration::from_secs(7 * 24 * 3600)
}

fn default_max() -> Bytes {
    Bytes::kib(256)
}

fn default_connections() -> usize {
    256
}

/// No payload may be configured to be larger than this, since packets are bounded as well.
const LARGEST_MAX: Bytes = Bytes::mib(8);

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// 3.1.1, the ISO standard.
    V3_1_1,
    /// 5.0.
    #[default]
    V5,
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl de::Visitor<'_> for Written {
            type Value = Version;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"3.1.1\" or 5")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Version, E> {
                match text {
                    "3.1.1" => Ok(Version::V3_1_1),
                    "5" | "5.0" => Ok(Version::V5),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Version, E> {
                match number {
                    5 => Ok(Version::V5),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Version, E> {
                self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
            }
        }
        deserializer.deserialize_any(Written)
    }
}

/// When a publication is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckWhen {
    /// After the reading is on disk.
    #[default]
    Queued,
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Its name or address.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
}

impl FromStr for BrokerUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a URL as in \"mqtt://127.0.0.1:1883\" or \"mqtts://broker.example\"";
        let (rest, tls) = match text.split_once("://") {
            Some(("mqtt", rest)) => (rest, false),
            Some(("mqtts", rest)) => (rest, true),
            _ => return Err(EXPECTED),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err("give the user name and the password as `username` and `password`");
        }
        let end_of_ipv6 = rest.rfind(']').unwrap_or(0);
        let (host, port) = match rest.rfind(':') {
            Some(colon) if colon > end_of_ipv6 => (
                &rest[..colon],
                rest[colon + 1..].parse().map_err(|_| "the port is not a number up to 65535")?,
            ),
            _ => (rest, if tls { 8883 } else { 1883 }),
        };
        if host.is_empty() || host.contains('/') {
            return Err(EXPECTED);
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What an adapter is to MQTT.
enum Role {
    Client(BrokerUrl),
    Listener(SocketAddr),
}

impl MqttConfig {
    fn role(&self) -> Result<Role, ConfigError> {
        match (&self.url, self.listen) {
            (Some(url), None) => Ok(Role::Client(url.clone())),
            (None, Some(address)) => Ok(Role::Listener(address)),
            (None, None) | (Some(_), Some(_)) => {
                Err(ConfigError::at("url", "exactly one of `url` and `listen` has to be given"))
            }
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let role = self.role()?;
        self.check_security(&role)?;
        let seconds = self.keep_alive.get();
        if seconds.subsec_nanos() != 0 || !(5..=65_535).contains(&seconds.as_secs()) {
            return Err(ConfigError::at("keep_alive", "expected whole seconds from \"5s\" to 65535"));
        }
        if self.session_expiry < Duration::from_secs(60) {
            return Err(ConfigError::at("session_expiry", "expected at least \"1m\""));
        }
        if self.receive_maximum == 0 {
            return Err(ConfigError::at("receive_maximum", "expected at least 1"));
        }
        let DeviceLimits { messages, bytes, topics, connections } = self.limits;
        let nothing =
            |setting: &str| Err(ConfigError::at(setting, "expected at least 1, or nothing for no limit"));
        match (messages, bytes.map(Bytes::get), topics, connections) {
            (Some(0), ..) => return nothing("limits.messages"),
            (_, Some(0), ..) => return nothing("limits.bytes"),
            (_, _, Some(0), _) => return nothing("limits.topics"),
            (.., Some(0)) => return nothing("limits.connections"),
            _ => {}
        }
        if self.connections == 0 {
            return Err(ConfigError::at("connections", "expected at least 1"));
        }
        if !(Bytes::new(1)..=LARGEST_MAX).contains(&self.max) {
            return Err(ConfigError::at("max", format!("expected 1B to {LARGEST_MAX}")));
        }
        if self.client_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > 256) {
            return Err(ConfigError::at("client_id", "expected 1 to 256 bytes"));
        }
        if self.password.is_some() && self.username.is_none() {
            return Err(ConfigError::at("password", "a password needs a `username`"));
        }
        if self.route.is_empty() {
            return Err(ConfigError::at("route", "without a route nothing becomes a reading"));
        }
        let mut before: Vec<(&String, &Route)> = Vec::new();
        for (name, route) in &self.route {
            route.check().map_err(|error| ConfigError::at(format!("route.{name}"), error.to_string()))?;
            let filter = route.topic.filter();
            if let Some((other, _)) = before.iter().find(|(_, other)| other.topic.filter().overlaps(filter)) {
                let what = format!("its topics overlap with those of route `{other}`");
                return Err(ConfigError::at(format!("route.{name}.topic"), what));
            }
            before.push((name, route));
        }
        Ok(())
    }

    fn check_security(&self, role: &Role) -> Result<(), ConfigError> {
        if self.tls.as_ref().is_some_and(TlsConfig::is_half) {
            return Err(ConfigError::at("tls", "expected both `cert` and `key`, or neither"));
        }
        match role {
            Role::Client(url) => {
                if self.tls.is_some() && !url.tls {
                    return Err(ConfigError::at("url", "with `tls`, expected \"mqtts://…\""));
                }
                let is_group = |name: &str| !name.is_empty() && !name.contains(['/', '+', '#', '\0']);
                if self.share.as_deref().is_some_and(|name| !is_group(name)) {
                    return Err(ConfigError::at("share", "expected a name without `/`, `+` and `#`"));
                }
                if self.limits != DeviceLimits::default() {
                    return Err(ConfigError::at("limits", "they are for devices: expected `listen`"));
                }
            }
            Role::Listener(_) => {
                if self.tls.as_ref().is_some_and(|tls| tls.cert.is_none()) {
                    return Err(ConfigError::at(
                        "tls",
                        "a listener has to show a certificate: expected `cert` and `key`",
                    ));
                }
                if self.share.is_some() {
                    return Err(ConfigError::at("share", "there is nobody to share with: expected `url`"));
                }
                if self.retained != Retained::Skip {
                    return Err(ConfigError::at("retained", "nothing is stored: expected `url`"));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn build(self, name: String) -> Result<Box<dyn Adapter>, ConfigError> {
        self.check()?;
        let role = self.role()?;
        Ok(Box::new(MqttAdapter { name, role, config: self }))
    }
}

struct MqttAdapter {
    name: String,
    role: Role,
    config: MqttConfig,
}

impl Adapter for MqttAdapter {
    fn run(
        self: Box<Self>,
        intake: Intake,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Running {
        let Self { name, role, config } = *self;
        let max = config.max.size();
        let routes = Arc::new(Routes::new(config.route.into_values(), max));
        match role {
            Role::Listener(address) => {
                let DeviceLimits { messages, bytes, topics, connections } = config.limits;
                let limits = Limits {
                    max,
                    receive_maximum: config.receive_maximum,
                    connections: config.connections,
                    connections_from_one: connections,
                    rates: Rates { messages, bytes: bytes.map(Bytes::get), topics },
                };
                Box::pin(async move {
                    let tls = config.tls.as_ref().map(TlsConfig::acceptor).transpose();
                    let tls = tls.map_err(|cause| AdapterError::Tls { adapter: name.clone(), cause })?;
                    Listener::new(name, address, limits, routes, tls).run(intake, commands, stop).await
                })
            }
            Role::Client(BrokerUrl { host, port, tls }) => Box::pin(async move {
                let login = login(config.username, config.password)
                    .map_err(|cause| AdapterError::Secret { adapter: name.clone(), cause })?;
                let options = LinkOptions {
                    version: config.version,
                    host,
                    port,
                    client_id: config.client_id.unwrap_or_else(|| format!("atedge-{name}")),
                    login,
                    tls: tls.then(|| config.tls.unwrap_or_default()),
                    share: config.share,
                    retained: config.retained,
                    keep_alive: config.keep_alive.get(),
                    receive_maximum: config.receive_maximum,
                    session_expiry_s: u32::try_from(config.session_expiry.get().as_secs())
                        .unwrap_or(u32::MAX),
                };
                Client::new(name, options, routes, max).run(intake, commands, stop).await
            }),
        }
    }
}

fn login(
    username: Option<String>,
    password: Option<SecretSource>,
) -> Result<Option<(String, String)>, crate::SecretError> {
    let Some(username) = username else { return Ok(None) };
    let password = password.map(|source| source.read()).transpose()?.unwrap_or_default();
    Ok(Some((username, password)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = r#"
        [route.env]
        topic = "factory/{line}/{dev}/env"
        device = "{dev}"
        stream = "process"
        decode = { as = "json" }
        pick = { temperature = "/temp", humidity = "/hum" }
        time = { from = "/ts", as = "unix_ms" }
        id = { from = "/seq" }
    "#;

    fn config(head: &str, tail: &str) -> Result<MqttConfig, toml::de::Error> {
        toml::from_str(&format!("{head}\n{ROUTE}\n{tail}"))
    }

    fn complaint(head: &str, tail: &str) -> String {
        config(head, tail).unwrap().check().unwrap_err().to_string()
    }

    #[test]
    fn the_documented_example_is_read() {
        let config = config("url = \"mqtt://127.0.0.1:1883\"\nversion = 5\nack = \"queued\"", "").unwrap();
        config.check().unwrap();
        assert_eq!(config.url, Some(BrokerUrl { host: "127.0.0.1".into(), port: 1883, tls: false }));
        assert_eq!(config.version, Version::V5);
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let url = "url = \"mqtt://h\"";
        assert!(complaint("", "").contains("exactly one of `url` and `listen`"));
        assert!(complaint(&format!("{url}\nlisten = \"127.0.0.1:1\""), "").contains("exactly one"));
        assert!(complaint(&format!("{url}\nkeep_alive = \"1s\""), "").contains("keep_alive"));
        assert!(complaint(&format!("{url}\nsession_expiry = \"0s\""), "").contains("session_expiry"));
        assert!(complaint(&format!("{url}\nmax = \"1GiB\""), "").contains("max"));
        assert!(complaint(&format!("{url}\nreceive_maximum = 0"), "").contains("receive_maximum"));
        let listen = "listen = \"127.0.0.1:1\"";
        for (head, setting) in [
            (format!("{url}\ntls = {{ ca = \"ca.pem\" }}"), "`url`"),
            ("url = \"mqtts://h\"\ntls = { cert = \"c.pem\" }".to_owned(), "`tls`"),
            (format!("{listen}\ntls = {{ ca = \"ca.pem\" }}"), "`tls`"),
            (format!("{url}\nshare = \"a/b\""), "`share`"),
            (format!("{listen}\nshare = \"a\""), "`share`"),
            (format!("{listen}\nretained = \"take\""), "`retained`"),
            (format!("{url}\nlimits = {{ topics = 1 }}"), "`limits`"),
            (format!("{listen}\nlimits = {{ messages = 0 }}"), "`limits.messages`"),
        ] {
            assert!(complaint(&head, "").starts_with(setting), "{head}");
        }
        let overlapping =
            "[route.all]\ntopic = \"factory/#\"\ndevice = \"x\"\nstream = \"s\"\ndecode = { as = \"raw\" }";
        assert!(complaint(url, overlapping).contains("route `all`"));
    }

    #[test]
    fn wrong_values_and_unknown_settings_do_not_load() {
        for head in [
            "url = \"http://h\"",
            "url = \"h:1883\"",
            "url = \"mqtt://user:pw@h\"",
            "url = \"mqtt://h:99999\"",
            "url = \"mqtt://\"",
            "url = \"mqtt://h\"\nversion = 4",
            "url = \"mqtt://h\"\nversion = \"3.1\"",
            "url = \"mqtt://h\"\nbroker = 1",
            "url = \"mqtt://h\"\npassword = \"hunter2\"",
            "listen = \"1883\"",
        ] {
            assert!(config(head, "").is_err(), "{head} was taken");
        }
        assert!(config("url = \"mqtt://h\"", "qos = 1").is_err(), "an unknown setting in a route");
    }

    #[test]
    fn urls_may_leave_out_the_port_and_name_ipv6() {
        let parse = |text: &str| text.parse::<BrokerUrl>().map(|url| (url.host, url.port));
        assert_eq!(parse("mqtts://broker.local"), Ok(("broker.local".into(), 8883)));
        assert_eq!(parse("mqtt://broker.local/"), Ok(("broker.local".into(), 1883)));
        assert_eq!(parse("mqtt://[::1]:1884"), Ok(("[::1]".into(), 1884)));
        assert_eq!(parse("mqtt://[::1]"), Ok(("[::1]".into(), 1883)));
    }
}
