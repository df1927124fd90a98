//! `try`: reads once through an adapter, and shows each step of the way that the reading would go.

mod read;

use std::time::Duration;

use atedge_adapters::AdapterConfig;
use atedge_adapters::serial::Holder;
use atedge_service::Exit;
use clap::Args;
use serde_json::{Value, json};

use self::read::{Tried, read};
use super::{Complaint, ConfigArgs, Progress, run, say};
use crate::config::AgentConfig;
use crate::outbox::Capture;
use crate::payload::{Batch, Boot, Lane, Record, name};
use crate::tap::Shown;

/// Read once through an adapter, and show what would become of it: raw, decoded, under which key, on the wire.
#[derive(Debug, Args)]
#[command(after_help = "Example: atedge-agent try scale1 --once\n\n\
    Nothing is stored, sent, or acknowledged to a device that would repeat it. The agent need not run, and must not \
    have the port; while it runs, `atedge-agent tap` shows what it reads. A broker is asked under another client \
    name, so that the agent's session is left alone. Registers of Modbus units are shown by `atedge-agent peek`.")]
pub struct Try {
    /// The adapter, by its name in the configuration.
    adapter: String,
    /// Read one reading and end: the only way there is.
    #[arg(long)]
    once: bool,
    /// How long to wait for it, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl Try {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        run(self.show())
    }

    async fn show(self) -> Result<Exit, Complaint> {
        let config = self.config.offline()?;
        let adapter = self.config.adapter(&self.adapter)?;
        if let Some(complaint) = self.held(&adapter) {
            return Err(complaint);
        }
        let progress = Progress::new();
        let told = |why: &str| progress.at(format_args!("{why}; trying again"));
        let tried = read(&self.adapter, adapter, &config, Duration::from_secs(self.wait), told).await;
        progress.clear();
        let Tried { raw, capture } = tried.map_err(|failed| {
            if let Some(raw) = failed.raw {
                say(format_args!("raw      {}", shown(&raw)));
            }
            Complaint::failed(format_args!("adapter {}: {}", self.adapter, failed.why))
        })?;
        self.print(raw.as_deref(), &capture, &config);
        Ok(Exit::Done)
    }

    /// Somebody else has the serial port.
    fn held(&self, adapter: &AdapterConfig) -> Option<Complaint> {
        let port = adapter.port()?;
        let holder = Holder::of(port)?;
        let cure = if holder.is_agent() {
            "`atedge-agent tap` shows what it reads; to try it here, stop it (`systemctl stop atedge-agent`)"
        } else {
            "end that first"
        };
        Some(Complaint::failed(format_args!("{} has {}: {cure}", holder, port.display())))
    }

    fn print(&self, raw: Option<&[u8]>, capture: &Capture, config: &AgentConfig) {
        let namespace = config.gateway.namespace.as_str();
        let key = name::telemetry(&capture.device, &capture.stream, namespace);
        let from = config.device.get(&capture.device).map_or(&config.gateway.atsign, |own| &own.atsign);
        let readers =
            config.stream.get(&capture.stream).map(|stream| stream.to.as_slice()).unwrap_or_default();
        let keys: Vec<String> = readers.iter().map(|reader| format!("{reader}:{key}{from}")).collect();
        let wire = batch(capture).to_json();
        let points: Vec<Shown> = capture.points.iter().map(Shown::from).collect();
        if self.json {
            let seen = json!({
                "raw": raw.map(|raw| raw.escape_ascii().to_string()), "device": capture.device, "stream": capture.stream,
                "points": points, "keys": keys,
                "payload": serde_json::from_str::<Value>(&wire).unwrap_or_default(), "bytes": wire.len(),
            });
            say(format_args!("{seen}"));
            return;
        }
        if let Some(raw) = raw {
            say(format_args!("raw      {}", shown(raw)));
        }
        let points: Vec<String> = points.iter().map(Shown::to_string).collect();
        say(format_args!("decoded  {}/{}  {}", capture.device, capture.stream, points.join("  ")));
        for key in keys {
            say(format_args!("key      {key}"));
        }
        say(format_args!("wire     {} bytes, which are sealed for each reader: {wire}", wire.len()));
        say(format_args!("Nothing was stored, and nothing was sent."));
    }
}

/// Bytes, readable.
fn shown(raw: &[u8]) -> String {
    format!("{} bytes: {}", raw.len(), raw.escape_ascii())
}

/// The batch that it would travel in, were it alone and the first.
fn batch(capture: &Capture) -> Batch {
    let lane = Lane { device: capture.device.clone(), stream: capture.stream.clone(), boot: Boot::new(0, 0) };
    let time_us = capture.own_time_us.unwrap_or(capture.taken.wall_us);
    let records = vec![Record { seq: 1, time_us, points: capture.points.clone() }];
    Batch { lane, clock: capture.taken.state, mono_us: capture.taken.mono_us, records, gaps: Vec::new() }
}
