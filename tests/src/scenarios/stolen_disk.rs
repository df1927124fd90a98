//! A copy of all of the configuration and state folders: with the seal key in a credential it yields neither a reading
//! nor a key; with the key in a file it yields all of them, and the doctor says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use at_protocol::crypto::Ed25519Secret;
use at_protocol::keys::AtKeys;
use atedge_service::files::write_private;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::broker::Broker;
use crate::canary::Canaries;
use crate::gateway::{CLIENT, Gateway, gateway_town, mqtt_tables};
use crate::process::{Process, program};
use crate::publisher::Publisher;
use crate::random::Random;
use crate::scenario::Run;
use crate::town::Town;

/// Readings before and after the key has moved into a credential.
const READINGS: u64 = 20;
/// What the service manager calls the seal key.
const CREDENTIAL: &str = "atedge-agent.seal";

/// Steals the disk twice.
///
/// # Errors
/// The copy yields what it must not, or not what it must, or somebody says otherwise.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut town = gateway_town(&run.folder)?;
    // What is captured stays on the disk.
    town.nodes[0].kill()?;
    let mut random = run.random();
    let mut canaries = Canaries::default();
    let mut broker = Broker::start(&run.folder, CLIENT)?;
    let gateway = Gateway::new(&town, &mqtt_tables(&broker.address))?;
    let state = town.folder.join("agent");
    move_in(&gateway, &town, &mut random, &mut canaries)?;

    let agent = Process::start_ready("agent", &mut gateway.run(), &town.folder)?;
    let mut devices = Publisher::connect(broker.address, "devices")?;
    capture(&mut broker, &mut devices, 0, &mut random, &mut canaries)?;
    agent.kill()?;
    let seal_key = fs::read(state.join("seal.key"))?;
    ensure!(!state.join("seal.check").exists(), "there was no credential");
    let copy = steal(&town, &run.subfolder("with-file")?)?;
    ensure!(
        canaries.found(&copy.0)?.is_empty(),
        "in clear beside a key file: {:?}",
        canaries.found(&copy.0)?
    );
    ensure!(exported(&copy, None)? == READINGS, "the copy of a disk with its key is not readable");
    ensure!(says(&copy, None, "seal key")?.contains("no protection against theft"), "the doctor is too kind");
    let plain = copy.0.join("gw.atKeys");
    ensure!(keys_exported(&copy, None, &plain)?.status.success(), "the copied keys are not readable");
    ensure!(
        canaries.found(&copy.0)?.iter().any(|found| found.starts_with("self key")),
        "the search finds nothing"
    );

    // The service manager passes credentials in memory that no disk has.
    let memory = tempfile::tempdir_in("/dev/shm")?;
    let credential: Vec<u8> = (0..4).flat_map(|_| random.below(u64::MAX).to_le_bytes()).collect();
    fs::write(memory.path().join(CREDENTIAL), &credential)?;
    canaries.add("seal key", &credential)?;
    canaries.add("former seal key", &seal_key)?;
    let passed = Some(memory.path());
    let agent = Process::start_ready("agent", with(&mut gateway.run(), passed), &town.folder)?;
    broker.until("the agent again", |view| view.subscribed)?;
    capture(&mut broker, &mut devices, READINGS, &mut random, &mut canaries)?;
    agent.kill()?;
    let copy = steal(&town, &run.subfolder("with-credential")?)?;
    let found = canaries.found(&copy.0)?;
    ensure!(found.is_empty(), "the copy yields {found:?}");
    let refused = queue(&copy, None)?;
    ensure!(
        !refused.status.success() && complaint(&refused).contains("was not passed"),
        "{}",
        complaint(&refused)
    );
    let refused = keys_exported(&copy, None, &copy.0.join("gw.atKeys"))?;
    ensure!(
        !refused.status.success() && complaint(&refused).contains("was not passed"),
        "{}",
        complaint(&refused)
    );
    let said = says(&copy, None, "seal key")?;
    ensure!(!said.contains("no protection") && !said.is_empty(), "the doctor says {said}");
    let another = fs::read(memory.path().join(CREDENTIAL))?.iter().map(|byte| byte ^ 1).collect::<Vec<_>>();
    let other = tempfile::tempdir_in("/dev/shm")?;
    fs::write(other.path().join(CREDENTIAL), another)?;
    let mut stranger = gateway.run();
    let refused = with(&mut stranger, Some(other.path())).output()?;
    ensure!(
        !refused.status.success() && complaint(&refused).contains("is not the one"),
        "{}",
        complaint(&refused)
    );

    // For its owner nothing is lost.
    let readings = exported(&copy, passed)?;
    ensure!(readings == 2 * READINGS, "of {} readings {readings} are left", 2 * READINGS);
    ensure!(
        keys_exported(&copy, passed, &plain.with_file_name("again"))?.status.success(),
        "the keys are lost"
    );
    run.note("readings", readings);
    Ok(())
}

/// Has the gateway's keys lie in its state folder, beside a key of its own, plain both; they are looked for.
fn move_in(gateway: &Gateway, town: &Town, random: &mut Random, canaries: &mut Canaries) -> Result<()> {
    let text = fs::read_to_string(gateway.take_keys_in(town)?)?;
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(std::array::from_fn(|_| random.below(256) as u8));
    let identity = Ed25519Secret::from_seed(&seed).to_pem();
    write_private(&gateway.state().join("identity.pem"), identity.as_bytes())?;
    let keys = AtKeys::parse(&text)?;
    for (name, key) in [("pkam key", &keys.pkam), ("encryption key", &keys.encryption)] {
        let der = STANDARD.decode(key.to_pkcs8_base64().as_bytes())?;
        // The first half of it names the algorithm and has the modulus, which is public.
        canaries.add_pieces(name, &der[der.len() / 3..])?;
    }
    canaries.add("self key", &STANDARD.decode(keys.self_key.to_base64().as_bytes())?)?;
    let fields: serde_json::Value = serde_json::from_str(&text)?;
    for (name, value) in fields.as_object().context("an object")? {
        let value = value.as_str().context("a text")?;
        if value.len() > 24 && !name.contains("Public") && name != "enrollmentId" {
            canaries.add_pieces(name, value.as_bytes())?;
        }
    }
    canaries.add("identity", &*seed)
}

/// Has readings captured, from number `from` on, which are looked for.
fn capture(
    broker: &mut Broker,
    devices: &mut Publisher,
    from: u64,
    random: &mut Random,
    canaries: &mut Canaries,
) -> Result<()> {
    broker.until("the agent's subscription", |view| view.subscribed)?;
    let before = broker.view.acknowledged().len() as u64;
    let mut messages = Vec::new();
    for number in from..from + READINGS {
        let value = format!("canary {:016x}", random.below(u64::MAX));
        canaries.add("reading", value.as_bytes())?;
        messages.push((format!("plain/plain1/{number}"), format!("{{\"n\":\"{value}\"}}")));
    }
    devices.publish(&messages)?;
    broker.until("all acknowledgements", |view| view.acknowledged().len() as u64 >= before + READINGS)
}

/// What was stolen: its folder, with the configuration and the state.
struct Copy(PathBuf);

impl Copy {
    fn config(&self) -> PathBuf {
        self.0.join("agent.toml")
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}

fn steal(town: &Town, to: &Path) -> Result<Copy> {
    let copy = Copy(to.to_owned());
    let state = town.folder.join("agent");
    copy_all(&state, &copy.state())?;
    let settings = fs::read_to_string(town.folder.join("agent.toml"))?;
    let (from, to) = (state.to_str().context("UTF-8")?.to_owned(), copy.state());
    fs::write(copy.config(), settings.replace(&from, to.to_str().context("UTF-8")?))?;
    Ok(copy)
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()? {
            kind if kind.is_dir() => copy_all(&path, &target)?,
            kind if kind.is_file() => drop(fs::copy(&path, &target)?),
            // A socket.
            _ => {}
        }
    }
    Ok(())
}

fn with<'a>(command: &'a mut Command, credentials: Option<&Path>) -> &'a mut Command {
    match credentials {
        Some(folder) => command.env("CREDENTIALS_DIRECTORY", folder),
        None => command.env_remove("CREDENTIALS_DIRECTORY"),
    }
}

fn asked(copy: &Copy, credentials: Option<&Path>, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(program("atedge-agent")?);
    command.args(arguments).arg("--state").arg(copy.state());
    Ok(with(&mut command, credentials).output()?)
}

fn queue(copy: &Copy, credentials: Option<&Path>) -> Result<Output> {
    asked(copy, credentials, &["queue", "export"])
}

/// How many readings the queue yields.
fn exported(copy: &Copy, credentials: Option<&Path>) -> Result<u64> {
    let output = queue(copy, credentials)?;
    let text = String::from_utf8(output.stdout.clone())?;
    ensure!(output.status.success(), "{}", complaint(&output));
    Ok(text.lines().filter(|line| line.contains("canary ")).count() as u64)
}

fn keys_exported(copy: &Copy, credentials: Option<&Path>, to: &Path) -> Result<Output> {
    let (config, to) = (copy.config(), to.to_str().context("UTF-8")?);
    asked(copy, credentials, &["keys", "export", "--config", config.to_str().context("UTF-8")?, "--to", to])
}

/// What the doctor says of something, with no agent running.
fn says(copy: &Copy, credentials: Option<&Path>, what: &str) -> Result<String> {
    let config = copy.config();
    let config = config.to_str().context("UTF-8")?;
    let output = asked(copy, credentials, &["doctor", "--json", "--offline", "--config", config])?;
    let said: serde_json::Value =
        serde_json::from_slice(&output.stdout).with_context(|| complaint(&output))?;
    let finding = said["findings"].as_array().into_iter().flatten().find(|finding| finding["what"] == what);
    Ok(finding.and_then(|finding| finding["says"].as_str()).unwrap_or_default().to_owned())
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
