//! The load program: what the atServer and the atDirectory cost, against limits that are measured in the same run.
//!
//! Every measurement starts a real `atedge-server` (or `atedge-directory`) and reads its processor time from the
//! kernel. Its limit is measured in turn with it: a bare TLS loop on the same runtime, SQLite alone on the same
//! disk, one signature checked, the same bytes over QUIC alone. Ratios are medians over rounds; absolute figures
//! are the machine's.

mod client;
mod curves;
mod directory;
mod fanout;
mod floor;
mod gateway;
mod ground;
mod hosted;
mod idle;
mod limits;
mod login;
mod lookup;
mod meter;
mod mqtt;
mod notify;
mod peers;
mod report;
mod start;
mod update;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use curves::Curve;
use report::Row;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Measure the atServer and the atDirectory against the limits of this machine
#[derive(Parser)]
#[command(name = "load", after_help = "Example: load all --json; load curves keys --long")]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// One JSON object a line
    #[arg(long, global = true)]
    json: bool,
    /// The large sizes: minutes instead of seconds
    #[arg(long, global = true)]
    long: bool,
}

#[derive(Subcommand)]
enum What {
    /// Everything below
    All,
    /// The limits alone, without a server
    Limits,
    /// Logins
    Login,
    /// Durable updates: pipelined, and one at a time
    Update,
    /// Look-ups of the tenant's own records
    Lookup,
    /// Notifications between two tenants
    Notify,
    /// One notification to many monitors
    Fanout,
    /// Memory of idle connections
    Idle,
    /// Memory and descriptors of idle atSigns
    Hosted,
    /// Time to the first answer
    Start,
    /// The directory: look-ups, cold clients, and what its names take
    Directory,
    /// Notifications between two servers; takes mosquitto
    Peers,
    /// The agent, against mosquitto; takes that, valgrind and strace
    Gateway {
        /// Which; all of it without
        which: Vec<gateway::Part>,
    },
    /// How costs grow
    Curves {
        /// Which; all of them without
        which: Vec<Curve>,
    },
    #[command(hide = true)]
    Floor(floor::Told),
    #[command(hide = true)]
    Far(peers::Told),
}

fn main() -> ExitCode {
    // Somebody else's provider cannot be installed yet.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

#[expect(clippy::print_stderr, reason = "a person reads it")]
fn complain(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

async fn run(cli: Cli) -> Result<()> {
    many_files()?;
    let (json, long) = (cli.json, cli.long);
    match cli.what {
        What::Floor(told) => floor::serve(told).await?,
        What::Far(told) => peers::serve(told).await?,
        What::Limits => tell(&limits::run(long).await?, json),
        What::Login => tell(&login::run(long).await?, json),
        What::Update => tell(&update::run(long).await?, json),
        What::Lookup => tell(&lookup::run(long).await?, json),
        What::Notify => tell(&notify::run(long).await?, json),
        What::Fanout => tell(&fanout::run(long).await?, json),
        What::Idle => tell(&idle::run(long).await?, json),
        What::Hosted => tell(&hosted::run(long).await?, json),
        What::Start => tell(&start::run(long).await?, json),
        What::Directory => tell(&directory::run(long).await?, json),
        What::Peers => tell(&peers::run(long).await?, json),
        What::Gateway { which } => {
            for part in if which.is_empty() { &gateway::Part::ALL } else { which.as_slice() } {
                tell(&part.run(long).await?, json);
            }
        }
        What::Curves { which } => {
            curves(if which.is_empty() { &Curve::ALL } else { &which }, json, long).await?
        }
        What::All => {
            tell(&login::run(long).await?, json);
            tell(&update::run(long).await?, json);
            tell(&lookup::run(long).await?, json);
            tell(&notify::run(long).await?, json);
            tell(&fanout::run(long).await?, json);
            tell(&idle::run(long).await?, json);
            tell(&hosted::run(long).await?, json);
            tell(&start::run(long).await?, json);
            tell(&directory::run(long).await?, json);
            tell(&peers::run(long).await?, json);
            curves(&Curve::ALL, json, long).await?;
        }
    }
    Ok(())
}

async fn curves(which: &[Curve], json: bool, long: bool) -> Result<()> {
    for curve in which {
        tell(&curve.run(long).await?, json);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "figures are what the program is for")]
fn tell(rows: &[Row], json: bool) {
    for row in rows {
        if json {
            println!("{}", row.json());
        } else {
            println!("{}", row.text());
        }
    }
}

/// As many descriptors as the system allows, here and in the servers that are started.
fn many_files() -> Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
