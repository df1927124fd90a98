//! The atDirectory: which host and port serve an atSign.
//!
//! Clients ask one name per line over TLS and get `host:port` or `null` (atProtocol wire reference §1).
//! [`wire`] is that conversation as pure code, [`serve`] gives it sockets and time, [`registry`] keeps
//! what is known in SQLite and answers from memory.

pub mod config;
pub mod registry;
pub mod serve;
pub mod wire;

pub use config::Settings;
pub use registry::Registry;
pub use serve::{Directory, DirectoryConfig, Limits, Running};
