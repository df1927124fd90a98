//! The adapters against the real thing: Mosquitto, pseudo terminals, and devices over TCP.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the message")]
#![expect(clippy::wildcard_enum_match_arm, reason = "tests wait for one packet of many")]

mod broker;
mod gateway;
mod listen;
mod modbus;
mod mosquitto;
mod packet;
mod process;
mod serial;
mod sim;
mod tls;
