//! `atedge-server`: hosts the atSigns of a fleet.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use at_protocol::AtSign;
use at_protocol::directory::Address;
use atedge_server::store::{self, Checked, Departure, Progress, Tenant};
use atedge_server::{Concern, Identity, Offline, Server, ServerConfig, ServerTls};
use atedge_service::{Exit, Notifier, OneLine, config, files, init_tracing, stop_signal};
use clap::{Args, Parser, Subcommand};

/// How often somebody looks how far a move is, and how long the server may take to begin with it.
const LOOK: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);
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
    #[command(after_help = "Example: atedge-server check --config server.toml --store")]
    Check {
        /// Look for damage in all of the store's files, too. That reads all of them; a server may run
        #[arg(long)]
        store: bool,
    },
    /// Copy the store's files, each as it is at one moment, while a server runs or not. The copies hold the
    /// atSigns' signing keys. To restore: stop the server and put the copies in the place of its files,
    /// without any -wal and -shm file
    #[command(after_help = "Example: atedge-server backup --to /var/backups/atedge/2026-11-22")]
    Backup {
        /// The folder for the copies; none is overwritten
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Print the key by which other nodes know this one, which is made if there is none, and what a registrar
    /// has granted to it
    #[command(after_help = "Example: atedge-server node --json

The registrar grants with it: atedge registrar grant --node <key> --atsigns '@plant7*' --for 365d …")]
    Node,
    /// Add, move, remove and list the atSigns that are hosted here
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
    /// Print what one atSign has stored
    #[command(after_help = "Example: atedge-server tenant show @alice --json")]
    Show {
        /// The atSign
        atsign: AtSign,
    },
    /// Remove an atSign and all that it has. A running server ends its connections within seconds
    #[command(after_help = "Example: atedge-server tenant remove @alice --yes")]
    Remove {
        /// The atSign
        atsign: AtSign,
        /// Yes, all of it
        #[arg(long)]
        yes: bool,
    },
    /// Write all that an atSign has into a new file, its signing key included: whoever reads the file can
    /// speak for the atSign
    #[command(after_help = "Example: atedge-server tenant export @alice --to alice.jsonl")]
    Export {
        /// The atSign
        atsign: AtSign,
        /// The file, which must not be there yet
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Host the atSign of an exported file, with its commit ids. Change nothing if it is hosted already
    #[command(after_help = "Example: atedge-server tenant import alice.jsonl")]
    Import {
        /// The file
        file: PathBuf,
        /// An address that is this atSign's alone, instead of the one it had
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
    },
    /// Move an atSign, with all that it has, to another node of the fleet while this server runs. Others find
    /// it there; nothing is lost if either node stops meanwhile: the same command goes on, or tells what became
    /// of it
    #[command(after_help = "Example: atedge-server tenant move @alice node2.example:6464

Both nodes need a grant of the registrar that covers the atSign, and one [directory]. While it is copied, the
atSign is served by neither. Exit codes: 0 it has moved, 1 it has not.")]
    Move {
        /// The atSign
        atsign: AtSign,
        /// The other node: its host and the port that all its atSigns share
        #[arg(value_name = "HOST:PORT")]
        node: Address,
    },
    /// Serve an atSign of this store though a signed record names another node: after that node was lost, and
    /// what is here was restored from its backup. If the other node still runs, what it takes meanwhile is lost
    #[command(after_help = "Example: atedge-server tenant claim @alice --yes")]
    Claim {
        /// The atSign
        atsign: AtSign,
        /// Yes, the other node is gone for good
        #[arg(long)]
        yes: bool,
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
            Command::Check { store } => check(settings, &cli.place, store).await,
            Command::Backup { to } => back_up(&settings, &cli.place, &to),
            Command::Node => show_node(settings, &cli.place).await,
            Command::Tenant(command) => tenant(settings, &cli.place, command).await,
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

async fn check(settings: ServerConfig, place: &Place, store: bool) -> anyhow::Result<()> {
    // With `dev` the files are made at the first start.
    if !settings.tls.dev {
        ServerTls::load(&settings, &place.state)?;
    }
    let concerns = concerns(&settings, &place.state).await?;
    if place.json {
        let warnings: Vec<_> = concerns.iter().map(Concern::to_string).collect();
        let json = serde_json::json!({ "config": place.config, "ok": true, "warnings": warnings });
        say(&json.to_string());
    } else {
        concerns.iter().for_each(|concern| say(&format!("warning: {concern}")));
        say(&format!("{} is good", place.config.display()));
    }
    if store { check_store(&settings, place) } else { Ok(()) }
}

/// What somebody should see to about the node's grant.
async fn concerns(settings: &ServerConfig, state: &Path) -> anyhow::Result<Vec<Concern>> {
    let Some(identity) = Identity::existing(&settings.server, state)? else {
        // Nobody has asked for its key yet, so whatever was granted was granted to another.
        anyhow::ensure!(
            settings.server.node_grant.is_none(),
            "there is a [server] node_grant, but this node has no key; `atedge-server node` makes it"
        );
        return Ok(Vec::new());
    };
    let hosted = hosted(settings, state).await?;
    Ok(identity.concerns(&hosted, &settings.server.trusted(), SystemTime::now().into()))
}

/// Who is hosted here, if there is a store already.
async fn hosted(settings: &ServerConfig, state: &Path) -> anyhow::Result<Vec<AtSign>> {
    let Some(store) = Offline::existing(settings.clone(), state).await? else { return Ok(Vec::new()) };
    Ok(store.tenants().await?.into_iter().map(|tenant| tenant.atsign).collect())
}

async fn show_node(settings: ServerConfig, place: &Place) -> anyhow::Result<()> {
    prepare(&place.state)?;
    let identity = Identity::open(&settings.server, &place.state)?;
    let hosted = hosted(&settings, &place.state).await?;
    let concerns = identity.concerns(&hosted, &settings.server.trusted(), SystemTime::now().into());
    let warnings: Vec<_> = concerns.iter().map(Concern::to_string).collect();
    let node = identity.public();
    let (covered, uncovered): (Vec<_>, Vec<_>) =
        hosted.iter().partition(|atsign| identity.grant().is_some_and(|grant| grant.covers(atsign)));
    if place.json {
        let json = serde_json::json!({
            "node": node, "grant": identity.grant(), "covered": covered, "uncovered": uncovered,
            "warnings": warnings,
        });
        say(&json.to_string());
        return Ok(());
    }
    say(&node.to_string());
    match identity.grant() {
        None => say("no grant: [server] node_grant names none, so this node signs no records"),
        Some(grant) => {
            let patterns: Vec<_> = grant.atsigns.iter().map(ToString::to_string).collect();
            let (patterns, registrar, until) = (patterns.join(", "), &grant.registrar, grant.not_after);
            say(&format!("granted {patterns} by {registrar} until {until}"));
            say(&format!("{} of {} atSigns that are hosted here are covered", covered.len(), hosted.len()));
        }
    }
    warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    Ok(())
}

fn check_store(settings: &ServerConfig, place: &Place) -> anyhow::Result<()> {
    let path = place.state.join(&settings.store.path);
    let checked = store::check(&path)?.with_context(|| format!("there is no store at {}", path.display()))?;
    for Checked { file, faults } in &checked {
        if place.json {
            say(&serde_json::json!({ "file": file, "ok": faults.is_empty(), "faults": faults }).to_string());
        } else if faults.is_empty() {
            say(&format!("{} is good", file.display()));
        } else {
            say(&format!("{} is damaged: {}", file.display(), faults.join("; ")));
        }
    }
    let damaged = checked.iter().filter(|checked| !checked.faults.is_empty()).count();
    anyhow::ensure!(damaged == 0, "{damaged} of {} files damaged; restore them from a backup", checked.len());
    Ok(())
}

fn back_up(settings: &ServerConfig, place: &Place, to: &Path) -> anyhow::Result<()> {
    let report = |progress: Progress<'_>| {
        let Progress { file, remaining, pages } = progress;
        if place.json {
            say(&serde_json::json!({ "file": file, "pages": pages, "remaining": remaining }).to_string());
        } else if remaining == 0 {
            say(&format!("{}: {pages} pages copied", file.display()));
        } else {
            say(&format!("{}: {remaining} of {pages} pages remain", file.display()));
        }
    };
    Ok(store::back_up(&place.state.join(&settings.store.path), to, report)?)
}

async fn tenant(settings: ServerConfig, place: &Place, command: TenantCommand) -> anyhow::Result<()> {
    match command {
        TenantCommand::Add { atsign, listen } => add_tenant(settings, place, Tenant { atsign, listen }).await,
        TenantCommand::List => list_tenants(settings, place).await,
        TenantCommand::Show { atsign } => show_tenant(settings, place, &atsign).await,
        TenantCommand::Move { atsign, node } => move_tenant(settings, place, &atsign, node).await,
        TenantCommand::Claim { atsign, yes } => {
            anyhow::ensure!(yes, "if another node serves {atsign}, two would; say --yes if that one is gone");
            let store = existing(settings, place).await?;
            anyhow::ensure!(store.claim(&atsign).await?, "{atsign} is about to move; see `tenant move`");
            follow_move(&store, place, &atsign).await
        }
        TenantCommand::Remove { atsign, yes } => {
            anyhow::ensure!(yes, "all that {atsign} has would be gone; say --yes if you mean it");
            let removed = Offline::open(settings, &place.state).await?.remove(&atsign).await?;
            anyhow::ensure!(removed, "{atsign} is not hosted here");
            answer(place, &serde_json::json!({ "atsign": atsign }), &format!("{atsign} is removed"));
            Ok(())
        }
        TenantCommand::Export { atsign, to } => {
            let rows = Offline::open(settings, &place.state).await?.export(&atsign, &to).await?;
            let text = format!("{atsign} is in {} ({rows} rows), with its signing key", to.display());
            answer(place, &serde_json::json!({ "atsign": atsign, "rows": rows, "file": to }), &text);
            Ok(())
        }
        TenantCommand::Import { file, listen } => {
            prepare(&place.state)?;
            let Tenant { atsign, listen } =
                Offline::open(settings, &place.state).await?.import(&file, listen).await?;
            let json = serde_json::json!({ "atsign": atsign, "listen": listen });
            answer(place, &json, &format!("{atsign} is hosted here"));
            Ok(())
        }
    }
}

/// Has the running server move an atSign.
async fn move_tenant(
    settings: ServerConfig,
    place: &Place,
    atsign: &AtSign,
    to: Address,
) -> anyhow::Result<()> {
    let store = existing(settings, place).await?;
    store.move_tenant(atsign, to).await?;
    follow_move(&store, place, atsign).await
}

async fn existing(settings: ServerConfig, place: &Place) -> anyhow::Result<Offline> {
    let store = Offline::existing(settings, &place.state).await?;
    store.with_context(|| format!("there is no store in {}", place.state.display()))
}

/// Tells how far a move is until it is decided.
async fn follow_move(store: &Offline, place: &Place, atsign: &AtSign) -> anyhow::Result<()> {
    let (mut told, asked, mut is_warned) = (None, Instant::now(), false);
    loop {
        let state =
            store.departure(atsign).await?.context("another command has seen the end of this move")?;
        if told.as_ref() != Some(&state) {
            let text = match &state {
                Departure::Asked { to } => format!("{atsign} is to move to {to}"),
                Departure::Copying { to } => {
                    format!("{atsign} is being copied to {to}, and not served meanwhile")
                }
                Departure::Given { to, .. } => format!("{to} is to serve {atsign} now"),
                Departure::Claimed => format!("{atsign} is to be served here"),
                Departure::Done { record } => format!("{atsign} is served at {}", record.at.address),
                Departure::Refused { why } => format!("{atsign} stays here: {why}"),
            };
            answer(place, &serde_json::json!({ "atsign": atsign, "move": state }), &text);
        } else if matches!(state, Departure::Asked { .. } | Departure::Claimed)
            && asked.elapsed() > PATIENCE
            && !is_warned
        {
            is_warned = true;
            tracing::warn!("nobody takes it up; does the server run, on this state folder?");
        }
        if !state.is_underway() {
            store.forget_departure(atsign).await?;
            anyhow::ensure!(matches!(state, Departure::Done { .. }), "{atsign} has not moved");
            return Ok(());
        }
        told = Some(state);
        tokio::time::sleep(LOOK).await;
    }
}

async fn show_tenant(settings: ServerConfig, place: &Place, atsign: &AtSign) -> anyhow::Result<()> {
    let quota = settings.limits.tenant.quota();
    let shown = Offline::open(settings, &place.state).await?.show(atsign).await?;
    let (tenant, usage) = shown.with_context(|| format!("{atsign} is not hosted here"))?;
    let json = serde_json::json!({
        "atsign": atsign, "listen": tenant.listen, "keys": usage.keys, "bytes": usage.bytes,
        "max_keys": quota.keys, "max_bytes": quota.bytes,
    });
    let of = |most: u64| if most == 0 { String::new() } else { format!(" of {most}") };
    let listen = tenant.listen.map_or(String::new(), |listen| format!("on {listen}, "));
    let (keys, bytes) = (usage.keys, usage.bytes);
    let text = format!("{atsign}: {listen}{keys}{} keys, {bytes}{} bytes", of(quota.keys), of(quota.bytes));
    answer(place, &json, &text);
    Ok(())
}

fn answer(place: &Place, json: &serde_json::Value, text: &str) {
    if place.json {
        say(&json.to_string());
    } else {
        say(text);
    }
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
    files::make_private_folder(state).with_context(|| format!("cannot make the folder {}", state.display()))
}
