//! The operator's tool: everyday atProtocol, commands to gateways, a private town, the demo.
//!
//! A file a command; [`cli`] is what people type.

pub mod cli;
pub mod cmd;
pub mod connect;
pub mod demo;
pub mod key;
pub mod notify;
pub mod onboard;
pub mod output;
pub mod reader;
pub mod record;
pub mod registrar;
pub mod state;
pub mod town;
pub mod watch;

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
        Command::Onboard(args) => onboard::run(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Cmd(args) => cmd::run(args).await,
        Command::Registrar(args) => registrar::run(args),
        Command::Town(args) => town::run(args).await,
        Command::Demo(args) => demo::run(args).await,
    }
}
