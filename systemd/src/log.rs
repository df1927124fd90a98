//! Logs on standard error: for eyes on a terminal, with `<N>` priorities for the journal.

#[cfg(feature = "libsystemd")]
mod journal;
#[cfg(not(feature = "libsystemd"))]
mod journal_lines;
#[cfg(not(feature = "libsystemd"))]
use journal_lines as journal;

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

type Started = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Begins to log: `RUST_LOG` decides what, else `default` (levels by target, such as `info` or
/// `warn,atedge_agent=debug`). A second call changes nothing, so tests may call it as they like.
pub fn init_tracing(default: &str) {
    let asked = std::env::var("RUST_LOG").ok().and_then(|asked| asked.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| default.parse().expect("levels by target"));
    let terminal = std::io::stderr().is_terminal();
    // Set by the service manager when standard error is connected to the journal.
    let started = if std::env::var_os("JOURNAL_STREAM").is_some() && !terminal {
        journal::start(filter)
    } else {
        let lines = fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(terminal)
            .with_target(false)
            // To say on standard error that standard error takes nothing would end the program.
            .log_internal_errors(false);
        tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(Into::into)
    };
    // The only failure is that somebody logs already.
    drop(started);
}

/// The priority of sd-daemon(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}
