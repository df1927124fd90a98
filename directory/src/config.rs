//! `/etc/atedge/directory.toml`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atedge_service::config::{self, ConfigError, Sources};
use atedge_service::tls::{ClientCertificates, TlsError, TlsSettings};
use rustls::ServerConfig;
use serde::Deserialize;

use crate::serve::Limits;

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
            handshake: limits.handshake,
            idle: limits.idle,
        }
    }
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
    pub fn certificate(&self, state: &Path) -> Result<Arc<ServerConfig>, TlsError> {
        self.tls.server_config(state, ClientCertificates::Ignored)
    }

    /// What a directory puts up with.
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.listen.connections,
            handshake: self.listen.handshake,
            idle: self.listen.idle,
        }
    }
}
