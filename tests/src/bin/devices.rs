//! Many device atSigns in one process, as one agent would have them: each listens, all by the same dialer.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use at_client::{
    Client, ClientConfig, ClientTls, Dialer, Directory, Monitor, MonitorConfig, MonitorState, Transport,
    Trust,
};
use at_protocol::AtSign;
use at_protocol::directory::Address;
use at_protocol::keys::AtKeys;
use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

/// Keep a monitor of each atSign, all in one process with the same keys, until a line comes.
///
/// Prints a line of JSON at each change: how many listen now, how often one has begun to, and how many QUIC
/// connections there are.
#[derive(Parser)]
#[command(name = "devices", after_help = "Example: devices quic localhost:6400 ca.pem key.atKeys @d1 @d2")]
struct Cli {
    /// Which way to their server.
    way: Way,
    /// Where the directory is.
    directory: Address,
    /// Whom to trust.
    ca: PathBuf,
    /// The keys of all of them.
    keys: PathBuf,
    /// Who they are.
    #[arg(required = true)]
    atsigns: Vec<AtSign>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    Auto,
    Quic,
    Tls,
}

impl From<Way> for Transport {
    fn from(way: Way) -> Self {
        match way {
            Way::Auto => Self::Auto,
            Way::Quic => Self::Quic,
            Way::Tls => Self::Tls,
        }
    }
}

fn main() -> ExitCode {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.into()),
    };
    let ended = runtime.block_on(run(Cli::parse()));
    // A thread still waits for input.
    runtime.shutdown_background();
    ended.map_or_else(|error| complain(&error), |()| ExitCode::SUCCESS)
}

#[expect(clippy::print_stderr, reason = "a person reads it")]
fn complain(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

async fn run(cli: Cli) -> Result<()> {
    let tls = ClientTls::new(&Trust::Only(cli.ca), None)?;
    let keys = Arc::new(AtKeys::parse(&std::fs::read_to_string(cli.keys)?)?);
    let directory = Arc::new(Directory::new(cli.directory, tls.clone()));
    let dialer = Dialer::new(tls, cli.way.into());
    let (told, mut changes) = unbounded_channel();
    let mut devices = JoinSet::new();
    for atsign in cli.atsigns {
        let (keys, directory, dialer) = (Arc::clone(&keys), Arc::clone(&directory), dialer.clone());
        let client = Client::new(ClientConfig { atsign, keys, directory, dialer });
        let monitor = client.monitor(MonitorConfig::default());
        devices.spawn(listen(monitor, told.clone()));
    }
    let input = tokio::task::spawn_blocking(|| std::io::stdin().lines().next());
    tokio::pin!(input);
    let (mut listening, mut begun) = (0, 0);
    let mut out = std::io::stdout();
    loop {
        tokio::select! {
            Some(is_up) = changes.recv() => {
                if is_up {
                    listening += 1;
                    begun += 1;
                } else {
                    listening -= 1;
                }
                let line = json!({ "listening": listening, "begun": begun, "quic": dialer.connections() });
                writeln!(out, "{line}")?;
                out.flush()?;
            }
            _ = &mut input => break,
        }
    }
    dialer.close(Duration::from_secs(1)).await;
    Ok(())
}

/// Listens for ever, and tells when it begins to and when it has to stop.
async fn listen(mut monitor: Monitor, told: UnboundedSender<bool>) {
    let mut state = monitor.state();
    let mut was_up = false;
    loop {
        tokio::select! {
            // What is heard is of no interest, and what fails is tried again.
            _ = monitor.next() => {}
            // The monitor lives as long as we do.
            _ = state.changed() => {
                let is_up = *state.borrow_and_update() == MonitorState::Connected;
                if is_up != was_up && told.send(is_up).is_err() {
                    return;
                }
                was_up = is_up;
            }
        }
    }
}
