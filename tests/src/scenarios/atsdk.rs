//! A client that we did not write: PyPI's `atsdk`, unchanged, in the tool's own town.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::broker::Broker;
use crate::gateway::{CLIENT, GATEWAY, Gateway, NAMESPACE, READER, mqtt_tables};
use crate::process::{Process, run as run_command};
use crate::publisher::Publisher;
use crate::scenario::Run;
use crate::town::Town;

const SDK: &str = "@sdk";
const VALUE: &str = "naïve: 1 + 1 = 2";

/// Records of all kinds in both directions, notifications in both, and telemetry read by the SDK.
///
/// # Errors
/// Something is not understood, or there is no atsdk.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let python = python()?;
    let town = Town::of_tool(&run.folder, &[SDK, GATEWAY, READER])?;
    for atsign in [SDK, GATEWAY, READER] {
        town.onboard(atsign)?;
    }
    let sdk = Sdk { python, town: &town };
    records(&sdk)?;
    notification_from_sdk(&sdk)?;
    telemetry_to_sdk(&sdk, &town)?;
    run.note("version", sdk.version()?);
    Ok(())
}

fn python() -> Result<PathBuf> {
    let python = std::env::var_os("ATEDGE_PYTHON").context(
        "a Python with atsdk is needed; type: python3 -m venv /tmp/atsdk && /tmp/atsdk/bin/pip install atsdk && \
         export ATEDGE_PYTHON=/tmp/atsdk/bin/python",
    )?;
    Ok(python.into())
}

/// Scripts around atsdk.
struct Sdk<'a> {
    python: PathBuf,
    town: &'a Town,
}

impl Sdk<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/atsdk/");
        command
            .arg(format!("{scripts}{}.py", arguments[0]))
            .args(&arguments[1..])
            .current_dir(&self.town.folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONUTF8", "1")
            .env("SSL_CERT_FILE", &self.town.ca)
            .env("HOME", self.town.home())
            .env("ATEDGE_DIRECTORY", format!("localhost:{}", self.town.directory.port()));
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = run_command("atsdk", &mut self.command(arguments), &self.town.folder)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "atsdk {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    fn version(&self) -> Result<String> {
        let code = "from importlib.metadata import version; print(version('atsdk'))";
        let mut command = Command::new(&self.python);
        let output = run_command("atsdk", command.args(["-c", code]), &self.town.folder)?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

fn records(sdk: &Sdk<'_>) -> Result<()> {
    let town = sdk.town;
    let tool = |arguments: &[&str]| -> Result<String> {
        let output = town.use_tool(arguments)?;
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    };
    sdk.run(&["put", SDK, READER, VALUE])?;
    for (who, key) in [(READER, "public:location.sdk@sdk"), (READER, "phone.sdk@sdk"), (SDK, "note.sdk")] {
        let read = tool(&["get", who, key])?;
        ensure!(read == VALUE, "the tool reads {read:?} as {who} from {key}");
    }
    let left = sdk.run(&["delete", SDK, READER])?;
    ensure!(left.trim_end().ends_with("[]"), "deleted by atsdk, and left: {left}");
    let gone = run_command("atedge", &mut town.tool(&["get", READER, "phone.sdk@sdk"])?, &town.folder)?;
    ensure!(gone.status.code() == Some(1), "a deleted record was read: {gone:?}");
    tool(&["put", READER, "public:location.tool", "first"])?;
    tool(&["put", READER, "@sdk:phone.tool", "second"])?;
    tool(&["put", SDK, "note.tool", "third"])?;
    let read = sdk.run(&["get", SDK, READER])?;
    ensure!(read.lines().collect::<Vec<_>>() == ["first", "second", "third"], "atsdk reads {read:?}");
    Ok(())
}

fn notification_from_sdk(sdk: &Sdk<'_>) -> Result<()> {
    let town = sdk.town;
    let mut command = town.tool(&["watch", READER, "--regex", "\\.sdk@", "--json"])?;
    let watch = Process::start("watch", &mut command, &town.folder)?;
    let first = watch.line()?.unwrap_or_default();
    ensure!(first.contains("\"watching\""), "atedge watch began with {first}");
    let sent = sdk.run(&["notify", SDK, READER, VALUE])?;
    let line = watch.line()?.context("atedge watch ended")?;
    let seen: Value = serde_json::from_str(&line)?;
    ensure!(seen["from"] == SDK && seen["value"] == VALUE, "atedge watch shows {line}");
    ensure!(seen["id"] == sent.trim(), "sent as {sent}, shown as {line}");
    Ok(())
}

fn telemetry_to_sdk(sdk: &Sdk<'_>, town: &Town) -> Result<()> {
    let broker = Broker::start(&town.folder, CLIENT)?;
    let mut gateway = Gateway::new(town, &mqtt_tables(&broker.address))?;
    gateway.start()?;
    let monitor = Process::start(
        "monitor",
        &mut sdk.command(&["monitor", READER, &format!("tel.{NAMESPACE}@"), "1"]),
        &town.folder,
    )?;
    devices(broker, |devices| devices.publish(&[("plain/boiler/1".into(), "{\"n\":41}".into())]))?;
    loop {
        let line = monitor.line()?.context("atsdk's monitor ended; see monitor.log")?;
        // atsdk says by itself when its monitor is up.
        let Ok(seen) = serde_json::from_str::<Value>(&line) else { continue };
        ensure!(seen["from"] == GATEWAY, "atsdk shows {line}");
        let text = seen["decryptedValue"].as_str().context("a decrypted value")?;
        let batch: Value = serde_json::from_str(text).with_context(|| format!("atsdk decrypted {text}"))?;
        ensure!(batch["atedge"] == 1 && batch["device"] == "boiler", "atsdk decrypted {text}");
        ensure!(batch["senml"][0]["n"] == "n" && batch["senml"][0]["v"] == 41.0, "atsdk decrypted {text}");
        return gateway.stop();
    }
}

fn devices(mut broker: Broker, publish: impl FnOnce(&mut Publisher) -> Result<()>) -> Result<()> {
    // Before the agent has subscribed, a broker has nobody to keep a publication for.
    broker.until("the agent's subscription", |view| view.subscribed)?;
    publish(&mut Publisher::connect(broker.address, "devices")?)?;
    broker.until("the acknowledgement", |view| !view.acknowledged().is_empty())
}
