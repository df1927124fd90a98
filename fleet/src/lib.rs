//! The operator's tool: everyday atProtocol, commands to gateways, a private town, the demo.
//!
//! A file a command; [`cli`] is what people type.

pub mod cli;
pub mod connect;
pub mod demo;
pub mod key;
pub mod notify;
pub mod output;
pub mod record;

use anyhow::Result;
use atedge_service::Exit;

use cli::{Cli, Command};

/// Does what was typed.
///
/// # Errors
/// What failed, on what, and what to try.
pub async fn run(cli: Cli) -> Result<Exit> {
    match cli.command {
        Command::Put(args) => record::put(args).await,
        Command::Get(args) => record::get(args).await,
        Command::Delete(args) => record::delete(args).await,
        Command::Scan(args) => record::scan(args).await,
        Command::Notify(args) => notify::run(args).await,
        _ => anyhow::bail!("x"),
    }
}
