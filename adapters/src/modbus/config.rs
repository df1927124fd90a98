//! The settings, and what is checked of them.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de};

use super::addressing::Addressing;
use super::pdu::Table;
use super::plan::{Limits, Spot};
use super::value::{ByteOrder, Conversion, Kind};
use crate::decode::MAX_POINTS;
use crate::report::ReportConfig;
use crate::serial::{Parity, StopBits};
use crate::units::Duration;
use crate::{ConfigError, DeviceName, PointName, StreamName};

/// An adapter for units on a serial line, at hand or behind a converter that passes on the line's bytes over
/// TCP: a table `[adapter.NAME]` with `type = "modbus-rtu"`. What is
/// left out is as the guide wants it (MODBUS over Serial Line V1.02, §2.5.1 and §3.2): 19200 baud, even
/// parity, one stop bit; with no parity there should be two.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModbusRtuConfig {
    /// The port. Use a path under `/dev/serial/by-id`, which stays the same wherever the converter is
    /// plugged in: when it has gone, the adapter waits for this path to come back.
    pub port: Option<PathBuf>,
    /// Instead of the port: `"tcp://HOST:PORT"` of a converter that passes bytes on as they are. One that
    /// speaks Modbus TCP itself is `type = "modbus-tcp"`.
    pub url: Option<String>,
    /// Bits per second of the line; also behind a converter, for it says how long frames take there.
    #[serde(default = "default_baud")]
    pub baud: u32,
    /// The parity: `"none"`, `"even"` or `"odd"`. Behind a converter, that has its own.
    #[serde(default = "default_parity")]
    pub parity: Parity,
    /// Stop bits: 1 or 2.
    #[serde(default)]
    pub stop_bits: StopBits,
    /// Whether the converter echoes what is sent, as two-wire ones without a switch do: the echo is passed over.
    #[serde(default)]
    pub echo: bool,
    /// How long a unit may take for its answer. The time that its bytes need on the line comes on top.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// When a unit that does not answer is asked less often.
    #[serde(default)]
    pub degrade: Degrade,
    /// The units, by their number: 1 to 247.
    pub unit: BTreeMap<UnitId, UnitConfig>,
    /// What is reported of all this, instead of `[defaults] report`.
    #[serde(default)]
    pub report: ReportConfig,
}

/// An adapter for units that are reached over TCP, alone or behind a gateway: a table `[adapter.NAME]`
/// with `type = "modbus-tcp"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModbusTcpConfig {
    /// Where: `"tcp://HOST:PORT"`; the port is 502 where there is none.
    pub url: String,
    /// How long a unit may take for its answer.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// When a unit that does not answer is asked less often.
    #[serde(default)]
    pub degrade: Degrade,
    /// The units, by their number: 0 to 255. A device that is no gateway usually takes 255, or any.
    pub unit: BTreeMap<UnitId, UnitConfig>,
    /// What is reported of all this, instead of `[defaults] report`.
    #[serde(default)]
    pub report: ReportConfig,
}

fn default_baud() -> u32 {
    19_200
}

fn default_parity() -> Parity {
    Parity::Even
}

fn default_timeout() -> Duration {
    Duration::from_millis(800)
}

/// When a unit that does not answer is asked less often, so that the others keep their interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Degrade {
    /// After so many failures in a row.
    pub after: u32,
    /// How often it is asked then, until it answers.
    pub retry_every: Duration,
}

impl Default for Degrade {
    fn default() -> Self {
        Self { after: 3, retry_every: Duration::from_secs(60) }
    }
}

/// A unit's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitId(pub u8);

impl fmt::Display for UnitId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl<'de> Deserialize<'de> for UnitId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = text.parse().map_err(|_| {
            de::Error::custom(format!("a unit's number is 1 to 247, over TCP 0 to 255, not {text:?}"))
        })?;
        Ok(Self(number))
    }
}

/// A unit: a table `[adapter.NAME.unit.NUMBER]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitConfig {
    /// The device that it is.
    pub device: DeviceName,
    /// The stream its readings belong to.
    pub stream: StreamName,
    /// How often it is asked, from `"10ms"`; where it is left out, as `[defaults] interval` has it, or every 5 s.
    pub interval: Option<Duration>,
    /// How its manual numbers addresses.
    #[serde(default)]
    pub addressing: Addressing,
    /// In which order the bytes of a value stand: `"ABCD"`, `"CDAB"`, `"BADC"` or `"DCBA"`.
    #[serde(default)]
    pub order: ByteOrder,
    /// The most items between two points that are read along so that one request does for both; 0 for
    /// a unit that refuses to have gaps read.
    #[serde(default = "default_gap")]
    pub gap: u16,
    /// Whether single items are written by functions 15 and 16, for a unit that does not know 5 and 6.
    #[serde(default)]
    pub write_multiple: bool,
    /// Instead of the adapter's.
    pub degrade: Option<Degrade>,
    /// What is read.
    pub points: Vec<PointConfig>,
}

/// How often a unit is asked of which nobody says how often.
const INTERVAL: Duration = Duration::from_secs(5);

fn default_gap() -> u16 {
    8
}

/// A point of a unit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointConfig {
    /// Its name.
    pub name: PointName,
    /// Where it is: `"coil"`, `"discrete"`, `"input"` or `"holding"`.
    pub table: Table,
    /// Where there, as `addressing` numbers it.
    pub address: u32,
    /// How it is kept: `"u16"`, `"i16"`, `"u32"`, `"i32"`, `"u64"`, `"i64"`, `"f32"` or `"f64"`; coils
    /// and discrete inputs are `"bool"`, which need not be said.
    #[serde(rename = "type")]
    pub kind: Option<Kind>,
    /// What the registers' number is multiplied by.
    pub scale: Option<f64>,
    /// The unit, as SenML writes it (RFC 8428 §12.1).
    pub unit: Option<String>,
    /// By how much it has to differ to have changed, where changes are reported (`report`).
    pub deadband: Option<f64>,
    /// That commands may write it: `{ min = …, max = … }` of the scaled value, `{}` for a coil.
    pub write: Option<WriteConfig>,
}

/// What may be written.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteConfig {
    /// The least.
    pub min: Option<f64>,
    /// The most.
    pub max: Option<f64>,
}

/// Where a serial line is.
pub(super) enum Place {
    Port(PathBuf),
    /// Host and port of a converter.
    Address(String),
}

impl ModbusRtuConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.place()?;
        if self.baud == 0 {
            return Err(ConfigError::at("baud", "expected at least 1"));
        }
        if let Some(unit) = self.unit.keys().find(|unit| !(1..=247).contains(&unit.0)) {
            return Err(ConfigError::at(format!("unit.{unit}"), "a unit on a serial line is 1 to 247"));
        }
        check_common(self.timeout, self.degrade, &self.unit)
    }

    pub(super) fn place(&self) -> Result<Place, ConfigError> {
        match (&self.port, &self.url) {
            (Some(port), None) => Ok(Place::Port(port.clone())),
            (None, Some(url)) => {
                let expected = "expected \"tcp://HOST:PORT\"";
                let (host, port) = host_and_port(url).ok_or_else(|| ConfigError::at("url", expected))?;
                let port =
                    port.ok_or_else(|| ConfigError::at("url", format!("{expected}: no port is usual")))?;
                Ok(Place::Address(format!("{host}:{port}")))
            }
            (None, None) => Err(ConfigError::at("port", "missing: expected a serial port, or `url`")),
            (Some(_), Some(_)) => Err(ConfigError::at("url", "expected `port` or `url`, not both")),
        }
    }
}

impl ModbusTcpConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.address()?;
        check_common(self.timeout, self.degrade, &self.unit)
    }

    /// Host and port, as they are resolved.
    pub(super) fn address(&self) -> Result<String, ConfigError> {
        let wrong = || ConfigError::at("url", "expected \"tcp://HOST:PORT\"");
        let (host, port) = host_and_port(&self.url).ok_or_else(wrong)?;
        Ok(format!("{host}:{}", port.unwrap_or(502)))
    }
}

/// The parts of `tcp://HOST:PORT`; a port is no 0.
fn host_and_port(url: &str) -> Option<(&str, Option<u16>)> {
    let rest = url.strip_prefix("tcp://")?;
    // The colons of an IPv6 address stand in brackets.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse::<u16>().ok()?)),
        Some(_) | None => (rest, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = !host.contains([':', '[', ']']);
    let makes_sense = !host.is_empty() && !host.contains(['/', ' ', '@']) && (plain || bracketed);
    (makes_sense && port != Some(0)).then_some((host, port))
}

fn check_common(
    timeout: Duration,
    degrade: Degrade,
    units: &BTreeMap<UnitId, UnitConfig>,
) -> Result<(), ConfigError> {
    if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&timeout) {
        return Err(ConfigError::at("timeout", "expected \"10ms\" to \"60s\""));
    }
    degrade.check("degrade")?;
    if units.is_empty() {
        return Err(ConfigError::at("unit", "expected at least one table `unit.NUMBER`"));
    }
    // A point is written by its device and its name.
    let mut named = BTreeMap::new();
    for (unit, config) in units {
        for (at, spot) in config.spots(&format!("unit.{unit}"))?.into_iter().enumerate() {
            match named.entry((&config.device, spot.name)) {
                btree_map::Entry::Vacant(free) => _ = free.insert(unit),
                btree_map::Entry::Occupied(taken) => {
                    let what = format!("unit {} has a point of this name of {}", taken.get(), config.device);
                    return Err(ConfigError::at(format!("unit.{unit}.points[{at}].name"), what));
                }
            }
        }
    }
    Ok(())
}

impl Degrade {
    fn check(&self, setting: &str) -> Result<(), ConfigError> {
        if self.after == 0 {
            return Err(ConfigError::at(format!("{setting}.after"), "expected at least 1"));
        }
        if self.retry_every < Duration::from_secs(1) {
            return Err(ConfigError::at(format!("{setting}.retry_every"), "expected at least \"1s\""));
        }
        Ok(())
    }
}

impl UnitConfig {
    /// How often it is asked.
    pub(super) fn every(&self) -> Duration {
        self.interval.unwrap_or(INTERVAL)
    }

    /// The points as they are on the wire; `setting` is the unit's table.
    pub(super) fn spots(&self, setting: &str) -> Result<Vec<Spot>, ConfigError> {
        if self.every() < Duration::from_millis(10) {
            return Err(ConfigError::at(format!("{setting}.interval"), "expected at least \"10ms\""));
        }
        if let Some(degrade) = &self.degrade {
            degrade.check(&format!("{setting}.degrade"))?;
        }
        if !(1..=MAX_POINTS).contains(&self.points.len()) {
            return Err(ConfigError::at(format!("{setting}.points"), format!("expected 1 to {MAX_POINTS}")));
        }
        let mut spots: Vec<Spot> = Vec::with_capacity(self.points.len());
        for (at, point) in self.points.iter().enumerate() {
            let setting = format!("{setting}.points[{at}]");
            let spot = point.spot(&setting, self.addressing, self.order)?;
            if spots.iter().any(|other| other.name == spot.name) {
                return Err(ConfigError::at(
                    format!("{setting}.name"),
                    format!("{} is there twice", spot.name),
                ));
            }
            if let Some(other) = spots.iter().find(|other| overlap(other, &spot)) {
                let what = format!("{} and {} take the same {}", other.name, spot.name, spot.table);
                return Err(ConfigError::at(format!("{setting}.address"), what));
            }
            spots.push(spot);
        }
        Ok(spots)
    }
}

fn overlap(one: &Spot, other: &Spot) -> bool {
    one.table == other.table && u32::from(one.address) < other.end() && u32::from(other.address) < one.end()
}

impl PointConfig {
    fn spot(&self, setting: &str, addressing: Addressing, order: ByteOrder) -> Result<Spot, ConfigError> {
        let wrong = |part: &str, what: String| Err(ConfigError::at(format!("{setting}.{part}"), what));
        let table = self.table;
        let kind = match (table.has_bits(), self.kind) {
            (true, None | Some(Kind::Bool)) => Kind::Bool,
            (true, Some(_)) => return wrong("type", format!("a {table} is one bit: expected \"bool\"")),
            (false, None) => return wrong("type", format!("missing: a {table} may be \"u16\", \"f32\" …")),
            (false, Some(Kind::Bool)) => {
                return wrong("type", format!("a {table} has 16 bits: expected \"u16\" or another number"));
            }
            (false, Some(kind)) => kind,
        };
        if let Some(scale) = self.scale {
            if kind == Kind::Bool {
                return wrong("scale", "a bit has none".to_owned());
            }
            if !scale.is_normal() {
                return wrong("scale", "expected a number other than 0".to_owned());
            }
        }
        if self.deadband.is_some_and(|deadband| !deadband.is_finite() || deadband < 0.0) {
            return wrong("deadband", "expected a number from 0".to_owned());
        }
        let address = match addressing.on_the_wire(table, self.address) {
            Ok(address) => address,
            Err(what) => return wrong("address", what),
        };
        let write = match &self.write {
            None => None,
            Some(_) if !table.is_writable() => {
                return wrong("write", format!("a {table} can only be read"));
            }
            Some(WriteConfig { min: None, max: None }) if kind == Kind::Bool => Some(Limits::Switch),
            Some(_) if kind == Kind::Bool => return wrong("write", "a coil has no range: `{}`".to_owned()),
            Some(WriteConfig { min: Some(min), max: Some(max) }) if min <= max => {
                Some(Limits::Range(*min, *max))
            }
            Some(WriteConfig { min: Some(_), max: Some(_) }) => {
                return wrong("write", "no value fits: `min` is above `max`".to_owned());
            }
            Some(_) => return wrong("write", "expected `{ min = …, max = … }`".to_owned()),
        };
        let conversion = Conversion { kind, order, scale: self.scale };
        let spot =
            Spot { name: self.name.clone(), table, address, conversion, unit: self.unit.clone(), write };
        if spot.end() > 1 << 16 {
            return wrong("address", format!("it ends behind the last {table}"));
        }
        Ok(spot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documented example.
    const EXAMPLE: &str = r#"
        port = "/dev/serial/by-id/usb-FTDI-port0"
        baud = 9600
        parity = "even"
        stop_bits = 1
        timeout = "800ms"
        degrade = { after = 3, retry_every = "60s" }
        [unit.7]
        device = "boiler"
        stream = "process"
        interval = "2s"
        addressing = "zero"
        order = "ABCD"
        points = [
          { name = "supply_temp", table = "input",   address = 0,  type = "i16", scale = 0.1, unit = "Cel" },
          { name = "energy",      table = "holding", address = 12, type = "f32", unit = "kWh" },
          { name = "setpoint",    table = "holding", address = 20, type = "i16", scale = 0.1, write = { min = 30, max = 80 } },
        ]
    "#;

    fn with_points(addressing: &str, points: &str) -> Result<Vec<u16>, ConfigError> {
        let table = format!(
            "url = \"tcp://h\"\n[unit.1]\ndevice = \"d\"\nstream = \"s\"\naddressing = \"{addressing}\"\n\
             points = [{points}]"
        );
        let config: ModbusTcpConfig = toml::from_str(&table).unwrap();
        config.check()?;
        let spots = config.unit[&UnitId(1)].spots("unit.1")?;
        Ok(spots.iter().map(|spot| spot.address).collect())
    }

    fn refused(points: &str) -> ConfigError {
        with_points("zero", points).unwrap_err()
    }

    #[test]
    fn the_documented_example_is_read() {
        let config: ModbusRtuConfig = toml::from_str(EXAMPLE).unwrap();
        config.check().unwrap();
        let spots = config.unit[&UnitId(7)].spots("unit.7").unwrap();
        assert_eq!(spots[2].write, Some(Limits::Range(30.0, 80.0)));
    }

    #[test]
    fn unknown_settings_and_units_are_refused() {
        for (right, wrong) in [
            ("baud", "baudrate"),
            ("retry_every", "retry"),
            ("device", "name"),
            ("scale = 0.1, unit", "factor = 0.1, unit"),
            ("min = 30", "least = 30"),
            ("unit.7", "unit.256"),
            ("unit.7", "unit.boiler"),
            ("ABCD", "ACBD"),
            ("\"input\"", "\"register\""),
        ] {
            let text = EXAMPLE.replacen(right, wrong, 1);
            assert!(toml::from_str::<ModbusRtuConfig>(&text).is_err(), "{wrong} was taken");
        }
        for number in ["0", "248"] {
            let config: ModbusRtuConfig =
                toml::from_str(&EXAMPLE.replace("unit.7", &format!("unit.{number}"))).unwrap();
            assert_eq!(config.check().unwrap_err().setting, format!("unit.{number}"));
        }
    }

    #[test]
    fn addresses_are_numbered_as_the_manual_does() {
        let all = |coil, discrete, input, holding| {
            format!(
                "{{ name = \"a\", table = \"coil\", address = {coil} }}, \
                 {{ name = \"b\", table = \"discrete\", address = {discrete} }}, \
                 {{ name = \"c\", table = \"input\", address = {input}, type = \"u16\" }}, \
                 {{ name = \"d\", table = \"holding\", address = {holding}, type = \"u16\" }}"
            )
        };
        assert_eq!(with_points("zero", &all(0, 1, 2, 65_535)).unwrap(), [0, 1, 2, 65_535]);
        assert_eq!(with_points("one", &all(1, 2, 3, 65_536)).unwrap(), [0, 1, 2, 65_535]);
        assert_eq!(with_points("plc", &all(1, 10_001, 30_001, 40_001)).unwrap(), [0, 0, 0, 0]);
        assert_eq!(with_points("plc", &all(9_999, 19_999, 39_999, 49_999)).unwrap(), [9_998; 4]);
        assert_eq!(with_points("plc", &all(65_536, 165_536, 365_536, 465_536)).unwrap(), [65_535; 4]);
        for (addressing, holding) in
            [("zero", 65_536), ("one", 0), ("plc", 40_000), ("plc", 30_001), ("plc", 50_000), ("plc", 1)]
        {
            let error = with_points(addressing, &all(1, 10_001, 30_001, holding));
            let setting = error.unwrap_err().setting;
            assert!(setting.ends_with("address"), "{addressing} {holding}: {setting}");
        }
        let error = with_points("plc", &all(1, 10_001, 40_001, 40_002)).unwrap_err();
        assert_eq!(error.setting, "unit.1.points[2].address");
        assert!(error.what.contains("30001 to 39999"), "{error}");
    }

    #[test]
    fn points_that_make_no_sense_are_named() {
        let holding = |more: &str| format!("{{ name = \"a\", table = \"holding\", address = 10, {more} }}");
        for (point, part) in [
            ("{ name = \"a\", table = \"coil\", address = 1, type = \"u16\" }".to_owned(), "type"),
            ("{ name = \"a\", table = \"coil\", address = 1, scale = 2.0 }".to_owned(), "scale"),
            (
                "{ name = \"a\", table = \"coil\", address = 1, write = { min = 0, max = 1 } }".to_owned(),
                "write",
            ),
            ("{ name = \"a\", table = \"discrete\", address = 1, write = {} }".to_owned(), "write"),
            ("{ name = \"a\", table = \"input\", address = 1 }".to_owned(), "type"),
            ("{ name = \"a\", table = \"input\", address = 65535, type = \"f32\" }".to_owned(), "address"),
            (holding("type = \"bool\""), "type"),
            (holding("type = \"u16\", scale = 0.0"), "scale"),
            (holding("type = \"u16\", write = { min = 1 }"), "write"),
            (holding("type = \"u16\", write = { min = 2, max = 1 }"), "write"),
            (holding("type = \"u16\", write = {}"), "write"),
        ] {
            assert_eq!(refused(&point).setting, format!("unit.1.points[0].{part}"), "{point}");
        }
        let wide = holding("type = \"f32\"");
        let next = "{ name = \"b\", table = \"holding\", address = 11, type = \"u16\" }";
        let overlapping = refused(&format!("{wide}, {next}"));
        assert_eq!(
            overlapping.to_string(),
            "`unit.1.points[1].address`: a and b take the same holding register"
        );
        let twice = refused(&format!("{wide}, {}", next.replace("\"b\"", "\"a\"")));
        assert_eq!(twice.setting, "unit.1.points[1].name");
        assert_eq!(refused("").setting, "unit.1.points");
    }

    #[test]
    fn two_units_of_a_device_have_different_points() {
        let mut config: ModbusRtuConfig = toml::from_str(EXAMPLE).unwrap();
        let twin = config.unit[&UnitId(7)].clone();
        config.unit.insert(UnitId(8), twin.clone());
        assert_eq!(config.check().unwrap_err().setting, "unit.8.points[0].name");
        let other = UnitConfig { device: "other".parse().unwrap(), ..twin };
        config.unit.insert(UnitId(8), other);
        config.check().unwrap();
    }

    #[test]
    fn a_line_is_at_a_port_or_behind_a_converter() {
        let place = |text: &str| {
            let port = "port = \"/dev/serial/by-id/usb-FTDI-port0\"";
            let config: ModbusRtuConfig = toml::from_str(&EXAMPLE.replace(port, text)).unwrap();
            config.check().map(|()| config.place().unwrap())
        };
        let at = |text: &str| place(text).err().map(|error| error.setting);
        assert!(matches!(place("port = \"/dev/ttyS0\""), Ok(Place::Port(_))));
        let converter = place("url = \"tcp://10.0.0.9:4196\"");
        assert!(matches!(converter, Ok(Place::Address(address)) if address == "10.0.0.9:4196"));
        assert_eq!(at("").as_deref(), Some("port"));
        assert_eq!(at("port = \"/dev/ttyS0\"\nurl = \"tcp://h:1\"").as_deref(), Some("url"));
        assert_eq!(at("url = \"tcp://h\"").as_deref(), Some("url"));
        assert_eq!(at("url = \"h:1\"").as_deref(), Some("url"));
    }

    #[test]
    fn the_address_is_host_and_port() {
        let address = |url: &str| {
            let table = format!("url = \"{url}\"\n[unit.1]\ndevice = \"d\"\nstream = \"s\"\npoints = []");
            toml::from_str::<ModbusTcpConfig>(&table).unwrap().address()
        };
        assert_eq!(address("tcp://plc.example").unwrap(), "plc.example:502");
        assert_eq!(address("tcp://10.0.0.9:1502").unwrap(), "10.0.0.9:1502");
        assert_eq!(address("tcp://[fd00::1]:502").unwrap(), "[fd00::1]:502");
        assert_eq!(address("tcp://[fd00::1]").unwrap(), "[fd00::1]:502");
        for url in
            ["10.0.0.9:502", "tcp://", "tcp://:502", "tcp://h:x", "tcp://h:0", "tcp://fd00::1", "mqtt://h"]
        {
            assert_eq!(address(url).unwrap_err().setting, "url", "{url}");
        }
    }
}
