//! `demo`: the whole road in one process, with nothing installed beforehand.
//!
//! Two servers and a directory in a folder that goes with the demo; a gateway with a sensor that publishes
//! over MQTT and a scale on a pseudo-terminal; an operator who reads what they say, on the other server, and
//! sends one command. At the end, every file of the servers is searched for what the devices said.

mod devices;
pub mod evidence;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use at_client::{
    CallState, Client, ClientConfig, ClientTls, Dialer, Directory, Envelopes, MonitorConfig, Onboarding,
    Payload, Trust,
};
use at_protocol::verb::{Notify, NotifyList, Verb};
use at_protocol::{AtSign, Metadata};
use atedge_adapters::sim::Scale;
use atedge_agent::run::Agent;
use atedge_service::{Exit, stop_signal};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::cmd::{Order, fresh_key, say_state};
use crate::output::Output;
use crate::reader::Reader;
use crate::town::Town;
use crate::watch::{now, send_receipts, show_readings};

const NAMESPACE: &str = "plant7";
const GATEWAY: &str = "@plant7gw1";
const OPERATOR: &str = "@plant7ops";
/// How long the last readings may take to arrive once the devices are silent.
const ARRIVAL: Duration = Duration::from_secs(30);
/// How long the command may take.
const COMMAND: Duration = Duration::from_secs(20);

/// What the operator has seen.
#[derive(Debug, Default)]
struct Received {
    readings: u64,
    duplicates: u64,
}

/// What the devices did.
struct Devices {
    tasks: JoinSet<Result<Sent>>,
    /// Payloads of the sensor as they were published.
    copies: mpsc::Receiver<String>,
    /// Silences them.
    quiet: CancellationToken,
}

impl Devices {
    /// Silences them; until when their last readings may arrive.
    fn fall_silent(&self, output: Output) -> Result<Instant> {
        self.quiet.cancel();
        output.remark(|| {
            "the devices fall silent, which the gateway says of the scale; their last readings arrive"
                .to_owned()
        })?;
        Ok(Instant::now() + ARRIVAL)
    }
}

/// What one device did.
#[derive(Default)]
struct Sent {
    readings: u64,
    commands: Vec<String>,
    /// The scale stays on its line, silent, until the gateway has stopped.
    scale: Option<Scale>,
}

/// Runs the demo and prints what happens.
///
/// # Errors
/// Something of it did not work at all. A demo that worked and did not prove its point ends in
/// [`Exit::Failed`].
pub async fn run(args: cli::Demo) -> Result<Exit> {
    let output = Output::new(args.json);
    let folder = tempfile::tempdir().context("make a folder for the town")?;
    let folder = folder.path();
    let stop = stop_signal()?;
    let town_stop = CancellationToken::new();
    let gateway: AtSign = GATEWAY.parse()?;
    let operator: AtSign = OPERATOR.parse()?;

    output.remark(|| {
        format!(
            "a town in {}: a directory, a server for {gateway}, another for {operator}, and a registrar that both \
             trust",
            folder.display()
        )
    })?;
    let town = Town::start(
        &folder.join("town"),
        &[vec![gateway.clone()], vec![operator.clone()]],
        None,
        town_stop.clone(),
    )
    .await?;
    let gateway_client = activate(&town, &gateway, folder, output).await?;
    let operator_client = activate(&town, &operator, folder, output).await?;

    let canaries = [format!("canary-{}", fresh_key()?), format!("canary-{}", fresh_key()?)];
    let scale = Scale::new()?;
    let listen = free_address()?;
    let agent_stop = CancellationToken::new();
    let config = write_config(folder, &town, listen, scale.path())?;
    let loaded = atedge_agent::config::load(std::slice::from_ref(&config))?;
    let state = folder.join("agent");
    let socket = atedge_agent::control::place(&state, None);
    let agent = Agent { loaded, config, state, hangup: None, socket };
    let mut agent = tokio::spawn(agent.run(agent_stop.clone()));

    output.remark(|| {
        format!("the gateway runs: a sensor publishes to {listen}, a scale is at {}", scale.path().display())
    })?;
    let mut devices = start_devices(listen, scale, &canaries);
    let until = Instant::now() + args.period;
    let mut received = Received::default();
    let told = tokio::select! {
        told = operate(&operator_client, &gateway, &mut devices, until, &stop, &mut received, output) => told,
        ended = &mut agent => {
            ended.context("the gateway")??;
            anyhow::bail!("the gateway stopped by itself");
        }
    };
    let Told { sent, commands_done } = told?;
    if args.unencrypted {
        say_in_the_clear(&gateway_client, &operator, &mut devices.copies).await?;
    }

    // Before anything is purged: agent and servers still run, and nothing was removed.
    let held = held_for(&operator_client).await?;
    let evidence =
        evidence::search(&[&folder.join("town")], &canaries).context("search the servers' files")?;
    let plaintext = !evidence.hits.is_empty();
    let peers = town.peers();
    output.remark(|| {
        let shared = if peers > 0 { "share one connection for all atSigns" } else { "were NOT connected" };
        format!("the servers know each other's keys by signed records, and {shared}")
    })?;
    output.remark(|| format!("what the operator's server holds of one reading: {held}"))?;
    for (path, form) in &evidence.hits {
        output.remark(|| format!("found in {form}: {}", path.display()))?;
    }
    agent_stop.cancel();
    agent.await.context("the gateway")??;
    town_stop.cancel();
    town.finished().await;

    let good = sent.readings == received.readings
        && received.readings > 0
        && received.duplicates == 0
        && commands_done > 0
        && peers > 0
        && !plaintext;
    output.say(
        || {
            format!(
                "{} readings sent, {} received, {} twice; {commands_done} command done.\n\
                 {} files with {} bytes on the servers and the directory were searched for {} words of the readings, \
                 as they are, in hex and in base64: {}.",
                sent.readings,
                received.readings,
                received.duplicates,
                evidence.files,
                evidence.bytes,
                canaries.len(),
                if plaintext { "they were FOUND" } else { "none was found" },
            )
        },
        || {
            json!({
                "readings_sent": sent.readings,
                "readings_received": received.readings,
                "duplicates": received.duplicates,
                "commands_done": commands_done,
                "plaintext_on_servers": plaintext,
                "files_searched": evidence.files,
                "bytes_searched": evidence.bytes,
                "canaries": canaries.len(),
                "peers": peers,
            })
        },
    )?;
    Ok(if good { Exit::Done } else { Exit::Failed })
}

async fn activate(town: &Town, atsign: &AtSign, folder: &Path, output: Output) -> Result<Client> {
    let (_, resident) =
        town.residents().find(|(name, _)| *name == atsign).context("everybody lives in the town")?;
    let tls = ClientTls::new(&Trust::Only(town.ca().to_owned()), None)?;
    let directory = Arc::new(Directory::new(town.directory(), tls.clone()));
    let dialer = Dialer::from(tls);
    let path = key_file(folder, atsign);
    let onboarding =
        Onboarding { atsign, secret: &resident.cram, keys: &path, directory: &directory, dialer: &dialer };
    let keys = Arc::new(onboarding.run(|_| ()).await?);
    output.remark(|| format!("{atsign} is activated"))?;
    Ok(Client::new(ClientConfig { atsign: atsign.clone(), keys, directory, dialer }))
}

fn key_file(folder: &Path, atsign: &AtSign) -> PathBuf {
    folder.join(format!("{}.atKeys", atsign.as_str()))
}

/// An address that was free a moment ago: the gateway's configuration names its port.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?)
}

/// Writes the gateway's configuration, as its owner would.
fn write_config(folder: &Path, town: &Town, listen: SocketAddr, port: &Path) -> Result<PathBuf> {
    let keys = key_file(folder, &GATEWAY.parse()?);
    let text = format!(
        r#"schema = 1

[gateway]
atsign    = "{GATEWAY}"
keys      = "file:{keys}"
directory = "{directory}"
registrar = "{registrar}"
ca        = "{ca}"
namespace = "{NAMESPACE}"

[adapter.shop]
type   = "mqtt"
listen = "{listen}"
[adapter.shop.route.env]
topic  = "factory/{{dev}}/env"
device = "{{dev}}"
stream = "process"
decode = {{ as = "json" }}

[adapter.scale]
type    = "serial"
port    = "{port}"
device  = "scale"
stream  = "weights"
framing = {{ kind = "line", ending = "crlf", max = 256 }}
decode  = {{ as = "regex", pattern = '^(?<gross>[+-][0-9.]+) kg (?<batch>\S+)$', types = {{ gross = "f64" }} }}
poll    = {{ send = "P\r\n", every = "200ms" }}

[stream.process]
to    = ["{OPERATOR}"]
batch = {{ records = 50, bytes = "16KiB", linger = "500ms" }}
[stream.weights]
to    = ["{OPERATOR}"]
batch = {{ records = 50, bytes = "16KiB", linger = "500ms" }}

[command."oven.setpoint"]
allow   = ["{OPERATOR}"]
args    = {{ value = {{ type = "f64", min = 30, max = 250 }} }}
do      = {{ publish = {{ topic = "{topic}", payload = "{{value}}" }} }}
adapter = "shop"
expires = "2m"
signed  = false
"#,
        keys = keys.display(),
        directory = town.directory(),
        registrar = town.registrar(),
        ca = town.ca().display(),
        port = port.display(),
        topic = devices::COMMAND_TOPIC,
    );
    let path = folder.join("agent.toml");
    std::fs::write(&path, text).context("write the gateway's configuration")?;
    Ok(path)
}

fn start_devices(listen: SocketAddr, scale: Scale, canaries: &[String; 2]) -> Devices {
    let quiet = CancellationToken::new();
    let (copy, copies) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    let (in_air, on_scale) = canaries.clone().into();
    let stop = quiet.clone();
    tasks.spawn(async move {
        let sensed = devices::sense(listen, in_air, copy, stop).await?;
        Ok(Sent { readings: sensed.acknowledged, commands: sensed.commands, scale: None })
    });
    let stop = quiet.clone();
    tasks.spawn(async move {
        let mut scale = scale;
        let readings = devices::weigh(&mut scale, on_scale, stop).await?;
        Ok(Sent { readings, commands: Vec::new(), scale: Some(scale) })
    });
    Devices { tasks, copies, quiet }
}

/// What the operator saw to.
struct Told {
    sent: Sent,
    commands_done: u64,
}

/// Reads until all that was sent has arrived, and sends one command meanwhile.
async fn operate(
    client: &Client,
    gateway: &AtSign,
    devices: &mut Devices,
    until: Instant,
    stop: &CancellationToken,
    received: &mut Received,
    output: Output,
) -> Result<Told> {
    let mut monitor =
        client.monitor(MonitorConfig { regex: Some(r"\.tel\.".to_owned()), ..MonitorConfig::default() });
    let mut reader = Reader::default();
    let envelopes = Envelopes::new(client.clone(), None, None);
    let mut confirm = interval(Duration::from_secs(1));
    confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let order = Order {
        gateway: gateway.clone(),
        namespace: NAMESPACE.to_owned(),
        device: "oven".to_owned(),
        command: "setpoint".to_owned(),
        arguments: Map::from_iter([("value".to_owned(), json!(185))]),
        wait: COMMAND,
        key: fresh_key()?,
    };
    let mut commanding = Box::pin(order.send(client, |state| say_state(output, &order, state)));
    let mut commands_done = None;
    let mut sent = Sent::default();
    let mut deadline = until;
    loop {
        let silent = devices.tasks.is_empty();
        if silent && commands_done.is_some() && received.readings >= sent.readings {
            break;
        }
        tokio::select! {
            incoming = monitor.next() => {
                let incoming = incoming?;
                if let Payload::Opened(plain) = &incoming.payload
                    && let Some(opened) = reader.take(&incoming.from, incoming.name.as_str(), plain, now())
                {
                    show_readings(&incoming, &opened, output)?;
                    let twice = opened.duplicate.iter().filter(|twice| **twice).count() as u64;
                    received.duplicates += twice;
                    received.readings += opened.duplicate.len() as u64 - twice;
                }
            }
            // The first reading has come: the gateway is there to be commanded.
            state = &mut commanding, if commands_done.is_none() && received.readings > 0 => {
                commands_done = Some(u64::from(matches!(state?, Some(CallState::Done { .. }))));
            }
            Some(ended) = devices.tasks.join_next() => {
                let device = ended.context("a device")??;
                sent.readings += device.readings;
                sent.commands.extend(device.commands);
                sent.scale = sent.scale.or(device.scale);
            }
            _ = confirm.tick() => send_receipts(envelopes.clone(), reader.receipts(now())).await,
            () = stop.cancelled(), if !devices.quiet.is_cancelled() => {
                deadline = devices.fall_silent(output)?;
            }
            () = sleep_until(deadline) => {
                if devices.quiet.is_cancelled() {
                    break;
                }
                deadline = devices.fall_silent(output)?;
            }
        }
    }
    // Only a command that the device itself has seen is done.
    let commands_done =
        if sent.commands.iter().any(|command| command == "185") { commands_done.unwrap_or(0) } else { 0 };
    Ok(Told { sent, commands_done })
}

/// The search must be able to fail: what the sensor said goes over the servers once more, unsealed.
async fn say_in_the_clear(
    gateway: &Client,
    operator: &AtSign,
    copies: &mut mpsc::Receiver<String>,
) -> Result<()> {
    let text = copies.try_recv().context("the sensor said nothing")?;
    let name = format!("clear.{NAMESPACE}").parse()?;
    let notify = Notify {
        metadata: Metadata { is_encrypted: Some(false), ..Metadata::default() },
        ..Notify::of(operator.clone(), &name, gateway.atsign().clone(), Some(text))
    };
    gateway.ask(&Verb::Notify(Box::new(notify))).await?;
    Ok(())
}

/// The beginning of the value of one reading, as the operator's server holds it.
async fn held_for(operator: &Client) -> Result<String> {
    let list = NotifyList { regex: Some(r"\.tel\.".to_owned()), ..NotifyList::default() };
    let answer = operator.ask(&Verb::NotifyList(list)).await?;
    let held: Vec<Value> = serde_json::from_str(&answer).context("the server's list of notifications")?;
    let first = held.first().and_then(|frame| frame["value"].as_str()).unwrap_or_default();
    ensure!(!first.is_empty(), "the operator's server holds no reading");
    Ok(format!("{}…", first.chars().take(60).collect::<String>()))
}
