//! `atedge-server`: hosts the atSigns of a fleet.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use at_protocol::AtSign;
use atedge_server::store::Tenant;
use atedge_server::{Offline, Server, ServerConfig, ServerTls};
use atedge_service::{Exit, Notifier, OneLine, config, init_tracing, stop_signal};
use clap::{Args, Parser, Subcommand};

/// Environment variables that override settings begin so.
const ENVIRONMENT: &str = "ATEDGE";

/// What `--version` says. A build that answers too early, to prove that tests notice, says so.
const VERSION: &str = match cfg!(feature = "sabotage") {
    true => concat!(env!("CARGO_PKG_VERSION"), "+sabotage"),
    false => env!("CARGO_PKG_VERSION"),
};

/// Hosts the atServers of many atSigns in one process.
#[derive(Parser)]
#[command(version = VERSION, after_help = "Example: atedge-server run --config /etc/atedge/server.toml")]
struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Place {
    /// The configuration; files of server.d beside it are read, too
    #[arg(long, global = true, default_value = "/etc/atedge/server.toml", value_name = "FILE")]
    config: PathBuf,
    /// Where the server keeps what it hosts
    #[arg(long, global = true, default_value = "/var/lib/atedge/server", value_name = "DIR")]
    state: PathBuf,
    /// Answer with one JSON object per line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM
    #[command(after_help = "Example: atedge-server run --config server.toml --state ./state")]
    Run,
    /// Say whether the configuration would do, without starting anything
    #[command(after_help = "Example: atedge-server check --config server.toml")]
    Check,
    /// Add and list the atSigns that are hosted here
    #[command(subcommand, after_help = "Example: atedge-server tenant add @alice")]
    Tenant(TenantCommand),
}

#[derive(Subcommand)]
enum TenantCommand {
    /// Host another atSign and print, once, the secret that activates it. A running server serves it within
    /// seconds
    #[command(after_help = "Example: atedge-server tenant add @alice --listen 0.0.0.0:6465")]
    Add {
        /// The atSign
        atsign: AtSign,
        /// An address that is this atSign's alone; it is kept
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
    },
    /// Print the atSigns that are hosted here
    #[command(after_help = "Example: atedge-server tenant list --json")]
    List,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_tracing("info");
    // Only fails when it was done before.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let settings = match config::load::<ServerConfig>(&config::layered(&cli.place.config), ENVIRONMENT) {
        Ok(settings) => settings,
        Err(error) => return complain(&error.to_string(), Exit::Usage),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("error: {error}"), Exit::Failed),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run => run(settings, &cli.place.state).await,
            Command::Check => check(&settings, &cli.place),
            Command::Tenant(TenantCommand::Add { atsign, listen }) => {
                add_tenant(settings, &cli.place, Tenant { atsign, listen }).await
            }
            Command::Tenant(TenantCommand::List) => list_tenants(settings, &cli.place).await,
        }
    });
    match done {
        Ok(()) => Exit::Done.into(),
        Err(error) => complain(&format!("error: {}", OneLine(error.as_ref())), Exit::Failed),
    }
}

#[expect(clippy::print_stderr, reason = "errors are for the person at the terminal")]
fn complain(error: &str, exit: Exit) -> ExitCode {
    eprintln!("{error}");
    exit.into()
}

#[expect(clippy::print_stdout, reason = "answers are what the command is for")]
fn say(text: &str) {
    println!("{text}");
}

async fn run(settings: ServerConfig, state: &Path) -> anyhow::Result<()> {
    let stop = stop_signal().context("cannot watch for signals")?;
    let notifier = Notifier;
    let watchdog = tokio::spawn(notifier.watchdog(stop.clone()));
    prepare(state)?;
    let tls = ServerTls::load(&settings, state)?;
    let running = Server::start(settings, tls, state, stop.clone()).await?;
    let tenants = running.tenants().await?.len();
    tracing::info!(address = %running.address(), tenants, "serving");
    notifier.ready();
    stop.cancelled().await;
    notifier.stopping();
    running.finished().await;
    watchdog.await.context("the watchdog's task failed")
}

fn check(settings: &ServerConfig, place: &Place) -> anyhow::Result<()> {
    // With `dev` the files are made at the first start.
    if !settings.tls.dev {
        ServerTls::load(settings, &place.state)?;
    }
    if place.json {
        say(&serde_json::json!({ "config": place.config, "ok": true }).to_string());
    } else {
        say(&format!("{} is good", place.config.display()));
    }
    Ok(())
}

async fn add_tenant(settings: ServerConfig, place: &Place, tenant: Tenant) -> anyhow::Result<()> {
    prepare(&place.state)?;
    let (atsign, listen) = (tenant.atsign.clone(), tenant.listen);
    let secret = Offline::open(settings, &place.state).await?.add_tenant(tenant).await?;
    if place.json {
        let json = serde_json::json!({ "atsign": atsign, "cram": *secret, "listen": listen });
        say(&json.to_string());
    } else {
        say(&format!("{atsign} is hosted here. Its activation secret, shown this once:\n{}", *secret));
    }
    Ok(())
}

async fn list_tenants(settings: ServerConfig, place: &Place) -> anyhow::Result<()> {
    for Tenant { atsign, listen } in Offline::open(settings, &place.state).await?.tenants().await? {
        if place.json {
            say(&serde_json::json!({ "atsign": atsign, "listen": listen }).to_string());
        } else {
            say(&listen.map_or_else(|| atsign.to_string(), |listen| format!("{atsign} on {listen}")));
        }
    }
    Ok(())
}

fn prepare(state: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(state).with_context(|| format!("cannot make the folder {}", state.display()))
}
