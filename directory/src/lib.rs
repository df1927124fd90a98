//! The atDirectory: which host and port serve an atSign.
//!
//! Clients ask one name per line over TLS and get `host:port` or `null` (atProtocol wire reference §1).
//! [`wire`] is that conversation as pure code, [`serve`] gives it sockets and time, [`registry`] keeps
//! what is known in SQLite and answers from memory. Where a registrar is trusted, nodes hand in signed
//! records themselves.

pub mod config;
mod connection;
mod desk;
pub mod follow;
pub mod import;
mod quic;
pub mod registry;
pub mod serve;
pub mod upstream;
mod web;
pub mod wire;

pub use config::Settings;
pub use desk::{Limits, RegisterError, Rules};
pub use registry::{Database, Registry};
pub use serve::{Directory, DirectoryConfig, Nodes, Running, StartError};
