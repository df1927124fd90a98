//! The two ends of a connection, as state machines without IO.

pub mod client;
pub mod server;
