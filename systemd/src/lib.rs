//! What every daemon owes its service manager and the people who run it: configuration whose errors
//! point at a line, logs the journal can sort, certificates, signals, readiness and the watchdog.
//!
//! Nothing here knows an atSign. A daemon's `main` reads its files with [`config::load`], calls
//! [`log::init_tracing`], makes a [`stop::stop_signal`], and reports its life through
//! [`notify::Notifier`].

mod complaint;
pub mod config;
pub mod exit;
pub mod files;
pub mod log;
mod memory;
pub mod notify;
pub mod stop;
pub mod tls;

pub use complaint::OneLine;
pub use exit::Exit;
pub use log::init_tracing;
pub use memory::{give_back_code, give_back_freed};
pub use notify::Notifier;
pub use stop::stop_signal;
