//! The commands for the person at the device, as processes: what they simulate, they find.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the message")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_atedge-agent");

/// A simulated device. Dropping it switches it off.
struct Device {
    process: Child,
    /// Where it says that it is.
    place: String,
}

impl Device {
    fn start(arguments: &[&str]) -> Self {
        let mut process =
            Command::new(AGENT).arg("sim").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut place = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut place).unwrap();
        Self { process, place: place.trim_end().to_owned() }
    }

    fn stop(mut self) {
        Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A configuration with this adapter, for a gateway that has no keys yet.
fn configured(folder: &Path, adapter: &str) -> String {
    let file = folder.join("agent.toml");
    let head = "schema = 1\n[gateway]\natsign = \"@gw\"\nkeys = \"file:none\"\ndirectory = \"d:1\"\nnamespace = \"n\"\n\
                [stream.process]\nto = [\"@ops\"]\n";
    std::fs::write(&file, format!("{head}{adapter}")).unwrap();
    file.display().to_string()
}

fn agent(arguments: &[&str]) -> Output {
    Command::new(AGENT).args(arguments).output().unwrap()
}

fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const UNITS: &str = "timeout = \"100ms\"\n[adapter.bus.unit.2]\ndevice = \"boiler\"\nstream = \"process\"\n\
                     addressing = \"plc\"\npoints = [{ name = \"t\", table = \"input\", address = 30001, type = \"i16\" }]\n\
                     [adapter.bus.unit.9]\ndevice = \"nobody\"\nstream = \"process\"\n\
                     points = [{ name = \"t\", table = \"input\", address = 0, type = \"i16\" }]\n";

/// Finds units 2 and 3, and looks into one.
fn found_and_looked_into(config: &str) {
    let scan = ["scan", "bus", "--units", "1-9", "--config", config];
    let found = answer(&agent(&[&scan[..], &["--json"]].concat()));
    let numbers: Vec<_> =
        found["units"].as_array().unwrap().iter().map(|unit| unit["unit"].clone()).collect();
    assert_eq!(numbers, [json!(2), json!(3)], "{found}");
    assert_eq!(
        (&found["units"][0]["is"], &found["units"][0]["device"]),
        (&json!("answers"), &json!("boiler"))
    );
    assert_eq!(found["silent"], json!([{ "unit": 9, "device": "nobody" }]));
    let said = agent(&scan);
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "unit 2    answers  (boiler)",
            "unit 3    answers  (not in the configuration)",
            "unit 9    does not answer  (nobody)",
        ]
    );
    assert!(said.stderr.is_empty(), "progress is for terminals");

    let peek = ["peek", "bus", "30003", "--unit", "2", "--table", "input", "--config", config];
    let looked = answer(&agent(&[&peek[..], &["--json"]].concat()));
    let float = looked["views"]
        .as_array()
        .unwrap()
        .iter()
        .find(|view| view["type"] == "f32" && view["order"] == "ABCD");
    let temperature = float.unwrap()["value"].as_f64().unwrap();
    assert!((10.0..30.0).contains(&temperature), "{looked}");
    assert_eq!(looked["address"], 2);
    let text = String::from_utf8(agent(&peek).stdout).unwrap();
    assert!(
        text.starts_with("unit 2, input register 2 on the wire, 2 of them\n") && text.contains("CDAB"),
        "{text}"
    );
}

#[test]
fn units_over_tcp_are_found_before_there_are_keys() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::start(&["modbus", "--listen", "127.0.0.1:0", "--units", "2-3"]);
    let adapter = format!("[adapter.bus]\ntype = \"modbus-tcp\"\nurl = \"{}\"\n{UNITS}", device.place);
    found_and_looked_into(&configured(folder.path(), &adapter));
    device.stop();
}

#[test]
fn units_on_a_serial_line_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("rs485").display().to_string();
    let device = Device::start(&["modbus", "--serial", &link, "--units", "2-3"]);
    assert_eq!(device.place, link);
    let adapter = format!("[adapter.bus]\ntype = \"modbus-rtu\"\nport = \"{link}\"\nbaud = 115200\n{UNITS}");
    let config = configured(folder.path(), &adapter);
    found_and_looked_into(&config);
    device.stop();
    assert!(!Path::new(&link).exists(), "the link goes with the device");
    let gone = agent(&["scan", "bus", "--units", "2", "--config", &config]);
    assert_eq!(gone.status.code(), Some(1));
    let why = String::from_utf8(gone.stderr).unwrap();
    assert!(why.contains("cannot open") && why.contains(&link), "{why}");
}

#[test]
fn mistakes_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = format!("[adapter.bus]\ntype = \"modbus-tcp\"\nurl = \"tcp://127.0.0.1:1\"\n{UNITS}");
    let config = configured(folder.path(), &adapter);
    for (arguments, code, says) in [
        (&["scan", "bos"][..], 2, "there is no adapter bos; expected one of: bus"),
        (&["scan", "bus", "--units", "9-2"], 2, "1-247"),
        (&["scan", "bus"], 1, "cannot open 127.0.0.1:1"),
        (&["peek", "bus", "7", "--unit", "2"], 2, "40001 to 49999"),
        (&["peek", "bus", "7"], 2, "--unit NUMBER"),
        (&["peek", "bus", "7", "--unit", "2", "--table", "register"], 2, "holding"),
    ] {
        let refused = agent(&[arguments, &["--config", &config]].concat());
        let why = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {why}");
        assert!(why.contains(says), "{arguments:?}: {why}");
    }
}

#[test]
fn a_scale_weighs_when_it_is_asked_and_ports_that_are_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("scale").display().to_string();
    let device = Device::start(&["serial", "--link", &link]);
    let mut port = std::fs::OpenOptions::new().read(true).write(true).open(&device.place).unwrap();
    Command::new("stty").args(["-F", &link, "raw", "-echo"]).status().unwrap();
    port.write_all(b"P\r\n").unwrap();
    let mut said = [0; 9];
    port.read_exact(&mut said).unwrap();
    assert!(said.starts_with(b"+") && said.ends_with(b" kg"), "{}", said.escape_ascii());
    device.stop();

    let adapter = format!(
        "[adapter.scale]\ntype = \"serial\"\nport = \"{link}\"\ndevice = \"scale\"\nstream = \"process\"\n\
         framing = {{ kind = \"line\", ending = \"crlf\" }}\ndecode = {{ as = \"text\" }}\n"
    );
    let config = configured(folder.path(), &adapter);
    let listed = answer(&agent(&["ports", "--json", "--config", &config]));
    assert_eq!(listed["missing"], json!([{ "adapter": "scale", "port": link }]));
    let text = String::from_utf8(agent(&["ports", "--config", &config]).stdout).unwrap();
    assert!(text.contains("adapter scale waits for it"), "{text}");
}
