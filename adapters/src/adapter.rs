//! The one thing every adapter can do.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::mqtt::TlsError;
use crate::{Command, Intake, SecretError};

/// An adapter at work, until it is stopped or fails.
pub type Running = Pin<Box<dyn Future<Output = Result<(), AdapterError>> + Send>>;

/// Reads devices and carries commands to them.
pub trait Adapter: Send {
    /// Runs until `stop` is cancelled. A device or broker that cannot be reached is no failure: the
    /// adapter tries again with growing, jittered pauses. It ends with an error only when going on
    /// makes no sense; nothing it holds is lost by that, since nothing was acknowledged.
    fn run(
        self: Box<Self>,
        intake: Intake,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Running;
}

/// Why an adapter gave up.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// Another process has the address, or it is not ours.
    #[error("adapter {adapter} cannot listen on {address}: {cause}")]
    Listen {
        /// The adapter's name.
        adapter: String,
        /// The address configured.
        address: SocketAddr,
        /// The operating system's words.
        cause: io::Error,
    },
    /// The certificates cannot be read or used.
    #[error("adapter {adapter}: {cause}")]
    Tls {
        /// The adapter's name.
        adapter: String,
        /// What is wrong with them.
        cause: TlsError,
    },
    /// The password cannot be read.
    #[error("adapter {adapter}: {cause}")]
    Secret {
        /// The adapter's name.
        adapter: String,
        /// What is wrong with it.
        cause: SecretError,
    },
}
