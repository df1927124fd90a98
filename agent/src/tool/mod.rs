//! Commands for the person at the device: what there is to be read, and how it looks, which needs no key,
//! server or running agent; and what a running agent does, which it says at its [control socket](crate::control).

mod agent;
mod check;
mod claim;
mod doctor;
mod keys;
mod peek;
mod ports;
mod queue;
mod reload;
mod scan;
mod sim;
mod status;
mod tap;
mod try_once;

use std::collections::BTreeMap;
use std::fmt::{Arguments, Display};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use atedge_adapters::AdapterConfig;
use atedge_service::Exit;
use atedge_service::config::layered;
use clap::Args;

pub use agent::AgentArgs;
pub use check::Check;
pub use claim::Claim;
pub use doctor::Doctor;
pub use keys::Keys;
pub use peek::Peek;
pub use ports::Ports;
pub use queue::Queue;
pub use reload::Reload;
pub use scan::Scan;
pub use sim::Sim;
pub use status::Status;
pub use tap::Tap;
pub use try_once::Try;

use crate::config::{self, AgentConfig};

/// Where the adapters are configured.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration; the *.toml in the folder beside it that ends in .d belong to it.
    #[arg(long, value_name = "FILE", default_value = "/etc/atedge/agent.toml")]
    pub config: PathBuf,
}

impl ConfigArgs {
    fn exists(&self) -> bool {
        self.config.exists()
    }

    /// All of it, as far as that can be checked without keys.
    fn offline(&self) -> Result<AgentConfig, Complaint> {
        config::load_offline(&layered(&self.config))
            .map_err(|error| Complaint { text: error.to_string(), exit: Exit::Usage })
    }

    fn adapters(&self) -> Result<BTreeMap<String, AdapterConfig>, Complaint> {
        config::load_adapters(&layered(&self.config))
            .map_err(|error| Complaint { text: error.to_string(), exit: Exit::Usage })
    }

    fn adapter(&self, name: &str) -> Result<AdapterConfig, Complaint> {
        let mut adapters = self.adapters()?;
        adapters.remove(name).ok_or_else(|| {
            let known: Vec<_> = adapters.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there is none".to_owned() } else { known.join(", ") };
            Complaint::usage(format_args!("there is no adapter {name}; expected one of: {known}"))
        })
    }
}

/// What a command ends with when it cannot do what it was asked.
struct Complaint {
    text: String,
    exit: Exit,
}

impl Complaint {
    fn usage(what: impl Display) -> Self {
        Self { text: format!("error: {what}"), exit: Exit::Usage }
    }

    fn failed(what: impl Display) -> Self {
        Self { text: format!("error: {what}"), exit: Exit::Failed }
    }
}

/// Runs a command on a runtime of its own, and complains.
fn run(command: impl Future<Output = Result<Exit, Complaint>>) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(Complaint::failed(format_args!("cannot start the runtime: {error}"))),
    };
    ended.unwrap_or_else(|complaint| {
        complain(format_args!("{}", complaint.text));
        complaint.exit
    })
}

#[expect(clippy::print_stdout, reason = "the answer to a command")]
fn say(line: Arguments<'_>) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "what a person must see, log or not")]
fn complain(line: Arguments<'_>) {
    eprintln!("{line}");
}

/// How far long work has come: one line of a terminal that is written over, and nothing elsewhere.
struct Progress {
    on_terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { on_terminal: std::io::stderr().is_terminal() }
    }

    /// Where the work is now.
    fn at(&self, what: Arguments<'_>) {
        self.write(format_args!("\r\x1b[K{what}"));
    }

    /// Takes the line away.
    fn clear(&self) {
        self.write(format_args!("\r\x1b[K"));
    }

    fn write(&self, what: Arguments<'_>) {
        if self.on_terminal {
            let mut terminal = std::io::stderr().lock();
            // A terminal that has gone needs no progress.
            terminal.write_fmt(what).and_then(|()| terminal.flush()).ok();
        }
    }
}
