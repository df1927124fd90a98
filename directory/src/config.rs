//! `/etc/atedge/directory.toml`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Pattern, Registrar, Registrars};
use atedge_service::config::{self, ConfigError, Sources};
use atedge_service::tls::{OwnCertificate, TlsError, TlsSettings};
use serde::Deserialize;

use crate::desk::{Limits, Rules};
use crate::follow::{FollowersSettings, ReplicaSettings};
use crate::upstream::{Upstream, UpstreamError, UpstreamSettings};

/// The configuration file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Version of the file's form: 1.
    pub schema: Schema,
    /// Where and how much.
    #[serde(default)]
    pub listen: Listen,
    /// The certificate.
    #[serde(default)]
    pub tls: TlsSettings,
    /// The same answers for browsers.
    #[serde(default)]
    pub https: Https,
    /// Who says which nodes may register which atSigns.
    #[serde(default)]
    pub registrar: Vec<RegistrarSettings>,
    /// The directory that is asked for names that are not kept here.
    pub upstream: Option<UpstreamSettings>,
    /// The directory that this one follows.
    pub replica: Option<ReplicaSettings>,
    /// The directories that may follow this one.
    #[serde(default)]
    pub followers: FollowersSettings,
}

/// The only version there is.
#[derive(Debug, Deserialize)]
#[serde(try_from = "u32")]
pub struct Schema;

impl TryFrom<u32> for Schema {
    type Error = &'static str;

    fn try_from(version: u32) -> Result<Self, Self::Error> {
        if version == 1 { Ok(Self) } else { Err("expected `1`, the only form this version knows") }
    }
}

/// The `[listen]` table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Address and port.
    pub address: SocketAddr,
    /// Connections at once.
    pub connections: usize,
    /// How many of them one source may have: an IPv4 address, or an IPv6 /64.
    pub connections_per_source: usize,
    /// How long a TLS handshake may take.
    #[serde(with = "humantime_serde")]
    pub handshake: Duration,
    /// How long a connection may be silent; clients need at least a minute.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
}

impl Default for Listen {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            // 64, the port that clients assume, needs privileges.
            address: (Ipv4Addr::UNSPECIFIED, 6400).into(),
            connections: limits.connections,
            connections_per_source: limits.connections_per_source,
            handshake: limits.handshake,
            idle: limits.idle,
        }
    }
}

/// The `[https]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Https {
    /// Address and port, usually 443, for `GET /@name`; left out: no HTTPS.
    pub address: Option<SocketAddr>,
}

/// A `[[registrar]]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrarSettings {
    /// Its public key, `ed25519:…`.
    pub key: Ed25519Public,
    /// The atSigns about which it is believed: `@alice`, `@plant7*`, `*`.
    pub atsigns: Vec<Pattern>,
}

impl Settings {
    /// Reads `file`, with the `*.toml` of the folder beside it and the environment.
    ///
    /// # Errors
    /// With every problem and its line.
    pub fn read(file: &Path) -> Result<(Self, Sources), ConfigError> {
        let sources = Sources::read(&config::layered(file), "ATEDGE")?;
        Ok((sources.parse()?, sources))
    }

    /// The certificate to show; with `dev`, made in `state`.
    ///
    /// # Errors
    /// When there is no usable one.
    pub fn certificate(&self, state: &Path) -> Result<Arc<OwnCertificate>, TlsError> {
        self.tls.certificate(state)
    }

    /// The directory to ask for other names.
    ///
    /// # Errors
    /// When its certificate could not be checked.
    pub fn upstream(&self) -> Result<Option<Arc<Upstream>>, UpstreamError> {
        self.upstream.clone().map(Upstream::new).transpose()
    }

    /// What the directory goes by, with this certificate and this directory above.
    pub fn rules(&self, certificate: Arc<OwnCertificate>, upstream: Option<Arc<Upstream>>) -> Rules {
        let Listen { connections, connections_per_source, handshake, idle, .. } = self.listen;
        let registrars = self.registrar.iter().map(|RegistrarSettings { key, atsigns }| Registrar {
            key: key.clone(),
            atsigns: atsigns.clone(),
        });
        Rules {
            certificate,
            limits: Limits { connections, connections_per_source, handshake, idle },
            registrars: Registrars::new(registrars.collect()),
            upstream,
            followers: self.followers.nodes.clone(),
        }
    }

    /// What is looked at only at the start, and whether it is not what it was `before`.
    pub fn at_start(&self, before: &Self) -> [(&'static str, bool); 4] {
        let is_first = self.speaks_with_nodes() && !before.speaks_with_nodes();
        [
            ("[listen] address", self.listen.address != before.listen.address),
            ("[https] address", self.https.address != before.https.address),
            ("[replica]", self.replica != before.replica),
            ("[followers]", is_first && self.replica == before.replica),
        ]
    }

    /// Whether other directories follow this one or the other way round, which needs a UDP port and a node key.
    pub fn speaks_with_nodes(&self) -> bool {
        self.replica.is_some() || !self.followers.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_says_what_the_defaults_are() {
        let sample = include_str!("../../packaging/directory.toml");
        let told: Settings = toml::from_str(&sample.replace("#: ", "")).unwrap();
        let defaults: Settings = toml::from_str("schema = 1").unwrap();
        assert_eq!(format!("{told:#?}"), format!("{defaults:#?}"));
        assert!(toml::from_str::<Settings>(sample).is_ok());
    }

    #[test]
    fn the_samples_examples_are_settings() {
        let sample = include_str!("../../packaging/directory.toml");
        // What is commented out and looks like TOML.
        let examples: String = sample
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.starts_with('[') || line.contains(" = "))
            .filter(|line| !line.starts_with("dev"))
            .fold("schema = 1\n[tls]\n".to_owned(), |all, line| all + line + "\n");
        let told: Settings = toml::from_str(&examples).unwrap();
        let upstream = told.upstream.as_ref().unwrap();
        let defaults = format!("[upstream]\naddress = \"{}\"\n", upstream.address);
        let defaults: Settings = toml::from_str(&format!("schema = 1\n{defaults}")).unwrap();
        let defaults = defaults.upstream.unwrap();
        assert_eq!((upstream.fresh, upstream.names), (defaults.fresh, defaults.names));
        assert_eq!((told.registrar.len(), told.followers.nodes.len()), (1, 1));
        assert!(told.replica.is_some() && told.https.address.is_some());
    }
}
