//! An asynchronous atProtocol client, on tokio.
//!
//! From the outside in: [`Client`] speaks for one atSign — records, notifications, a [`Monitor`] — and
//! keeps its connections alive; [`Envelopes`] speak for a program of ours to others of ours; [`onboard`] makes an atSign's first keys; [`login`] proves who one is;
//! [`Wire`] moves lines over any stream; [`Directory`] finds servers and a [`Dialer`] reaches them.
//!
//! Nothing here spawns a task (but for the making of RSA keys, which [`onboard`] leaves to a thread and waits
//! for, and for QUIC connections, which live by themselves until the [`Dialer`] is gone): every future does its
//! work where it is awaited, also on a runtime of one thread.

mod account;
mod backoff;
mod caps;
mod client;
mod dial;
mod envelopes;
mod identity;
pub mod keyfile;
mod lenient;
pub mod login;
mod monitor;
mod notify;
pub mod onboard;
mod peers;
pub mod pin;
mod quic;
mod random;
mod refusal;
mod requests;
pub mod resolve;
mod rpc;
pub mod tls;
pub mod wire;

pub use account::{ClientConfig, ConnectError, TlsWire, open};
pub use caps::LEARNT_WITHIN;
pub use client::{Client, Record, RecordError};
pub use dial::{AtWire, Dialer, Transport, Way};
pub use envelopes::{Content, EnvelopeError, Envelopes, Need, Refused};
pub use identity::{Identity, IdentityError};
pub use lenient::TrustedTime;
pub use monitor::{Incoming, Monitor, MonitorConfig, MonitorError, MonitorState, Payload};
pub use notify::{NotifyRequest, SendError, Status};
pub use onboard::{OnboardError, Onboarding};
pub use peers::PairError;
pub use requests::AskError;
pub use resolve::{Directory, Found, Memory, RecordKeeper};
pub use rpc::{Call, CallError, CallRequest, CallState};
pub use tls::{ClientTls, Trust};
pub use wire::Wire;

#[cfg(test)]
mod stub;
