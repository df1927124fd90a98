//! `ports`: which serial ports there are, what is plugged in, and who uses them.

use std::collections::BTreeMap;
use std::path::Path;

use atedge_adapters::AdapterConfig;
use atedge_adapters::serial::{Access, PortInfo, ports};
use atedge_service::Exit;
use clap::Args;
use serde_json::json;

use super::{Complaint, ConfigArgs, complain, run, say};

/// List serial ports: their names that stay, what is plugged in, and who uses them.
#[derive(Debug, Args)]
#[command(after_help = "Example: atedge-agent ports\n\n\
    Configure a port by its name under /dev/serial/by-id: ttyUSB0 may be another one after the next start. \
    No port is opened.")]
pub struct Ports {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Ports {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(async { self.list() })
    }

    fn list(&self) -> Result<Exit, Complaint> {
        // Ports are of interest before there is a configuration.
        let adapters = if self.config.exists() { self.config.adapters()? } else { BTreeMap::new() };
        let found = ports(Path::new("/"));
        let missing: Vec<_> = adapters
            .iter()
            .filter_map(|(name, adapter)| Some((name, adapter.port()?)))
            .filter(|(_, port)| !port.exists())
            .collect();
        if self.json {
            let ports: Vec<_> = found.iter().map(|port| as_json(port, &adapters)).collect();
            let missing: Vec<_> =
                missing.iter().map(|(name, port)| json!({ "adapter": name, "port": port })).collect();
            say(format_args!("{}", json!({ "ports": ports, "missing": missing })));
            return Ok(Exit::Done);
        }
        for port in &found {
            show(port, &adapters);
        }
        for (name, port) in missing {
            say(format_args!("{}\n    is not there; adapter {name} waits for it", port.display()));
        }
        if found.is_empty() {
            complain(format_args!(
                "there is no serial port. In a container it has to be passed in; on USB look whether `lsusb` has \
                 the converter, and `dmesg` a driver for it."
            ));
        }
        Ok(Exit::Done)
    }
}

/// The adapters that use a port.
fn users<'a>(
    port: &'a PortInfo,
    adapters: &'a BTreeMap<String, AdapterConfig>,
) -> impl Iterator<Item = &'a String> {
    let uses = |adapter: &AdapterConfig| adapter.port().is_some_and(|path| port.is_called(path));
    adapters.iter().filter(move |(_, adapter)| uses(adapter)).map(|(name, _)| name)
}

fn show(port: &PortInfo, adapters: &BTreeMap<String, AdapterConfig>) {
    say(format_args!("{}", port.best_name().display()));
    let others = port.stable.iter().skip(1).chain((!port.stable.is_empty()).then_some(&port.path));
    for other in others {
        say(format_args!("    also {}", other.display()));
    }
    if let Some(usb) = &port.usb {
        let serial =
            usb.serial.as_ref().map_or_else(String::new, |serial| format!(", serial number {serial}"));
        say(format_args!("    USB {}:{} {}{serial}", usb.vendor, usb.product, usb.names));
    }
    for name in users(port, adapters) {
        say(format_args!("    of adapter {name}"));
    }
    match &port.holder {
        Some(holder) => say(format_args!("    in use by {holder}")),
        None => say(format_args!("    free")),
    }
    if let Access::Denied { group } = &port.access {
        say(format_args!("    you may not open it{}", cure(group.as_deref())));
    }
}

/// What to do about a port that may not be opened. The agent's own user is in its groups by its unit file.
fn cure(group: Option<&str>) -> String {
    match group {
        Some(group) => format!(": `sudo usermod -aG {group} $USER`, and log in again"),
        None => ": its group may not either; see the udev rules".to_owned(),
    }
}

fn as_json(port: &PortInfo, adapters: &BTreeMap<String, AdapterConfig>) -> serde_json::Value {
    let usb = port.usb.as_ref().map(|usb| {
        json!({ "vendor": usb.vendor, "product": usb.product, "names": usb.names, "serial": usb.serial })
    });
    let holder = port.holder.as_ref().map(|holder| json!({ "process": holder.process, "name": holder.name }));
    let denied = match &port.access {
        Access::Granted => None,
        Access::Denied { group } => Some(json!({ "group": group })),
    };
    json!({
        "port": port.best_name(), "path": port.path, "stable": port.stable, "usb": usb,
        "adapters": users(port, adapters).collect::<Vec<_>>(), "holder": holder, "denied": denied,
    })
}
