//! The adapters against the real thing: Mosquitto, pseudo terminals, and devices over TCP.

mod broker;
mod gateway;
mod listen;
mod mosquitto;
mod packet;
mod serial;
