//! The gateway's daemon: devices in, a durable outbox, encrypted notifications out, commands back.

pub mod clock;
pub mod outbox;
pub mod payload;
pub mod uplink;
