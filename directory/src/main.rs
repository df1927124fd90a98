//! `atedge-directory`: serves the registry, and changes it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use at_protocol::AtSign;
use at_protocol::directory::Address;
use atedge_directory::{Directory, DirectoryConfig, Registry, Settings};
use atedge_service::config::{ConfigError, Sources};
use atedge_service::tls::TlsError;
use atedge_service::{Exit, Notifier, OneLine, init_tracing, stop_signal};
use clap::{Args, Parser, Subcommand};

/// The atDirectory: says which host and port serve an atSign.
#[derive(Parser)]
#[command(name = "atedge-directory", version, arg_required_else_help = true)]
struct Cli {
    /// Print one JSON object per line for machines.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer look-ups until SIGTERM.
    ///
    /// Example: atedge-directory run --config directory.toml --state ./state
    Run(Where),
    /// Check the configuration and its certificate, without listening.
    ///
    /// Example: atedge-directory check --config directory.toml
    Check {
        /// The configuration; the *.toml in the folder beside it that ends in .d are read too.
        #[arg(long, value_name = "FILE", default_value = "/etc/atedge/directory.toml")]
        config: PathBuf,
    },
    /// Say where an atSign is served. A running directory answers it within a second.
    ///
    /// Example: atedge-directory add @alice gateway.example:6464
    Add {
        /// The atSign.
        atsign: AtSign,
        /// Its server, as HOST:PORT; the certificate there must name HOST.
        address: Address,
        #[command(flatten)]
        place: State,
    },
    /// Forget an atSign.
    ///
    /// Example: atedge-directory remove @alice
    Remove {
        /// The atSign.
        atsign: AtSign,
        #[command(flatten)]
        place: State,
    },
    /// List what is served, one per line.
    ///
    /// Example: atedge-directory list --json
    List(State),
}

#[derive(Args)]
struct Where {
    /// The configuration; the *.toml in the folder beside it that ends in .d are read too.
    #[arg(long, value_name = "FILE", default_value = "/etc/atedge/directory.toml")]
    config: PathBuf,
    #[command(flatten)]
    place: State,
}

#[derive(Args)]
struct State {
    /// The folder with the registry.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/atedge/directory")]
    state: PathBuf,
}

fn main() -> ExitCode {
    // Somebody else's provider cannot be installed yet.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let cli = Cli::parse();
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let config = error.downcast_ref::<ConfigError>().is_some();
            complain(&error, config);
            if config { Exit::Usage.into() } else { Exit::Failed.into() }
        }
    }
}

#[expect(clippy::print_stderr, reason = "a person reads it")]
fn complain(error: &anyhow::Error, config: bool) {
    if config {
        eprintln!("{error}");
    } else {
        eprintln!("error: {}", OneLine(error.as_ref()));
    }
}

#[expect(clippy::print_stdout, reason = "the answer to the command")]
fn run(cli: Cli) -> anyhow::Result<Exit> {
    let say = |text: String, json: serde_json::Value| {
        if cli.json { println!("{json}") } else { println!("{text}") }
    };
    match cli.command {
        Command::Run(place) => serve(&place)?,
        Command::Check { config } => {
            let (settings, sources) = Settings::read(&config)?;
            if !settings.tls.dev {
                settings.certificate(Path::new(".")).map_err(|error| refused(&sources, &error))?;
            }
            say(format!("{}: good", config.display()), serde_json::json!({ "ok": true }));
        }
        Command::Add { atsign, address, place } => {
            let before = Registry::open(&place.state)?.put(&atsign, &address)?;
            let json = serde_json::json!({ "atsign": atsign, "address": address, "before": before });
            say(format!("{atsign} is served at {address}"), json);
        }
        Command::Remove { atsign, place } => {
            let Some(before) = Registry::open(&place.state)?.remove(&atsign)? else {
                anyhow::bail!("{atsign} is not served");
            };
            let json = serde_json::json!({ "atsign": atsign, "before": before });
            say(format!("{atsign} is no longer served at {before}"), json);
        }
        Command::List(place) => {
            for (atsign, address) in Registry::open(&place.state)?.list()? {
                let json = serde_json::json!({ "atsign": atsign, "address": address });
                say(format!("{atsign} {address}"), json);
            }
        }
    }
    Ok(Exit::Done)
}

#[tokio::main]
async fn serve(Where { config, place: State { state } }: &Where) -> anyhow::Result<()> {
    init_tracing("info");
    let (settings, sources) = Settings::read(config)?;
    let stop = stop_signal().context("cannot listen for signals")?;
    let address = settings.listen.address;
    let config = DirectoryConfig {
        address,
        registry: Registry::open(state)?,
        tls: settings.certificate(state).map_err(|error| refused(&sources, &error))?,
        limits: settings.limits(),
    };
    let running = Directory::start(config, stop.clone())
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let notifier = Notifier;
    notifier.ready();
    notifier.status(&format!("answering on {}", running.address));
    tokio::join!(running.wait(), notifier.watchdog(stop.clone()), async {
        stop.cancelled().await;
        notifier.stopping();
    });
    Ok(())
}

/// A certificate that cannot be used is a setting to correct.
fn refused(sources: &Sources, error: &TlsError) -> ConfigError {
    sources.complaint(error.setting(), &error.to_string(), "")
}
