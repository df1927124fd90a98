//! Devices with atSigns of their own beside one without: each speaks and answers as itself, over one connection, and one
//! that is not let in holds up nobody.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::broker::Broker;
use crate::gateway::{CLIENT, GATEWAY, Gateway, NAMESPACE, READER, mqtt_tables};
use crate::process::{PATIENCE, run as run_command};
use crate::publisher::Publisher;
use crate::queue::Listener;
use crate::scenario::Run;
use crate::town::{Setup, Town};

/// Devices, and who each of them is.
const DEVICES: [(&str, &str); 5] = [
    ("boiler", "@boiler07"),
    ("oven", "@oven07"),
    ("press", "@press07"),
    ("plain", GATEWAY),
    ("lathe", "@lathe07"),
];
/// Whose keys are those of another.
const BROKEN: &str = "lathe";
/// Readings of each device.
const READINGS: u64 = 10;
/// How long nobody answers who is not asked.
const SILENCE: &str = "2s";

/// See above.
///
/// # Errors
/// A reading comes from somebody else, an answer does not come, or there are more connections.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let mut hosted: Vec<&str> = DEVICES.iter().map(|(_, atsign)| *atsign).collect();
    hosted.push(READER);
    let setup = Setup { shared_ports: true, ..Setup::default() };
    let mut town = Town::with(&run.folder, &[&hosted], &setup)?;
    for atsign in &hosted {
        town.onboard(atsign)?;
    }
    let mut broker = Broker::start(&run.folder, CLIENT)?;
    let mut gateway = Gateway::new(&town, &tables(&town, &broker)?)?;
    let mut reader = Listener::start(&town, READER)?;
    let mut devices = Publisher::connect(broker.address, "devices")?;
    gateway.start()?;
    broker.until("the agent's subscription", |view| view.subscribed)?;
    publish(&mut devices, 0)?;
    come_from_themselves(&mut reader)?;

    let log = gateway.log()?;
    ensure!(log.contains("its readings wait, the others go on"), "nobody says that {BROKEN} is not let in");
    let status = asked(&gateway, "status")?;
    for (device, atsign) in DEVICES.iter().filter(|(_, atsign)| *atsign != GATEWAY) {
        let own = &status["agent"]["own"][device];
        let reached = if *device == BROKEN { "no" } else { "yes" };
        ensure!(own["atsign"] == *atsign && own["server"]["reached"] == reached, "{device}: {own}");
    }
    let doctor = asked(&gateway, "doctor")?;
    let findings = doctor["findings"].as_array().into_iter().flatten();
    let signed_in = findings.filter(|finding| finding["what"] == "device" && finding["verdict"] == "good");
    ensure!(signed_in.count() == DEVICES.len() - 2, "{doctor}");

    // Each is commanded as itself; the gateway does not answer for who has an atSign of its own.
    for (device, atsign) in [("boiler", "@boiler07"), ("oven", "@oven07"), ("plain", GATEWAY)] {
        ensure!(command(&town, atsign, device, "10s")? == Some("done".into()), "{atsign} does not obey");
    }
    for (device, atsign) in [("boiler", GATEWAY), ("plain", "@boiler07"), ("oven", "@boiler07")] {
        ensure!(command(&town, atsign, device, SILENCE)?.is_none(), "{atsign} answers for {device}");
    }

    let (udp, tcp) = sockets(gateway.process()?.id(), town.nodes[0].address().port())?;
    run.note("udp_sockets", udp);
    run.note("tcp_connections", tcp);
    run.note("agent_kib", gateway.process()?.resident_kib()?);
    ensure!(udp == 1 && tcp == 0, "{udp} sockets for QUIC, {tcp} connections of TCP");

    // What only a restart can change is refused, and said.
    let config = town.folder.join("agent.toml");
    let settings = fs::read_to_string(&config)?;
    fs::write(&config, settings.replace("[device.boiler]", "[device.press2]"))?;
    let refused = run_command("reload", &mut gateway.reload(), &town.folder)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("restart needed"), "{said}");

    // With its own keys the broken one catches up, after its server was away as well.
    fs::write(&config, settings.replace(&broken_keys(&town), &keys(&town, "@lathe07")))?;
    gateway.stop()?;
    town.nodes[0].kill()?;
    gateway.start()?;
    publish(&mut devices, READINGS)?;
    town.nodes[0].start()?;
    let mut missing: u64 = READINGS * (DEVICES.len() as u64 + 1);
    let mut lathe = 0;
    while missing > 0 {
        let line = reader.next(PATIENCE)?.with_context(|| format!("{missing} readings never came"))?;
        is_its_own(&line)?;
        lathe += u64::from(line["device"] == BROKEN);
        missing -= 1;
    }
    ensure!(lathe == 2 * READINGS, "{BROKEN} has caught up with {lathe} readings");
    run.note("readings", READINGS * 2 * DEVICES.len() as u64);
    gateway.stop()
}

fn publish(devices: &mut Publisher, from: u64) -> Result<()> {
    let mut messages = Vec::new();
    for number in from..from + READINGS {
        for (device, _) in DEVICES {
            messages.push((format!("plain/{device}/{number}"), format!("{{\"n\":{number}}}")));
        }
    }
    devices.publish(&messages)
}

/// All readings but the broken device's come, each from who it is about.
fn come_from_themselves(reader: &mut Listener) -> Result<()> {
    let mut came: BTreeMap<String, u64> = BTreeMap::new();
    while came.values().sum::<u64>() < READINGS * (DEVICES.len() as u64 - 1) {
        let line = reader.next(PATIENCE)?.with_context(|| format!("only {came:?} came"))?;
        is_its_own(&line)?;
        *came.entry(line["device"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    ensure!(!came.contains_key(BROKEN), "{BROKEN} has no keys, and speaks");
    Ok(())
}

fn is_its_own(line: &Value) -> Result<()> {
    let (device, from) = (line["device"].as_str(), line["gateway"].as_str());
    let right = DEVICES.iter().any(|(name, atsign)| device == Some(name) && from == Some(atsign));
    ensure!(right, "from somebody else: {line}");
    Ok(())
}

fn asked(gateway: &Gateway, verb: &str) -> Result<Value> {
    let output = gateway.ask(verb, verb == "doctor").arg("--json").output()?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The last state that the device says a command has; nothing if nobody answers for so long.
fn command(town: &Town, atsign: &str, device: &str, wait: &str) -> Result<Option<String>> {
    let name = format!("{device}.set");
    let mut command = town.tool(&["cmd", atsign, &name, "value=7", "--as", READER, "--json"])?;
    command.args(["--namespace", NAMESPACE, "--wait", wait]);
    let ended = run_command("cmd", &mut command, &town.folder)?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let states = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut states = states.filter_map(|line| Some(line["payload"]["state"].as_str()?.to_owned()));
    Ok(states.next_back())
}

/// Sockets for UDP of a process, and connections over TCP to a port.
fn sockets(process: u32, port: u16) -> Result<(usize, usize)> {
    let since = Instant::now();
    loop {
        let mut owned = Vec::new();
        for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            owned.extend(target.strip_prefix("socket:[").map(|inode| inode.trim_end_matches(']').to_owned()));
        }
        let lines = |table: &str| -> Result<Vec<Vec<String>>> {
            let text = fs::read_to_string(format!("/proc/{process}/net/{table}"))?;
            let split = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            // The tenth word of a line is the inode, the third the far end.
            let rows = text.lines().skip(1).map(split);
            Ok(rows.filter(|row| row.get(9).is_some_and(|inode| owned.contains(inode))).collect())
        };
        let udp = lines("udp")?.len() + lines("udp6")?.len();
        let far = format!(":{port:04X}");
        let tcp = [lines("tcp")?, lines("tcp6")?].concat();
        let tcp = tcp.iter().filter(|row| row[2].ends_with(&far)).count();
        // The race at first contact leaves a loser that takes a moment to go.
        if tcp == 0 || since.elapsed() > Duration::from_secs(10) {
            return Ok((udp, tcp));
        }
        std::thread::yield_now();
    }
}

fn keys(town: &Town, atsign: &str) -> String {
    format!("keys = \"file:{}\" # own", town.keys(atsign).display())
}

/// The keys of another.
fn broken_keys(town: &Town) -> String {
    format!("keys = \"file:{}\" # not its own", town.keys(READER).display())
}

fn tables(town: &Town, broker: &Broker) -> Result<String> {
    use std::fmt::Write as _;
    let mut tables = mqtt_tables(&broker.address);
    for (device, atsign) in DEVICES {
        if atsign != GATEWAY {
            let keys = if device == BROKEN { broken_keys(town) } else { keys(town, atsign) };
            writeln!(tables, "[device.{device}]\natsign = \"{atsign}\"\n{keys}")?;
        }
        writeln!(
            tables,
            "[command.\"{device}.set\"]\nallow = [\"{READER}\"]\nargs = {{ value = {{ type = \"i64\", min = 0, max = 9 }} }}\n\
             do = {{ publish = {{ topic = \"set/{device}\", payload = \"{{value}}\" }} }}\nadapter = \"shop\"\n\
             expires = \"2m\"\nsigned = false"
        )?;
    }
    Ok(tables)
}
