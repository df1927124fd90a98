//! The field side: adapters that turn what devices say into readings and carry commands to them.
//!
//! An [`Adapter`] is built from its table in the configuration ([`AdapterConfig`]) and runs as one
//! task. It puts everything it hears into an [`Intake`] as [`Captured`], and takes [`Command`]s.
//! A reading comes with its [`Ack`]: the receiver calls [`Ack::accept`] once the reading is safe on
//! disk, and only then does the device or the broker get its acknowledgement.
//!
//! The kinds of adapter: [`mqtt`], as the client of a broker or listening for devices itself,
//! [`serial`], [`modbus`], and [`process`] for programs that speak for devices. What a device says over all but
//! Modbus becomes points by the rules in [`decode`].
//!
//! What of all that is reported is decided by the rules in [`report`].
//!
//! This crate knows no atSign, no queue and no encryption.

mod ack;
mod adapter;
mod backoff;
mod captured;
mod command;
mod config;
pub mod decode;
mod delivery;
mod grid;
pub mod modbus;
pub mod mqtt;
mod name;
pub mod process;
mod reading;
mod refusal;
pub mod report;
mod scale;
mod secret;
pub mod serial;
pub mod sim;
pub mod units;
mod waiting;
mod write;

pub use ack::{Ack, Verdict};
pub use adapter::{Adapter, AdapterError, Running};
pub use captured::{Captured, Intake};
pub use command::{Command, CommandError, Order, Verify};
pub use config::{AdapterConfig, ConfigError};
pub use delivery::{Delivery, Digest};
pub use name::{DeviceName, InvalidName, PointName, StreamName};
pub use reading::{Point, Reading, Value};
pub use refusal::Refusal;
pub use report::Defaults;
pub use secret::{SecretError, SecretSource};
