//! An adapter's table in the configuration.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use crate::modbus::{ModbusRtuConfig, ModbusTcpConfig, PointConfig, UnitConfig, UnitId};
use crate::mqtt::MqttConfig;
use crate::process::ProcessConfig;
use crate::report::{Defaults, OwnDeadbands, ReportConfig, ReportOn, reported};
use crate::serial::SerialConfig;
use crate::{Adapter, DeviceName, PointName};

/// A table `[adapter.NAME]`; its `type` says which kind it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AdapterConfig {
    /// `type = "mqtt"`: the client of a broker, or a listener for devices.
    Mqtt(MqttConfig),
    /// `type = "serial"`: a device on a serial line.
    Serial(SerialConfig),
    /// `type = "process"`: a program that speaks for a device.
    Process(ProcessConfig),
    /// `type = "modbus-rtu"`: Modbus units on a serial line.
    #[serde(rename = "modbus-rtu")]
    ModbusRtu(ModbusRtuConfig),
    /// `type = "modbus-tcp"`: Modbus units that are reached over TCP.
    #[serde(rename = "modbus-tcp")]
    ModbusTcp(ModbusTcpConfig),
}

/// A setting that has the right form and makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{setting}`: {what}")]
pub struct ConfigError {
    /// The setting, from the adapter's table on, as in `route.env.topic`.
    pub setting: String,
    /// What is wrong with it.
    pub what: String,
}

impl ConfigError {
    pub(crate) fn at(setting: impl Into<String>, what: impl fmt::Display) -> Self {
        Self { setting: setting.into(), what: what.to_string() }
    }
}

impl AdapterConfig {
    /// Checks what the form of the settings alone does not show. Touches no device.
    ///
    /// # Errors
    /// Names the first setting that makes no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_report()?;
        match self {
            Self::Mqtt(config) => config.check(),
            Self::Serial(config) => config.check(),
            Self::Process(config) => config.check(),
            Self::ModbusRtu(config) => config.check(),
            Self::ModbusTcp(config) => config.check(),
        }
    }

    /// Takes over from `defaults` what is left out.
    pub fn fill(&mut self, defaults: &Defaults) {
        let (report, units) = match self {
            Self::Mqtt(config) => (&mut config.report, None),
            Self::Serial(config) => (&mut config.report, None),
            Self::Process(config) => (&mut config.report, None),
            Self::ModbusRtu(config) => (&mut config.report, Some(&mut config.unit)),
            Self::ModbusTcp(config) => (&mut config.report, Some(&mut config.unit)),
        };
        report.fill(&defaults.report);
        for unit in units.into_iter().flat_map(|units| units.values_mut()) {
            unit.interval = unit.interval.or(defaults.interval);
        }
    }

    /// What it reports.
    pub fn report(&self) -> &ReportConfig {
        match self {
            Self::Mqtt(config) => &config.report,
            Self::Serial(config) => &config.report,
            Self::Process(config) => &config.report,
            Self::ModbusRtu(config) => &config.report,
            Self::ModbusTcp(config) => &config.report,
        }
    }

    fn check_report(&self) -> Result<(), ConfigError> {
        let report = self.report();
        report.check()?;
        let of_changes = matches!(report.on, Some(ReportOn::Change | ReportOn::Both));
        let mut points = self.units().flat_map(|(_, unit)| &unit.points);
        if !of_changes && let Some(point) = points.find(|point| point.deadband.is_some()) {
            let what = format!("{} has a deadband, which needs `on = \"change\"` or `\"both\"`", point.name);
            return Err(ConfigError::at("report.on", what));
        }
        Ok(())
    }

    /// The deadbands that points have of their own.
    fn deadbands(&self) -> OwnDeadbands {
        let of_unit = |(_, unit): (UnitId, &UnitConfig)| {
            let own =
                |point: &PointConfig| Some(((unit.device.clone(), point.name.clone()), point.deadband?));
            unit.points.iter().filter_map(own).collect::<Vec<_>>()
        };
        self.units().flat_map(of_unit).collect()
    }

    /// Whether this adapter has the point and commands may write it.
    pub fn can_write(&self, device: &DeviceName, point: &PointName) -> bool {
        self.point(device, point).is_some_and(|point| point.write.is_some())
    }

    /// Whether this adapter has the point and can read it when it is asked to.
    pub fn can_read(&self, device: &DeviceName, point: &PointName) -> bool {
        self.point(device, point).is_some()
    }

    /// The serial port that it uses.
    pub fn port(&self) -> Option<&Path> {
        match self {
            Self::Serial(serial) => Some(&serial.port),
            Self::ModbusRtu(rtu) => rtu.port.as_deref(),
            Self::Mqtt(_) | Self::Process(_) | Self::ModbusTcp(_) => None,
        }
    }

    /// Its Modbus units; none with an adapter of another kind.
    pub fn units(&self) -> impl Iterator<Item = (UnitId, &UnitConfig)> {
        let units = match self {
            Self::ModbusRtu(ModbusRtuConfig { unit, .. }) | Self::ModbusTcp(ModbusTcpConfig { unit, .. }) => {
                Some(unit)
            }
            Self::Mqtt(_) | Self::Serial(_) | Self::Process(_) => None,
        };
        units.into_iter().flatten().map(|(id, unit)| (*id, unit))
    }

    fn point(&self, device: &DeviceName, point: &PointName) -> Option<&PointConfig> {
        let mut of_device = self.units().filter(|(_, unit)| unit.device == *device);
        of_device.find_map(|(_, unit)| unit.points.iter().find(|known| known.name == *point))
    }

    /// Makes the adapter; `name` is its name in the configuration and in logs. Touches no device yet.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn build(self, name: impl Into<String>) -> Result<Box<dyn Adapter>, ConfigError> {
        self.check_report()?;
        let (rules, deadbands) = (self.report().clone(), self.deadbands());
        let adapter = match self {
            Self::Mqtt(config) => config.build(name.into()),
            Self::Serial(config) => config.build(name.into()),
            Self::Process(config) => config.build(name.into()),
            Self::ModbusRtu(config) => config.build(name.into()),
            Self::ModbusTcp(config) => config.build(name.into()),
        }?;
        Ok(reported(adapter, rules, deadbands))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_decides_which_settings_there_are() {
        let serial = "type = \"serial\"\nport = \"/dev/ttyS0\"\nbaud = 9600\ndevice = \"d\"\nstream = \"s\"\n\
                      framing = { kind = \"line\", ending = \"lf\", max = 100 }\ndecode = { as = \"text\" }";
        assert!(matches!(toml::from_str(serial), Ok(AdapterConfig::Serial(_))));
        let error = toml::from_str::<AdapterConfig>(&format!("{serial}\nurl = \"mqtt://h\"")).unwrap_err();
        assert!(error.to_string().contains("url"), "{error}");
        assert!(toml::from_str::<AdapterConfig>("type = \"telepathy\"").is_err());
    }

    #[test]
    fn what_is_left_out_is_as_the_defaults_have_it() {
        let modbus = |report: &str, interval: &str, deadband: &str| {
            let table = format!(
                "type = \"modbus-tcp\"\nurl = \"tcp://h\"\n{report}\n[unit.1]\ndevice = \"d\"\nstream = \"s\"\n{interval}\n\
                 points = [{{ name = \"t\", table = \"input\", address = 0, type = \"i16\"{deadband} }}]"
            );
            toml::from_str::<AdapterConfig>(&table).unwrap()
        };
        let defaults = |text: &str| toml::from_str::<Defaults>(text).unwrap();
        let interval = |own: &str, text: &str| {
            let mut config = modbus("", own, "");
            config.fill(&defaults(text));
            let (_, unit) = config.units().next().unwrap();
            unit.interval.map(|interval| interval.to_string())
        };
        assert_eq!(interval("", "interval = \"3s\"").as_deref(), Some("3s"));
        assert_eq!(interval("interval = \"2s\"", "interval = \"3s\"").as_deref(), Some("2s"));
        assert_eq!(interval("", ""), None);

        // A deadband makes sense where changes are reported, whoever says that they are.
        let mut banded = modbus("", "", ", deadband = 0.5");
        assert_eq!(banded.check().unwrap_err().setting, "report.on");
        banded.fill(&defaults("report = { on = \"both\" }"));
        banded.check().unwrap();
        assert_eq!(banded.deadbands().into_values().collect::<Vec<_>>(), [0.5]);
        let wrong = modbus("report = { on = \"change\" }", "", ", deadband = -1.0");
        assert_eq!(wrong.check().unwrap_err().setting, "unit.1.points[0].deadband");
    }
}
