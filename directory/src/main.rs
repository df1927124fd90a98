//! `atedge-directory`: serves the registry, and changes it.

use std::fs::File;
use std::io::{BufReader, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use at_protocol::AtSign;
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::Address;
use atedge_directory::import::{Imported, import, is_signed};
use atedge_directory::registry::{Put, Say};
use atedge_directory::upstream::UpstreamError;
use atedge_directory::{Database, Directory, DirectoryConfig, Nodes, Registry, Running, Settings};
use atedge_service::config::{ConfigError, Sources};
use atedge_service::tls::{NodeIdentity, TlsError};
use atedge_service::{Exit, Notifier, OneLine, files, init_tracing, stop_signal};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

/// Imported lines after which a log is told how far it is.
const PROGRESS: u64 = 100_000;

/// The file of the node's key in the state folder.
const NODE_KEY: &str = "node.key";

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
        force: Force,
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
    /// Add many atSigns: lines of `@name host:port`, from a file or, with -, from standard input.
    ///
    /// Some thousand lines are one transaction. Lines that make no sense are left out and told with their
    /// number; the exit code is then 1.
    ///
    /// Example: atedge-directory import fleet.txt
    Import {
        /// The file.
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        #[command(flatten)]
        force: Force,
        #[command(flatten)]
        place: State,
    },
    /// Print the node key by which other directories know this one; it is made if there is none.
    ///
    /// Example: atedge-directory node --state ./state
    Node(State),
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
struct Force {
    /// Overrule a record that the atSign's node has signed. It is then not answered any more, and the node's
    /// next one counts for more again.
    #[arg(long)]
    force: bool,
}

impl Force {
    fn say(&self) -> Say {
        if self.force { Say::Anyway } else { Say::At(SystemTime::now().into()) }
    }
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

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the answer to the command")]
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
            settings.upstream().map_err(|error| unasked(&sources, &error))?;
            say(format!("{}: good", config.display()), serde_json::json!({ "ok": true }));
        }
        Command::Add { atsign, address, force, place } => {
            let entry = [(atsign.clone(), address.clone())];
            let before = match Database::open(&place.state)?.put(&entry, force.say())?.pop() {
                Some(Put::Signed { until }) => bail!("{}", is_signed(&atsign, until)),
                Some(Put::Done { before }) => before,
                None => None,
            };
            let json = serde_json::json!({ "atsign": atsign, "address": address, "before": before });
            say(format!("{atsign} is served at {address}"), json);
        }
        Command::Remove { atsign, place } => {
            let Some(before) = Database::open(&place.state)?.remove(&atsign)? else {
                bail!("{atsign} is not served");
            };
            let json = serde_json::json!({ "atsign": atsign, "before": before });
            say(format!("{atsign} is no longer served at {before}"), json);
        }
        Command::Import { file, force, place } => {
            let Imported { taken, bad, told } = take_in(&file, force.say(), &place.state)?;
            let lines: Vec<String> = told.iter().map(ToString::to_string).collect();
            lines.iter().for_each(|line| eprintln!("error: {line}"));
            let json = serde_json::json!({ "taken": taken, "bad": bad, "errors": lines });
            say(format!("{taken} lines are in the registry, {bad} are not"), json);
            return Ok(if bad == 0 { Exit::Done } else { Exit::Failed });
        }
        Command::Node(State { state }) => {
            files::make_private_folder(&state).with_context(|| format!("cannot make {}", state.display()))?;
            let identity = NodeIdentity::open_or_create(&state.join(NODE_KEY))?;
            let key = Ed25519Public::from_bytes(*identity.public()).context("the node's key is weak")?;
            say(key.to_string(), serde_json::json!({ "node": key }));
        }
        Command::List(place) => Database::open(&place.state)?.list(|atsign, address, _| {
            let json = serde_json::json!({ "atsign": atsign, "address": address });
            say(format!("{atsign} {address}"), json);
        })?,
    }
    Ok(Exit::Done)
}

/// Imports, and says now and again how far it is.
#[expect(clippy::print_stderr, reason = "a person reads it")]
fn take_in(file: &Path, say: Say, state: &Path) -> anyhow::Result<Imported> {
    let lines: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(file).with_context(|| format!("cannot read {}", file.display()))?)
    };
    let terminal = std::io::stderr().is_terminal();
    let mut said = 0;
    let progress = |taken| {
        if terminal {
            eprint!("\r{taken} lines");
        } else if taken - said >= PROGRESS {
            eprintln!("{taken} lines");
            said = taken;
        }
    };
    let imported = import(BufReader::new(lines), &mut Database::open(state)?, say, progress);
    if terminal {
        eprint!("\r");
    }
    Ok(imported?)
}

#[tokio::main]
async fn serve(place: &Where) -> anyhow::Result<()> {
    init_tracing("info");
    let Where { config, place: State { state } } = place;
    let (settings, sources) = Settings::read(config)?;
    let stop = stop_signal().context("cannot listen for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let certificate = settings.certificate(state).map_err(|error| refused(&sources, &error))?;
    let upstream = settings.upstream().map_err(|error| unasked(&sources, &error))?;
    let running = DirectoryConfig {
        address: settings.listen.address,
        https: settings.https.address,
        registry: Registry::open(state)?,
        rules: settings.rules(certificate, upstream),
        nodes: if settings.speaks_with_nodes() {
            let identity = Arc::new(NodeIdentity::open_or_create(&state.join(NODE_KEY))?);
            Some(Nodes { identity, replica: settings.replica.clone() })
        } else {
            None
        },
    };
    let running = Directory::start(running, stop.clone()).await?;
    let notifier = Notifier;
    notifier.ready();
    notifier.status(&format!("answering on {}", running.address));
    let mut in_force = InForce { settings, running };
    let reloading = async {
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => in_force.reload(place),
                () = stop.cancelled() => return notifier.stopping(),
            }
        }
    };
    tokio::join!(notifier.watchdog(stop.clone()), reloading);
    in_force.running.wait().await;
    Ok(())
}

/// The directory, and what it was told.
struct InForce {
    settings: Settings,
    running: Running,
}

impl InForce {
    /// Applies what has changed in the files. When they are no good, everything stays as it is.
    fn reload(&mut self, place: &Where) {
        let done = match self.try_reload(place) {
            Ok(()) => "by the configuration as it is now",
            Err(error) => {
                // That of a file says so itself.
                let unchanged = if error.is::<ConfigError>() { "" } else { ". Nothing has changed." };
                error!("{error:#}{unchanged}");
                "by the configuration as it was, since the file is no good"
            }
        };
        info!("answering {done}");
        Notifier.status(&format!("answering on {}, {done}", self.running.address));
    }

    fn try_reload(&mut self, Where { config, place: State { state } }: &Where) -> anyhow::Result<()> {
        let (settings, sources) = Settings::read(config)?;
        let before = self.running.rules();
        let certificate = if settings.tls == self.settings.tls {
            before.certificate.refresh();
            before.certificate
        } else {
            settings.certificate(state).map_err(|error| refused(&sources, &error))?
        };
        let upstream = if settings.upstream == self.settings.upstream {
            before.upstream
        } else {
            settings.upstream().map_err(|error| unasked(&sources, &error))?
        };
        self.running.apply(settings.rules(certificate, upstream))?;
        for (what, is_other) in settings.at_start(&self.settings) {
            if is_other {
                warn!("{what} has changed: that takes a restart");
            }
        }
        self.settings = settings;
        Ok(())
    }
}

/// A certificate that cannot be used is a setting to correct.
fn refused(sources: &Sources, error: &TlsError) -> ConfigError {
    sources.complaint(error.setting(), &error.to_string(), "")
}

/// So is a directory above whose certificate cannot be checked.
fn unasked(sources: &Sources, error: &UpstreamError) -> ConfigError {
    let setting = match error {
        UpstreamError::Ca(_) => "ca",
        UpstreamError::Host(_) | UpstreamError::NobodyTrusted => "address",
    };
    sources.complaint(&["upstream", setting], &error.to_string(), "")
}
