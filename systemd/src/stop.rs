//! Signals become one token that every task watches.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// A token that is cancelled by the first SIGTERM or SIGINT. A second signal ends the process at once:
/// whoever asks twice does not want to wait for a drain.
///
/// # Errors
/// When the signal handlers cannot be installed.
///
/// # Panics
/// Outside a tokio runtime.
pub fn stop_signal() -> io::Result<CancellationToken> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
            }
        };
        let signal = next().await;
        info!(signal, "stopping");
        told.cancel();
        let signal = next().await;
        info!(signal, "stopping at once");
        std::process::exit(1);
    });
    Ok(stop)
}
