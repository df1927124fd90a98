//! The gateway's daemon: devices in, a durable outbox, encrypted notifications out, commands back.
