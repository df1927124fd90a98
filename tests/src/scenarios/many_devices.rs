//! Fifty device atSigns in one process at one server, over QUIC and over TLS, side by side: what they cost, and
//! how soon they are back when the link was gone, when their address has changed, or when UDP passes no more.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::federation::Federation;
use crate::net::Host;
use crate::process::{Process, program};
use crate::scenario::{Figures, Run};

/// How many devices.
const MANY: usize = 50;
/// The last part of the address to which they move.
const ELSEWHERE: u8 = 3;
/// There and back: a mobile link.
const DELAY: &str = "clients<>server1 delay=40ms";

/// Fifty over QUIC, fifty over TLS.
///
/// # Errors
/// They do not come back, need more than one connection over QUIC, or there notice a change of their address.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let names: Vec<String> = (1..=MANY).map(|number| format!("@device{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for way in ["quic", "tls", "auto"] {
        run.progress(way);
        // A server of its own, whose memory is all theirs.
        let own =
            Run { folder: run.subfolder(way)?, long: run.long, seed: run.seed, figures: Figures::new() };
        let federation = Federation::on_shared_ports(&own, &[&names])?;
        federation.net.tell(DELAY)?;
        let devices = Devices::start(&own, &federation, way, &names)?;
        if way == "auto" {
            run.note("udp_blocked", lose_udp(&federation, devices)?);
            continue;
        }
        let figures = measure(&own, &federation, devices)?;
        run.note(way, figures.clone());
        if way == "quic" {
            ensure!(figures["connections"] == 1, "QUIC takes one connection, not {}", figures["connections"]);
            ensure!(figures["moved"]["signed_in_again"] == 0, "a change of address was noticed over QUIC");
        }
    }
    Ok(())
}

/// The devices of one process.
struct Devices {
    process: Process,
    /// What they said last.
    last: Value,
    /// Bytes on the link, and the server's memory in KiB, before they came.
    before: (u64, u64),
}

impl Devices {
    fn start(run: &Run, federation: &Federation, way: &str, names: &[&str]) -> Result<Self> {
        let before = (counted(federation, "bytes")?, federation.town.nodes[0].process()?.resident_kib()?);
        let mut command = federation.net.host("clients")?.command(&program("devices")?);
        command.args([way, &federation.town.directory.to_string()]).arg(&federation.town.ca);
        let keys = "../protocol/at-protocol/fixtures/python.atKeys";
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(keys)).args(names);
        let process = Process::start("devices", &mut command, &run.folder)?;
        Ok(Self { process, last: json!({ "listening": 0 }), before })
    }

    /// Reads on until `enough`, and gives how long that took.
    fn until(&mut self, enough: impl Fn(&Value) -> bool) -> Result<Duration> {
        let since = Instant::now();
        while !enough(&self.last) {
            let line = self.process.line()?.context("the devices ended; see devices.log")?;
            self.last = serde_json::from_str(&line)?;
        }
        Ok(since.elapsed())
    }

    /// Takes in what they say for so long.
    fn watch(&mut self, time: Duration) -> Result<()> {
        let since = Instant::now();
        while let Some(left) = time.checked_sub(since.elapsed()) {
            if let Ok(line) = self.process.line_within(left) {
                self.last = serde_json::from_str(&line.context("the devices ended; see devices.log")?)?;
            }
        }
        Ok(())
    }

    fn begun(&self) -> u64 {
        self.last["begun"].as_u64().unwrap_or_default()
    }
}

/// Of the packets between devices and server, both ways.
fn counted(federation: &Federation, what: &str) -> Result<u64> {
    let net = &federation.net;
    Ok(net.counter("clients>server1", what)? + net.counter("server1>clients", what)?)
}

fn all(last: &Value) -> bool {
    last["listening"] == MANY
}

/// The way that they have is closed to UDP: how long until all of them listen over TLS.
fn lose_udp(federation: &Federation, mut devices: Devices) -> Result<Value> {
    let host = federation.net.host("clients")?;
    devices.until(all)?;
    ensure!(devices.last["quic"] == 1, "they did not come over QUIC: {}", devices.last);
    host.block_udp()?;
    let again = |last: &Value| all(last) && last["begun"].as_u64() >= Some(2 * MANY as u64);
    let took = devices.until(again)?;
    let connections = tcp_connections(host)?;
    ensure!(connections == MANY as u64, "there are {connections} connections over TCP");
    Ok(json!({ "over_tls_after_ms": u64::try_from(took.as_millis())? }))
}

fn measure(run: &Run, federation: &Federation, mut devices: Devices) -> Result<Value> {
    let (net, host) = (&federation.net, federation.net.host("clients")?);
    let server = federation.town.nodes[0].process()?;
    let none = |last: &Value| last["listening"] == 0;
    let counted = |what: &str| counted(federation, what);
    let bytes = || counted("bytes");
    let (bytes_before, server_before) = devices.before;
    let signed_in = devices.until(all)?;
    let to_sign_in = bytes()? - bytes_before;
    let connections = match devices.last["quic"].as_u64() {
        Some(connections) if connections > 0 => connections,
        _ => tcp_connections(host)?,
    };
    // Nothing but signs of life, of which monitors send one in sixteen seconds; a missing answer is missed by then.
    let quiet = Duration::from_secs(if run.long { 60 } else { 20 });
    let (before, packets_before) = (bytes()?, counted("passed")?);
    devices.watch(quiet)?;
    let (quiet_bytes, packets) = (bytes()? - before, counted("passed")? - packets_before);
    let (memory, server_memory) = (devices.process.resident_kib()?, server.resident_kib()?);

    // The link is gone for long enough that everybody has noticed.
    let mut returned = Vec::new();
    for _ in 0..if run.long { 5 } else { 1 } {
        net.tell("clients<>* cut")?;
        devices.until(none)?;
        devices.watch(Duration::from_secs(if run.long { 60 } else { 5 }))?;
        net.tell("clients<>* heal")?;
        returned.push(u64::try_from(devices.until(all)?.as_millis())?);
        devices.watch(Duration::from_secs(5))?;
    }
    returned.sort_unstable();

    // Another address, while the link is there; the one before is gone for good.
    let before = devices.begun();
    host.move_to(host.other_address(ELSEWHERE))?;
    devices.watch(quiet)?;
    devices.until(all)?;
    let again = devices.begun() - before;
    ensure!(devices.last["listening"] == MANY, "not all listen in the end");
    devices.process.say("end")?;
    ensure!(devices.process.end()?.success(), "the devices did not end well; see devices.log");
    Ok(json!({
        "connections": connections,
        "signed_in_ms": u64::try_from(signed_in.as_millis())?,
        "bytes_to_sign_in": to_sign_in,
        "quiet": { "seconds": quiet.as_secs(), "bytes": quiet_bytes, "packets": packets },
        "resident_kib": memory,
        "server_grew_kib": server_memory.saturating_sub(server_before),
        "returned_ms": returned,
        "moved": { "signed_in_again": again },
    }))
}

/// How many connections of a host are established, as the kernel lists them.
fn tcp_connections(host: &Host) -> Result<u64> {
    let table = host.inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/tcp")?))?;
    let established = |line: &&str| line.split_whitespace().nth(3) == Some("01");
    Ok(table.lines().filter(established).count() as u64)
}
