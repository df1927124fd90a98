//! `atedge-agent`: the gateway's daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use atedge_agent::config::{self, Loaded};
use atedge_agent::outbox::{self, Backlog, ConfirmedBy, Stat};
use atedge_agent::run::Agent;
use atedge_agent::tool;
use atedge_service::{Exit, OneLine, config::layered, init_tracing, stop_signal};
use clap::{Args, Parser, Subcommand};

/// What `--version` says. A build that acknowledges too early, to prove that tests notice, says so.
const VERSION: &str = match cfg!(feature = "sabotage") {
    true => concat!(env!("CARGO_PKG_VERSION"), "+sabotage"),
    false => env!("CARGO_PKG_VERSION"),
};

/// Reads devices, keeps what they say until its readers have it, and carries commands back.
#[derive(Parser)]
#[command(
    name = "atedge-agent",
    version = VERSION,
    after_help = "Example: atedge-agent run --config agent.toml --state state"
)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Run the agent until SIGTERM.
    #[command(after_help = "Example: atedge-agent run --config agent.toml --state state")]
    Run {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        state: StateArgs,
    },
    /// Check the configuration, offline.
    #[command(after_help = "Example: atedge-agent check --config agent.toml")]
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    Ports(tool::Ports),
    Scan(tool::Scan),
    Peek(tool::Peek),
    Sim(tool::Sim),
    /// Look at the queue on disk.
    Queue {
        #[command(subcommand)]
        command: Queue,
    },
}

#[derive(Subcommand)]
enum Queue {
    /// How much waits, and for whom; also while the agent runs.
    #[command(after_help = "Example: atedge-agent queue stat --state state --json")]
    Stat {
        #[command(flatten)]
        state: StateArgs,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct ConfigArgs {
    /// The configuration; the *.toml in the folder beside it that ends in .d belong to it.
    #[arg(long, value_name = "FILE", default_value = "/etc/atedge/agent.toml")]
    config: PathBuf,
}

#[derive(Args)]
struct StateArgs {
    /// The folder of the queue.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/atedge/agent")]
    state: PathBuf,
}

fn main() -> ExitCode {
    // Another provider may have been installed by whoever links us; one is enough.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let exit = match Cli::parse().command {
        What::Run { config, state } => run(&config.config, state.state),
        What::Check { config, json } => check(&config.config, json),
        What::Ports(ports) => ports.run(),
        What::Scan(scan) => scan.run(),
        What::Peek(peek) => peek.run(),
        What::Sim(sim) => sim.run(),
        What::Queue { command: Queue::Stat { state, json } } => queue_stat(&state.state, json),
    };
    exit.into()
}

fn run(file: &Path, state: PathBuf) -> Exit {
    let Some(Loaded { config, rules }) = load(file) else { return Exit::Usage };
    init_tracing("info");
    // One thread: a gateway has little to do at once, and memory to spare for nothing.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime");
    let ran = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let stop = stop_signal().context("listen for signals")?;
            Agent { config, rules, state }.run(stop).await
        })
    });
    match ran {
        Ok(()) => Exit::Done,
        Err(error) => fail(format_args!("{}", OneLine(error.as_ref()))),
    }
}

fn check(file: &Path, json: bool) -> Exit {
    let Some(Loaded { config, .. }) = load(file) else { return Exit::Usage };
    let (adapters, streams, commands) = (config.adapter.len(), config.stream.len(), config.command.len());
    if json {
        let summary = serde_json::json!({
            "ok": true, "gateway": config.gateway.atsign, "adapters": adapters, "streams": streams, "commands": commands,
        });
        say(format_args!("{summary}"));
    } else {
        let gateway = &config.gateway.atsign;
        say(format_args!(
            "{gateway}: {adapters} adapters, {streams} streams, {commands} commands. All is well."
        ));
    }
    Exit::Done
}

fn queue_stat(state: &Path, json: bool) -> Exit {
    let stat = match outbox::stat_from_outside(state) {
        Ok(stat) => stat,
        Err(error) => return fail(format_args!("{error}")),
    };
    match serde_json::to_string(&stat) {
        Ok(line) if json => say(format_args!("{line}")),
        _ => print_stat(&stat),
    }
    Exit::Done
}

fn print_stat(stat: &Stat) {
    say(format_args!("records waiting  {}", stat.records));
    say(format_args!("bytes in use     {}", stat.bytes));
    say(format_args!("set aside        {}", stat.aside));
    say(format_args!("repeats dropped  {}", stat.repeats));
    say(format_args!("expired          {}", stat.expired));
    say(format_args!("damaged          {}", stat.damaged));
    for reader in &stat.readers {
        let Backlog { stream, reader, unconfirmed, confirmed_by } = reader;
        let by = match confirmed_by {
            ConfirmedBy::Receipt => "receipt",
            ConfirmedBy::Delivery => "delivery",
        };
        say(format_args!("{stream} → {reader}  {unconfirmed} not confirmed by {by}"));
    }
}

/// The configuration, or its errors on standard error.
fn load(file: &Path) -> Option<Loaded> {
    config::load(&layered(file)).map_err(|error| eprint_line(format_args!("{error}"))).ok()
}

fn fail(error: std::fmt::Arguments<'_>) -> Exit {
    eprint_line(format_args!("error: {error}"));
    Exit::Failed
}

#[expect(clippy::print_stdout, reason = "the answer to a command")]
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "what a person must see, log or not")]
fn eprint_line(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}
