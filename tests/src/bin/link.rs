//! A network between namespaces with seeded impairments; see `atedge_tests::link`.

use std::fs::File;
use std::io::{Write, stdin, stdout};
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use atedge_tests::link::{Port, Switch, drive, open};
use clap::Parser;

/// Carry packets between TUN devices, delayed, lost, doubled, reordered, throttled or cut as asked.
///
/// Prints `ready` when the devices are there, to be moved to their namespaces. Reads commands, a line each,
/// and answers each with a line. At the end of its input it prints its counters and ends.
#[derive(Parser)]
#[command(
    name = "link",
    after_help = "Commands: one>two loss=3% delay=40ms | one<>two cut | *>two heal | counters\n\
                  Example: link --seed 7 one=tun1@10.77.1.0 two=tun2@10.77.2.0"
)]
struct Cli {
    /// Where all chance comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A name, its TUN device and the /24 network behind it, as one=tun1@10.77.1.0.
    #[arg(required = true)]
    ports: Vec<Port>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a person reads it")]
fn complain(text: &str) {
    eprintln!("{text}");
}

fn run(cli: Cli) -> Result<()> {
    ensure!(cli.ports.len() > 1, "a link has two ends at least");
    let mut plugs = open(&cli.ports)?;
    let mut switch = Switch::new(cli.ports, cli.seed);
    let mut out = stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    // Without a buffer: what has been read is not waited for.
    let commands = File::from(stdin().as_fd().try_clone_to_owned()?);
    drive(&mut switch, &mut plugs, commands, &mut out)?;
    writeln!(out, "{}", switch.counters())?;
    Ok(())
}
