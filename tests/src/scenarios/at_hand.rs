//! What the person at the gateway asks for, with an agent that runs and without: status, tap, try, doctor, and what
//! Prometheus gets.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::broker::Broker;
use crate::gateway::{CLIENT, Gateway, READER, gateway_town, mqtt_tables};
use crate::process::{PATIENCE, Process};
use crate::publisher::Publisher;
use crate::scenario::Run;
use crate::town::free_address;

/// Asks all of it.
///
/// # Errors
/// Something is not said, or not true.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut town = gateway_town(&run.folder)?;
    let mut broker = Broker::start(&run.folder, CLIENT)?;
    let metrics = free_address()?;
    let tables = format!("{}[metrics]\nlisten = \"{metrics}\"\n", mqtt_tables(&broker.address));
    let mut gateway = Gateway::new(&town, &tables)?;
    let mut devices = Publisher::connect(broker.address, "devices")?;
    gateway.start()?;
    broker.until("the agent's subscription", |view| view.subscribed)?;

    let (code, doctor) = asked(gateway.ask("doctor", true).arg("--json"))?;
    ensure!(code == 0 && doctor["ok"] == true, "the doctor cries wolf: {doctor}");
    let verdicts = verdicts(&doctor);
    for what in ["agent", "configuration", "directory", "atServer", "certificate", "authentication"] {
        ensure!(verdicts.get(what).map(String::as_str) == Some("good"), "{what}: {doctor}");
    }
    // They lie outside of the state folder, so that nobody seals them.
    ensure!(verdicts.get("keys").map(String::as_str) == Some("note"), "{doctor}");

    let tap = Process::start(
        "tap",
        gateway.ask("tap", false).args(["plain1", "--json", "--count", "1"]),
        &town.folder,
    )?;
    // A tap shows what comes after it began; whatever comes before that is not shown.
    let mut published = 0;
    let line = loop {
        devices.publish(&[(format!("plain/plain1/{published}"), format!("{{\"n\":{published}}}"))])?;
        published += 1;
        if let Ok(line) = tap.line_within(std::time::Duration::from_millis(200)) {
            break line.context("the tap ended")?;
        }
    };
    let tapped: Value = serde_json::from_str(&line)?;
    ensure!(
        tapped["adapter"] == "shop" && tapped["device"] == "plain1" && tapped["points"][0]["n"] == "n",
        "{line}"
    );
    devices.publish(&[("own/own1/x".to_owned(), "nonsense".to_owned())])?;
    broker.until("all acknowledgements", |view| view.acknowledged().len() as u64 > published)?;

    let (code, status) = asked(gateway.ask("status", false).arg("--json"))?;
    let agent = &status["agent"];
    ensure!(code == 0 && agent["server"]["reached"] == "yes", "{status}");
    let shop = &agent["adapters"]["shop"];
    ensure!(shop["state"] == "degraded" && shop["kept"] == published && shop["refused"] == 1, "{shop}");
    ensure!(agent["queue"]["readers"][0]["reader"] == READER, "{status}");
    let page = scraped(metrics)?;
    for line in [
        format!("atedge_readings_total{{adapter=\"shop\",result=\"kept\"}} {published}"),
        "atedge_refusals_total{adapter=\"shop\",reason=\"decode\"} 1".to_owned(),
        "atedge_server_reached 1".to_owned(),
    ] {
        ensure!(page.lines().any(|known| known == line), "{line} is not in\n{page}");
    }

    gateway.stop()?;
    let (code, status) = asked(gateway.ask("status", false).arg("--json"))?;
    ensure!(code == 1 && status["running"] == false && status["queue"]["records"].is_u64(), "{status}");
    let mut command = gateway.ask("try", true);
    let attempt = Process::start("try", command.args(["shop", "--once", "--json"]), &run.folder)?;
    broker.until("the trial's subscription", |view| {
        view.subscribers.iter().any(|client| client.starts_with("atedge-try-"))
    })?;
    devices.publish(&[("plain/plain2/7".to_owned(), "{\"n\":7}".to_owned())])?;
    let line = attempt.line_within(PATIENCE)?.context("the trial ended")?;
    let tried: Value = serde_json::from_str(&line)?;
    ensure!(tried["raw"] == "{\\\"n\\\":7}" && tried["points"][0]["v"] == 7, "{line}");
    ensure!(tried["keys"][0] == "@ops:process.plain2.tel.plant7@gw", "{line}");

    town.nodes[0].kill()?;
    let (code, doctor) = asked(gateway.ask("doctor", true).arg("--json"))?;
    ensure!(code == 1 && verdicts_of(&doctor, "atServer") == "bad", "{doctor}");
    ensure!(
        verdicts_of(&doctor, "agent") == "note" && verdicts_of(&doctor, "directory") == "good",
        "{doctor}"
    );

    // What was tried was taken from nobody.
    town.nodes[0].start()?;
    gateway.start()?;
    let before = broker.view.acknowledged().len();
    broker.until("what was tried", |view| view.acknowledged().len() > before)?;
    run.note("readings", published);
    gateway.stop()
}

/// The exit code and the JSON that a command prints.
fn asked(command: &mut Command) -> Result<(i32, Value)> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_str(&text).with_context(|| format!("not JSON: {text:?}, {complaint}"))?;
    Ok((output.status.code().context("it was killed")?, json))
}

fn verdicts(doctor: &Value) -> BTreeMap<String, String> {
    let findings = doctor["findings"].as_array().into_iter().flatten();
    let verdict = |finding: &Value| {
        Some((finding["what"].as_str()?.to_owned(), finding["verdict"].as_str()?.to_owned()))
    };
    findings.filter_map(verdict).collect()
}

fn verdicts_of(doctor: &Value, what: &str) -> String {
    verdicts(doctor).remove(what).unwrap_or_default()
}

fn scraped(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: agent\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}
