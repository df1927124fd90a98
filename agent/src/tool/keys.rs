//! `keys`: the gateway's keys, for whoever has to keep a copy of them.

use std::io::Write as _;
use std::path::PathBuf;

use at_protocol::AtSign;
use atedge_adapters::{DeviceName, SecretSource};
use atedge_service::Exit;
use atedge_service::files::create_private;
use clap::{Args, Subcommand};

use super::agent::StateArgs;
use super::{Complaint, ConfigArgs, run, say};
use crate::keys;
use crate::seal::{Place, Seal};

/// The keys of the atSigns that this gateway speaks for.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Write the keys as a plain .atKeys file, to be kept elsewhere: who has that file has the atSign.
    #[command(after_help = "Example: sudo atedge-agent keys export --to /run/gw.atKeys")]
    Export(ExportArgs),
}

/// Which keys, and where to.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    state: StateArgs,
    /// Those of this device, which has an atSign of its own; those of the gateway without.
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceName>,
    /// The new file, or `-` for standard output.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl Keys {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        let Self::Export(args) = self;
        run(async { args.export() })
    }
}

impl ExportArgs {
    fn export(&self) -> Result<Exit, Complaint> {
        let config = self.config.offline()?;
        let Some(name) = &self.device else {
            return self.write(&config.gateway.atsign, &config.gateway.keys);
        };
        let no_such =
            || Complaint::usage(format_args!("{name} has no atSign of its own: there is no [device.{name}]"));
        let device = config.device.get(name).ok_or_else(no_such)?;
        self.write(&device.atsign, &device.keys)
    }

    fn write(&self, atsign: &AtSign, source: &SecretSource) -> Result<Exit, Complaint> {
        let seal = Seal::look(Place::of(&self.state.state));
        let (keys, _) = keys::load(source, seal.as_ref().ok()).map_err(|error| match seal {
            Err(why) => Complaint::failed(format_args!("{error}: {why}")),
            Ok(_) => Complaint::failed(error),
        })?;
        let json = keys.to_json(atsign);
        if self.to.as_os_str() == "-" {
            let written = std::io::stdout().write_all(json.as_bytes());
            written.map_err(|error| Complaint::failed(format_args!("cannot write: {error}")))?;
            return Ok(Exit::Done);
        }
        let (to, shown) = (&self.to, self.to.display());
        create_private(to, json.as_bytes())
            .map_err(|error| Complaint::failed(format_args!("cannot write {shown}: {error}")))?;
        say(format_args!(
            "the keys of {atsign} are in {shown}, plain: keep that file where nobody else comes"
        ));
        Ok(Exit::Done)
    }
}
