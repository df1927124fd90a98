//! An asynchronous atProtocol client, on tokio.
//!
//! From the outside in: [`Client`] speaks for one atSign — records, notifications, a [`Monitor`] — and
//! keeps its connections alive; [`onboard`] makes an atSign's first keys; [`login`] proves who one is;
//! [`Wire`] moves lines over any stream; [`Directory`] finds servers and [`tls`] reaches them.
//!
//! Nothing here spawns a task: every future does its work where it is awaited, also on a runtime of one
//! thread.

pub mod login;
mod refusal;
pub mod resolve;
pub mod tls;
pub mod wire;

pub use resolve::Directory;
pub use tls::{ClientIdentity, ClientTls, Trust};
pub use wire::Wire;
