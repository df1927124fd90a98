//! `atedge`: the operator's tool.

use std::process::ExitCode;

use atedge_fleet::cli::Cli;
use atedge_service::{Exit, OneLine, init_tracing};
use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    // Somebody else's provider cannot be installed yet.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    init_tracing("warn");
    match atedge_fleet::run(Cli::parse()).await {
        Ok(exit) => exit.into(),
        Err(error) => {
            complain(&error);
            Exit::Failed.into()
        }
    }
}

#[expect(clippy::print_stderr, reason = "a person reads it")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {}", OneLine(error.as_ref()));
}
