//! The fleet's host: many atServers in one process.
//!
//! A [`Node`] is what all of them share: the store, the monitors, the connections to other atServers.
//! [`session::serve`] is one connection over any stream; [`Server`] listens and runs a node; the verbs
//! are in `verbs/`, one file each, and [`access::may`] decides who may do what.
//!
//! A request's way: bytes become lines and verbs in `at_protocol`'s pure session, `session` performs what
//! it decides, `verbs` asks the store for one transaction, and what was committed comes back through
//! `monitors` to whoever watches and through `peers` to other servers.

pub mod access;
mod admission;
mod announce;
mod blocklist;
mod clock;
pub mod config;
mod descriptors;
pub mod enrollment;
mod house;
mod identity;
mod listen;
mod login_keys;
mod monitors;
pub mod moving;
mod node;
mod offline;
mod peers;
mod random;
mod server;
pub mod session;
pub mod sessions;
pub mod store;
mod streams;
mod tenant;
mod testing;
mod timers;
mod verbs;
mod visits;
pub mod web;

/// What decides how servers speak to each other, without sockets, stores or clocks: for simulations.
#[doc(hidden)]
pub mod pure {
    pub use crate::peers::{AskError, claim, fences, inlet, lane, outlet, roads};
    pub use crate::verbs::said;
}

pub use config::ServerConfig;
pub use identity::{Concern, Identity, IdentityError};
pub use node::Node;
pub use offline::Offline;
pub use peers::Certificate;
pub use server::{AddTenantError, Running, Server, ServerTls, StartError};
pub use tenant::label;
