//! The atProtocol as pure code: names, verbs, responses, sessions and cryptography.
//!
//! Nothing here opens a socket or a file, reads a clock or draws a random number (the one exception,
//! RSA inside aws-lc, is named in [`crypto`]). Bytes and times come in, values and actions go out, so
//! the same code runs under TLS, in tests on virtual time, and in a fuzzer.
//!
//! Start with [`Verb`] (what a client says), [`Response`] (what a server answers) and the two ends of a
//! connection, [`session::server::ServerSession`] and [`session::client::ClientSession`].

pub mod atsign;
pub mod base2e15;
pub mod caps;
pub mod crypto;
pub mod directory;
pub mod key;
pub mod keys;
pub mod line;
pub mod metadata;
pub mod notification;
pub mod peer;
pub mod response;
pub mod rpc;
pub mod session;
pub mod time;
pub mod verb;

pub use atsign::AtSign;
pub use key::{AtKey, KeyName};
pub use metadata::Metadata;
pub use response::{ErrorCode, Response};
pub use time::Timestamp;
pub use verb::Verb;
