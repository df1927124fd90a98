//! Modbus units that pymodbus plays, of which some answer late, wrongly or never: on a serial line and over TCP. Once
//! those are asked less often, the others have to keep their interval.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atedge_adapters::{Captured, Value};
use serde_json::{Value as Json, json};

use crate::field::{Cable, FieldAdapter};
use crate::process::{PATIENCE, Process};
use crate::scenario::Run;

/// How often each unit is asked.
const EVERY: Duration = Duration::from_millis(500);
/// How far the mean of a good unit's interval may be from that.
const SLACK: f64 = 0.1;
/// After so many failures a unit is asked less often, and how often then.
const AFTER: u32 = 2;
const RETRY: &str = "10s";

/// Over a serial line, then over TCP.
///
/// # Errors
/// A good unit does not keep its interval, or another's answer is taken for its own.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let folder = run.subfolder("rtu")?;
    let (port, far) = (folder.join("port"), folder.join("far"));
    let _cable = Cable::between(&port, &far)?;
    let _units = play(&folder, "rtu", &far.display().to_string())?;
    let line = json!({ "type": "modbus-rtu", "port": port, "parity": "none" });
    let serial = watch(run, line, &[1, 2], &[3, 4, 5, 9])?;
    run.note("serial", serial);

    let folder = run.subfolder("tcp")?;
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let _units = play(&folder, "tcp", &port.to_string())?;
    let socket = json!({ "type": "modbus-tcp", "url": format!("tcp://127.0.0.1:{port}") });
    let tcp = watch(run, socket, &[1, 2, 3, 4], &[5, 9])?;
    run.note("tcp", tcp);
    Ok(())
}

/// Has pymodbus play the units of the adapters' own tests, which say what each does.
fn play(folder: &Path, kind: &str, place: &str) -> Result<Process> {
    let python = std::env::var("ATEDGE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adapters/tests/field/units.py");
    let mut command = Command::new(python);
    command.arg(script).args([kind, place]);
    let units = Process::start("units", &mut command, folder)?;
    let said = units
        .line()?
        .context("there are no units; ATEDGE_PYTHON needs pymodbus, as by `tests/run gateway`")?;
    ensure!(said == "ready", "the units began with {said:?}");
    Ok(units)
}

/// Reads all of them, and gives how the good ones fared after the bad ones were found out.
fn watch(run: &Run, mut table: Json, good: &[u8], bad: &[u8]) -> Result<Json> {
    let unit = |number: &u8| {
        let point = json!({ "name": "number", "table": "holding", "address": 0, "type": "u16" });
        let every = format!("{}ms", EVERY.as_millis());
        let unit = json!({
            "device": format!("unit{number}"), "stream": "s", "interval": every, "points": [point],
        });
        (number.to_string(), unit)
    };
    table["unit"] = Json::Object(good.iter().chain(bad).map(unit).collect());
    table["timeout"] = json!("100ms");
    table["degrade"] = json!({ "after": AFTER, "retry_every": RETRY });
    let mut adapter = FieldAdapter::start(table)?;
    let turns_wanted = if run.long { 600 } else { 40 };
    let mut turns: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
    let mut faults: BTreeMap<String, BTreeMap<&str, u32>> = BTreeMap::new();
    let began = Instant::now();
    let mut found_out = None;
    let is_enough = |turns: &BTreeMap<String, Vec<Instant>>| {
        good.iter()
            .all(|number| turns.get(&format!("unit{number}")).is_some_and(|turns| turns.len() > turns_wanted))
    };
    while !is_enough(&turns) {
        ensure!(
            found_out.is_some() || began.elapsed() < PATIENCE,
            "the bad units are not found out: {faults:?}"
        );
        match adapter.next_within(PATIENCE)?.context("nothing comes any more")? {
            Captured::Reading { reading, .. } => {
                let device = reading.device.to_string();
                let number: i64 = device.trim_start_matches("unit").parse()?;
                let read = reading.points.first().map(|point| point.value.clone());
                ensure!(read == Some(Value::Integer(number)), "{device} was read as {read:?}");
                if found_out.is_some() {
                    turns.entry(device).or_default().push(Instant::now());
                }
            }
            Captured::Refused { device, why } => {
                let device = device.map(|device| device.to_string()).unwrap_or_default();
                *faults.entry(device).or_default().entry(why.kind()).or_default() += 1;
                let failures = |number: &u8| {
                    let of_unit = faults.get(&format!("unit{number}"));
                    of_unit.map_or(0, |kinds| {
                        kinds.iter().filter(|(kind, _)| **kind != "late").map(|(_, n)| *n).sum()
                    })
                };
                if found_out.is_none() && bad.iter().all(|number| failures(number) >= AFTER) {
                    found_out = Some(began.elapsed());
                }
            }
            Captured::Settled { .. }
            | Captured::SessionLost { .. }
            | Captured::Suppressed { .. }
            | Captured::Reached
            | Captured::Unreached { .. } => {}
        }
    }
    adapter.stop()?;

    let mut worst: f64 = 0.0;
    let mut longest = Duration::ZERO;
    for turns in turns.values() {
        let pairs = turns.windows(2).map(|pair| pair[1] - pair[0]);
        longest = longest.max(pairs.max().unwrap_or_default());
        let mean = (turns[turns.len() - 1] - turns[0]).as_secs_f64() / (turns.len() - 1) as f64;
        worst = worst.max((mean / EVERY.as_secs_f64() - 1.0).abs());
    }
    ensure!(worst <= SLACK, "a good unit was read every {:.0} % of its interval", 100.0 * (1.0 + worst));
    Ok(json!({
        "good": good.len(), "bad": bad.len(), "turns": turns_wanted,
        "found_out_after_ms": found_out.map(|after| after.as_millis() as u64),
        "interval_off_percent": (worst * 1000.0).round() / 10.0,
        "longest_interval_ms": longest.as_millis() as u64,
        "faults": faults,
    }))
}
