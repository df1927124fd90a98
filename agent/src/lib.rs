//! The gateway's daemon: devices in, a durable outbox, encrypted notifications out, commands back.
//!
//! A reading's way: an adapter, which [`field`] runs, hands it to its [`intake`], which has it
//! [normalised](normalise) and appended to the [`outbox`]; when that is on disk, the device gets its
//! acknowledgement. [`uplink`] takes it from there to its readers, by the [`link`] to our atServer, in the wire
//! form of [`payload`], until they have confirmed it. A command comes back over the same link to [`commands`],
//! which decides and has the adapter do it. [`run`] starts and ends all of them, [`reload`] changes what runs.
//! [`tool`] is for the person at the device, and [`control`] is where a running agent is asked.

pub mod clock;
pub mod commands;
pub mod config;
pub mod connect;
pub mod control;
pub mod difference;
pub mod failpoint;
pub mod field;
pub mod intake;
pub mod keys;
pub mod latest;
pub mod link;
pub mod look;
pub mod metrics;
pub mod normalise;
pub mod outbox;
pub mod payload;
pub mod reach;
pub mod records;
pub mod reload;
pub mod run;
pub mod seal;
pub mod standing;
pub mod tally;
pub mod tap;
pub mod tool;
pub mod uplink;
pub mod voice;
