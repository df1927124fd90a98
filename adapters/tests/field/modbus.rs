//! Modbus units that are played by pymodbus, a stack that is not ours.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atedge_adapters::modbus::pdu::{Exception, Response, Table};
use atedge_adapters::modbus::rtu::Noise;
use atedge_adapters::modbus::{Fault, Probe, ProbeError, UnitId};
use atedge_adapters::{AdapterConfig, Captured, CommandError, Order, Reading, Refusal, Value, Verify};
use tempfile::TempDir;

use super::gateway::{Gateway, PATIENCE};
use super::mosquitto::free_port;

/// The units at work. Dropping it is switching them off.
struct Units(Child);

impl Units {
    fn start(kind: &str, port: &str) -> Self {
        let python = std::env::var("ATEDGE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field/units.py");
        let mut process = Command::new(&python)
            .arg(script)
            .args([kind, port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {python}: {error}; {HOW}"));
        let mut said = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "{python} cannot play Modbus units; {HOW}");
        Self(process)
    }
}

const HOW: &str = "these tests need a Python with pymodbus in ATEDGE_PYTHON: `python3 -m venv venv && \
                   venv/bin/pip install 'pymodbus~=3.16.1' pyserial`, or all of it by `tests/run unit`";

impl Drop for Units {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A serial line by socat. Dropping it is pulling the plug.
struct Cable(Child);

impl Cable {
    fn between(port: &Path, far: &Path) -> Self {
        let end = |path: &Path| format!("pty,raw,echo=0,link={}", path.display());
        let socat = Command::new("socat").args([end(port), end(far)]).spawn();
        let cable = Self(socat.unwrap_or_else(|error| {
            panic!("these tests need socat (apt-get install socat): {error}");
        }));
        let began = Instant::now();
        while !(port.exists() && far.exists()) {
            assert!(began.elapsed() < PATIENCE, "socat makes no line");
            std::thread::sleep(Duration::from_millis(5));
        }
        cable
    }

    /// A converter that passes on what comes over TCP to a line; it takes one connection.
    fn behind_converter(port: u16, far: &Path) -> Self {
        let line = format!("pty,raw,echo=0,link={}", far.display());
        let listen = format!("tcp-listen:{port},bind=127.0.0.1,reuseaddr");
        let cable = Self(Command::new("socat").args([line, listen]).spawn().expect("socat is needed"));
        let began = Instant::now();
        while !far.exists() {
            assert!(began.elapsed() < PATIENCE, "socat makes no line");
            std::thread::sleep(Duration::from_millis(5));
        }
        cable
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // With SIGTERM it takes its links away.
        Command::new("kill").arg(self.0.id().to_string()).status().ok();
        self.0.wait().ok();
    }
}

struct Line {
    folder: TempDir,
}

impl Line {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn port(&self) -> PathBuf {
        self.folder.path().join("port0")
    }

    fn connect(&self) -> (Cable, Units) {
        let far = self.folder.path().join("far");
        let cable = Cable::between(&self.port(), &far);
        (cable, Units::start("rtu", &far.display().to_string()))
    }

    fn gateway(&self, more: &str) -> Gateway {
        let port = self.port();
        let head = format!("type = \"modbus-rtu\"\nport = \"{}\"\nparity = \"none\"\n", port.display());
        Gateway::start(&(head + more))
    }
}

fn values(reading: &Reading) -> BTreeMap<&str, &Value> {
    reading.points.iter().map(|point| (point.name.as_str(), &point.value)).collect()
}

/// What captures alone can keep waiting has an end, too.
fn soon(began: Instant) {
    assert!(began.elapsed() < PATIENCE, "what is waited for does not come");
}

/// The next reading of a device; refusals and the readings of others are passed over.
async fn reading_of(gateway: &mut Gateway, device: &str) -> Reading {
    let began = Instant::now();
    loop {
        soon(began);
        if let Captured::Reading { reading, ack } = gateway.next().await
            && reading.device.as_str() == device
        {
            ack.accept();
            return reading;
        }
    }
}

fn write(device: &str, point: &str, value: &str) -> Order {
    Order::Write {
        device: device.parse().unwrap(),
        point: point.parse().unwrap(),
        value: value.to_owned(),
        verify: None,
    }
}

/// A write of the boiler's `point` that `read` is to show.
fn verified(point: &str, value: &str, read: &str, within: &str) -> Order {
    let (device, point) = ("boiler".parse().unwrap(), point.parse().unwrap());
    let within = within.parse::<atedge_adapters::units::Duration>().unwrap().get();
    let verify = Some(Verify { device: "boiler".parse().unwrap(), point: read.parse().unwrap(), within });
    Order::Write { device, point, value: value.to_owned(), verify }
}

const UNIT_1: &str = r#"
    [unit.1]
    device = "boiler"
    stream = "process"
    interval = "100ms"
    addressing = "plc"
    points = [
      { name = "pump",     table = "coil",     address = 1,     write = {} },
      { name = "full",     table = "discrete", address = 10002 },
      { name = "temp",     table = "input",    address = 30001, type = "i16", scale = 0.1, unit = "Cel" },
      { name = "outside",  table = "input",    address = 30002, type = "i16", scale = 0.1 },
      { name = "energy",   table = "holding",  address = 40011, type = "f32", write = { min = 0, max = 1e6 } },
      { name = "setpoint", table = "holding",  address = 40021, type = "i16", scale = 0.1, write = { min = 30, max = 80 } },
    ]
"#;

/// Reads unit 1 and writes to it, however it is reached.
async fn read_and_write(gateway: &mut Gateway) {
    let reading = reading_of(gateway, "boiler").await;
    assert_eq!(reading.stream.as_str(), "process");
    let expected = BTreeMap::from([
        ("pump", &Value::Bool(true)),
        ("full", &Value::Bool(true)),
        ("temp", &Value::Float(21.5)),
        ("outside", &Value::Float(-0.1)),
        ("energy", &Value::Float(123.5)),
        ("setpoint", &Value::Float(0.0)),
    ]);
    assert_eq!(values(&reading), expected);
    let unit =
        |name: &str| reading.points.iter().find(|point| point.name.as_str() == name).unwrap().unit.clone();
    assert_eq!((unit("temp").as_deref(), unit("pump")), (Some("Cel"), None));

    gateway.order(write("boiler", "setpoint", "62.5")).await.unwrap();
    gateway.order(write("boiler", "pump", "false")).await.unwrap();
    gateway.order(write("boiler", "energy", "0.25")).await.unwrap();
    // What was read before the orders may still be on its way.
    let began = Instant::now();
    loop {
        soon(began);
        let reading = reading_of(gateway, "boiler").await;
        let values = values(&reading);
        if values["energy"] == &Value::Float(0.25) {
            assert_eq!((values["setpoint"], values["pump"]), (&Value::Float(62.5), &Value::Bool(false)));
            break;
        }
    }

    let expected = "a number from 30 to 80".to_owned();
    let (device, point) = ("boiler".parse().unwrap(), "setpoint".parse().unwrap());
    let unfit = CommandError::Unfit { device, point, expected };
    assert_eq!(gateway.order(write("boiler", "setpoint", "81")).await, Err(unfit));
    let read_only = gateway.order(write("boiler", "temp", "20")).await;
    assert!(matches!(read_only, Err(CommandError::Unfit { .. })), "{read_only:?}");
    let unknown = gateway.order(write("boiler", "colour", "1")).await;
    assert!(matches!(unknown, Err(CommandError::NoPoint { .. })), "{unknown:?}");
    let sent = gateway.order(Order::Send { bytes: b"x".to_vec() }).await;
    assert!(matches!(sent, Err(CommandError::Unsupported { order: "send", .. })), "{sent:?}");
}

#[tokio::test]
async fn a_unit_on_a_serial_line_is_read_and_written() {
    let line = Line::new();
    let (_cable, _units) = line.connect();
    let mut gateway = line.gateway(UNIT_1);
    read_and_write(&mut gateway).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_line_behind_a_converter_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let (port, far) = (free_port(), folder.path().join("far"));
    let _converter = Cable::behind_converter(port, &far);
    let _units = Units::start("rtu", &far.display().to_string());
    let table = format!("type = \"modbus-rtu\"\nurl = \"tcp://127.0.0.1:{port}\"\n{UNIT_1}");
    let mut gateway = Gateway::start(&table);
    read_and_write(&mut gateway).await;
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_written_is_read_back() {
    let line = Line::new();
    let (_cable, _units) = line.connect();
    let mut gateway = line.gateway(&UNIT_1.replace(
        "{ name = \"setpoint\"",
        "{ name = \"follower\", table = \"holding\", address = 40025, type = \"i16\", scale = 0.1, \
           write = { min = 0, max = 99 } },\n{ name = \"setpoint\"",
    ));
    reading_of(&mut gateway, "boiler").await;
    gateway.order(verified("setpoint", "62.5", "setpoint", "5s")).await.unwrap();
    gateway.order(verified("pump", "false", "pump", "5s")).await.unwrap();
    gateway.order(verified("energy", "0.1", "energy", "5s")).await.unwrap();
    // What shows something else is no success.
    let error = gateway.order(verified("setpoint", "63", "temp", "500ms")).await.unwrap_err();
    assert_eq!(error.to_string(), "boiler.temp is 21.5 and not 63, 500ms after it was written");
    assert!(!error.may_have_happened());
    // What comes to hold it later is one, and meanwhile the bus works.
    let first = gateway.order(verified("setpoint", "64", "follower", "20s"));
    let second = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        gateway.order(write("boiler", "follower", "64")).await
    };
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    second.unwrap();
    let none = gateway.order(verified("setpoint", "62", "colour", "1s")).await;
    assert!(matches!(none, Err(CommandError::NoPoint { .. })), "{none:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_line_that_comes_back_is_read_again() {
    let line = Line::new();
    let mut gateway = line.gateway(UNIT_1);
    let refused = gateway.order(write("boiler", "setpoint", "62")).await;
    assert_eq!(refused, Err(CommandError::NotConnected { peer: line.port().display().to_string() }));
    for _ in 0..2 {
        let (cable, units) = line.connect();
        reading_of(&mut gateway, "boiler").await;
        drop((cable, units));
    }
    gateway.stop().await;
}

/// Units that answer late, wrongly or never are refused, and then the others keep their interval.
#[tokio::test]
async fn the_others_keep_their_interval() {
    const EVERY: f64 = 0.5;
    const TURNS: usize = 20;
    let line = Line::new();
    let (_cable, _units) = line.connect();
    let unit = |number: u8| {
        format!(
            "[unit.{number}]\ndevice = \"unit{number}\"\nstream = \"s\"\ninterval = \"{EVERY}s\"\n\
             points = [{{ name = \"number\", table = \"holding\", address = 0, type = \"u16\" }}]\n"
        )
        .replace("0.5s", "500ms")
    };
    let all: String = [1, 2, 3, 4, 5, 9].map(unit).concat();
    let mut gateway =
        line.gateway(&format!("timeout = \"100ms\"\ndegrade = {{ after = 2, retry_every = \"4s\" }}\n{all}"));
    let mut faults: BTreeMap<String, Vec<Fault>> = BTreeMap::new();
    let mut turns: BTreeMap<String, Vec<Instant>> = BTreeMap::new();
    let bad = ["unit3", "unit4", "unit5", "unit9"];
    let tripped = |faults: &BTreeMap<String, Vec<Fault>>| {
        let failures = |unit: &str| {
            faults.get(unit).map_or(0, |all| all.iter().filter(|f| !matches!(f, Fault::Late { .. })).count())
        };
        bad.iter().all(|unit| failures(unit) >= 2)
    };
    let began = Instant::now();
    while turns.get("unit1").map_or(0, Vec::len) <= TURNS || turns.get("unit2").map_or(0, Vec::len) <= TURNS {
        soon(began);
        match gateway.next().await {
            Captured::Reading { reading, .. } => {
                let number = reading.device.as_str().strip_prefix("unit").unwrap().parse().unwrap();
                assert_eq!(values(&reading)["number"], &Value::Integer(number), "another's answer was taken");
                if tripped(&faults) {
                    turns.entry(reading.device.to_string()).or_default().push(Instant::now());
                }
            }
            Captured::Refused { device: Some(device), why: Refusal::Modbus(fault) } => {
                faults.entry(device.to_string()).or_default().push(fault);
            }
            Captured::Reached => {}
            other => panic!("{other:?}"),
        }
    }
    gateway.stop().await;

    assert_eq!(
        turns.keys().collect::<BTreeSet<_>>(),
        BTreeSet::from([&"unit1".to_owned(), &"unit2".to_owned()])
    );
    for (unit, turns) in &turns {
        let mean = (turns[turns.len() - 1] - turns[0]).as_secs_f64() / (turns.len() - 1) as f64;
        let longest = turns.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        println!("{unit}: every {mean:.3} s, with {longest:?} at most in between");
        assert!((mean - EVERY).abs() < 0.1 * EVERY, "{unit} was read every {mean} s");
    }
    let has = |unit: &str, what: &dyn Fn(&Fault) -> bool| {
        assert!(faults[unit].iter().any(what), "{unit}: {:?}", faults[unit]);
    };
    has("unit3", &|fault| matches!(fault, Fault::Silent { .. }));
    has("unit4", &|fault| matches!(fault, Fault::Noise { noise: Noise::Checksum, .. }));
    has("unit5", &|fault| matches!(fault, Fault::Noise { noise: Noise::OtherUnit { found: 6 }, .. }));
    has("unit9", &|fault| matches!(fault, Fault::Silent { .. }));
    let late = |fault: &Fault| {
        matches!(fault, Fault::Late { .. } | Fault::Noise { noise: Noise::OtherUnit { found: 3 }, .. })
    };
    assert!(faults.values().flatten().any(late), "where are the late answers? {faults:?}");
}

#[tokio::test]
async fn what_a_unit_refuses_is_explained_and_the_rest_is_read() {
    let line = Line::new();
    let (_cable, _units) = line.connect();
    let mut gateway = line.gateway(
        r#"
        [unit.1]
        device = "boiler"
        stream = "process"
        interval = "100ms"
        points = [
          { name = "number",  table = "holding", address = 0,   type = "u16" },
          { name = "nowhere", table = "holding", address = 500, type = "u16", write = { min = 0, max = 9 } },
        ]
        "#,
    );
    assert_eq!(
        values(&reading_of(&mut gateway, "boiler").await),
        BTreeMap::from([("number", &Value::Integer(1))])
    );
    let began = Instant::now();
    loop {
        soon(began);
        if let Captured::Refused { why: Refusal::Modbus(fault), .. } = gateway.next().await {
            assert!(
                matches!(fault, Fault::Exception { address: 500, exception: Exception(2), .. }),
                "{fault}"
            );
            assert!(fault.to_string().contains("illegal data address"), "{fault}");
            break;
        }
    }
    let refused = gateway.order(write("boiler", "nowhere", "1")).await.unwrap_err();
    assert!(
        matches!(&refused, CommandError::Refused { reason, .. } if reason.contains("illegal data address"))
    );
    gateway.stop().await;
}

#[tokio::test]
async fn units_are_found_by_hand() {
    let line = Line::new();
    let (cable, units) = line.connect();
    let table = format!(
        "type = \"modbus-rtu\"\nport = \"{}\"\nparity = \"none\"\ntimeout = \"150ms\"\n{UNIT_1}",
        line.port().display()
    );
    let config: AdapterConfig = toml::from_str(&table).unwrap();
    let mut probe = Probe::open(&config, None).await.unwrap();
    let mut found = BTreeMap::new();
    for unit in 1..=12 {
        for (unit, presence) in probe.knock(UnitId(unit)).await.unwrap() {
            found.entry(unit.0).or_insert(presence.kind());
        }
    }
    // Unit 3 answers while others are asked, and unit 5 in the name of unit 6.
    assert_eq!(found.get(&6), Some(&"late"), "{found:?}");
    let certain = [1, 2, 3, 4].map(|unit| found.get(&unit).copied());
    assert_eq!(certain, ["answers", "answers", "late", "garbled"].map(Some), "{found:?}");
    let energy = probe.read(UnitId(1), Table::Holding, 10, 2).await.unwrap();
    assert_eq!(energy, Ok(Response::Registers(vec![0x42F7, 0])));

    // Whoever looks while another has the line is told so.
    let refused = Probe::open(&config, None).await.err().unwrap();
    assert!(matches!(&refused, ProbeError::InUse { .. }), "{refused}");
    drop((probe, units, cable));
    let refused = Probe::open(&config, None).await.err().unwrap();
    assert!(matches!(&refused, ProbeError::Open { .. }), "{refused}");
}

#[tokio::test]
async fn units_over_tcp_are_read_and_written() {
    let port = free_port();
    let units = Units::start("tcp", &port.to_string());
    let table = format!(
        r#"
        type = "modbus-tcp"
        url = "tcp://127.0.0.1:{port}"
        timeout = "100ms"
        {UNIT_1}
        [unit.2]
        device = "meter"
        stream = "process"
        interval = "100ms"
        order = "CDAB"
        points = [
          {{ name = "count", table = "input",   address = 2,  type = "u32" }},
          {{ name = "level", table = "holding", address = 14, type = "i64", write = {{ min = -1e18, max = 1e18 }} }},
        ]
        [unit.5]
        device = "impostor"
        stream = "process"
        interval = "500ms"
        points = [{{ name = "number", table = "holding", address = 0, type = "u16" }}]
        [unit.9]
        device = "nobody"
        stream = "process"
        interval = "500ms"
        points = [{{ name = "number", table = "holding", address = 0, type = "u16" }}]
        "#
    );
    let mut gateway = Gateway::start(&table);
    read_and_write(&mut gateway).await;
    let level = "-1234567890123456789";
    gateway.order(write("meter", "level", "-123456789012345678")).await.unwrap();
    assert!(matches!(gateway.order(write("meter", "level", level)).await, Err(CommandError::Unfit { .. })));
    let began = Instant::now();
    loop {
        soon(began);
        let reading = reading_of(&mut gateway, "meter").await;
        assert_eq!(values(&reading)["count"], &Value::Integer(0x0A0B_0C0D));
        if values(&reading)["level"] == &Value::Integer(-123_456_789_012_345_678) {
            break;
        }
    }
    let mut faults = BTreeMap::new();
    while faults.len() < 2 {
        soon(began);
        if let Captured::Refused { device: Some(device), why } = gateway.next().await {
            faults.insert(device.to_string(), why.kind());
        }
    }
    assert_eq!(faults, BTreeMap::from([("impostor".to_owned(), "noise"), ("nobody".to_owned(), "silent")]));

    drop(units);
    let peer = format!("127.0.0.1:{port}");
    loop {
        soon(began);
        match gateway.order(write("boiler", "setpoint", "62")).await {
            Err(CommandError::NotConnected { peer: named }) => break assert_eq!(named, peer),
            Err(CommandError::Interrupted { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let _units = Units::start("tcp", &port.to_string());
    // All of the time in between is not made up for.
    while values(&reading_of(&mut gateway, "boiler").await)["setpoint"] != &Value::Float(0.0) {
        soon(began);
    }
    gateway.stop().await;
}
