//! `atedge-agent`: the gateway's daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use atedge_agent::config::{self, Loaded};
use atedge_agent::run::Agent;
use atedge_agent::tool;
use atedge_service::{Exit, OneLine, config::layered, init_tracing, stop_signal};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// What `--version` says. A build that can be told to fail, for tests, says so.
const VERSION: &str = match cfg!(feature = "failpoints") {
    true => concat!(env!("CARGO_PKG_VERSION"), "+failpoints"),
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
        config: tool::ConfigArgs,
        #[command(flatten)]
        agent: tool::AgentArgs,
    },
    Reload(tool::Reload),
    Claim(tool::Claim),
    Status(tool::Status),
    Tap(tool::Tap),
    Try(tool::Try),
    Check(tool::Check),
    Doctor(tool::Doctor),
    Ports(tool::Ports),
    Scan(tool::Scan),
    Peek(tool::Peek),
    Sim(tool::Sim),
    #[command(subcommand)]
    Queue(tool::Queue),
    #[command(subcommand)]
    Keys(tool::Keys),
}

fn main() -> ExitCode {
    // Another provider may have been installed by whoever links us; one is enough.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let exit = match Cli::parse().command {
        What::Run { config, agent } => run(config.config, agent),
        What::Reload(reload) => reload.run(),
        What::Claim(claim) => claim.run(),
        What::Check(check) => check.run(),
        What::Doctor(doctor) => doctor.run(),
        What::Ports(ports) => ports.run(),
        What::Scan(scan) => scan.run(),
        What::Peek(peek) => peek.run(),
        What::Queue(queue) => queue.run(),
        What::Keys(keys) => keys.run(),
        What::Status(status) => status.run(),
        What::Tap(tap) => tap.run(),
        What::Try(attempt) => attempt.run(),
        What::Sim(sim) => sim.run(),
    };
    exit.into()
}

fn run(file: PathBuf, agent: tool::AgentArgs) -> Exit {
    let Some(loaded) = load(&file) else { return Exit::Usage };
    init_tracing("info");
    // One thread: a gateway has little to do at once, and memory to spare for nothing.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime");
    let ran = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let stop = stop_signal().context("listen for signals")?;
            let hangup = Some(signal(SignalKind::hangup()).context("listen for signals")?);
            let socket = agent.socket();
            Agent { loaded, config: file, state: agent.state.state, hangup, socket }.run(stop).await
        })
    });
    match ran {
        Ok(()) => Exit::Done,
        Err(error) => fail(format_args!("{}", OneLine(error.as_ref()))),
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

#[expect(clippy::print_stderr, reason = "what a person must see, log or not")]
fn eprint_line(line: std::fmt::Arguments<'_>) {
    eprintln!("{line}");
}
