//! Runs scenarios: whole towns of real processes. One JSON line each on standard output.

use std::process::ExitCode;

use anyhow::{Result, bail};
use atedge_tests::scenario::{Scenario, fresh_seed};
use atedge_tests::scenarios::ALL;
use clap::Parser;

/// Run scenarios, each in a folder of its own; the folder of one that fails is kept and named.
#[derive(Parser)]
#[command(name = "scenarios", after_help = "Example: scenarios gateway crash --seed 42 --long")]
struct Cli {
    /// Which group.
    group: String,
    /// Only these.
    names: Vec<String>,
    /// In full length.
    #[arg(long)]
    long: bool,
    /// Where all chance comes from; a new one each without.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    // Somebody else's provider cannot be installed yet.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stderr, reason = "a person reads it")]
fn complain(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "the scenario's line")]
fn run(cli: &Cli) -> Result<bool> {
    let group: Vec<&Scenario> = ALL.iter().filter(|scenario| scenario.group == cli.group).collect();
    if group.is_empty() {
        bail!("no group is called `{}`", cli.group);
    }
    if let Some(name) = cli.names.iter().find(|name| !group.iter().any(|known| known.name == *name)) {
        let known: Vec<&str> = group.iter().map(|scenario| scenario.name).collect();
        bail!("no scenario of `{}` is called `{name}`; there are {}", cli.group, known.join(", "));
    }
    let mut passed = true;
    for scenario in group {
        if !cli.names.is_empty() && !cli.names.iter().any(|name| name == scenario.name) {
            continue;
        }
        let seed = cli.seed.unwrap_or_else(fresh_seed);
        complain(&format!("-- {} (seed {seed})", scenario.name));
        let outcome = scenario.run(seed, cli.long)?;
        println!("{}", outcome.line);
        if let Some(logs) = outcome.logs() {
            passed = false;
            complain(&format!("   failed; its files and logs are in {}", logs.display()));
        }
    }
    Ok(passed)
}
