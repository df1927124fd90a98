//! Devices on a serial line, which speak in lines of text or in frames of bytes.
//!
//! A serial device waits for no acknowledgement and repeats nothing: what it says between a crash of
//! the gateway and the reading's commit is gone.

mod bytes;
mod check;
mod framing;
mod holder;
mod port;
mod ports;
mod talk;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration as StdDuration;

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::bytes::ByteText;
pub use self::check::{Check, CheckKind};
pub use self::framing::{Endian, Ending, FrameError, Framer, Framing};
pub use self::holder::{Holder, is_in_use};
use self::port::Port;
pub(crate) use self::port::open;
pub use self::ports::{Access, PortInfo, Usb, ports};
use crate::decode::{Decode, Decoder};
use crate::report::ReportConfig;
use crate::units::Duration;
use crate::{Adapter, Command, ConfigError, DeviceName, Intake, PointName, Running, StreamName};

/// An adapter for a serial line: a table `[adapter.NAME]` with `type = "serial"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialConfig {
    /// The port. Use a path under `/dev/serial/by-id`, which stays the same wherever the device is
    /// plugged in: when the device has gone, the adapter waits for this path to come back.
    pub port: PathBuf,
    /// Bits per second.
    #[serde(default = "default_baud")]
    pub baud: u32,
    /// Bits of a character: 5 to 8.
    #[serde(default)]
    pub data_bits: DataBits,
    /// The parity: `"none"`, `"even"` or `"odd"`.
    #[serde(default)]
    pub parity: Parity,
    /// Stop bits: 1 or 2.
    #[serde(default)]
    pub stop_bits: StopBits,
    /// The device.
    pub device: DeviceName,
    /// The stream its readings belong to.
    pub stream: StreamName,
    /// How frames are told apart.
    pub framing: Framing,
    /// What stands at the end of each frame to prove that it came whole.
    #[serde(default)]
    pub check: Check,
    /// How a frame is written.
    pub decode: Decode,
    /// The points' units, as SenML writes them (RFC 8428 §12.1).
    #[serde(default)]
    pub units: BTreeMap<PointName, String>,
    /// What to ask the device, for one that speaks only when asked.
    pub poll: Option<Poll>,
    /// What is reported of all this, instead of `[defaults] report`.
    #[serde(default)]
    pub report: ReportConfig,
}

fn default_baud() -> u32 {
    9600
}

/// A question that is asked again and again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Poll {
    /// What to send.
    pub send: ByteText,
    /// How often, from `"10ms"`.
    pub every: Duration,
    /// How long the answer, which is any whole frame, is waited for: from `"10ms"` to `"60s"`. One that has
    /// not come by then is counted as missing. Neither the next question nor an order is sent before.
    /// Left out, it is as long as `every`, and a second at most.
    pub timeout: Option<Duration>,
}

impl Poll {
    fn patience(&self) -> StdDuration {
        self.timeout.unwrap_or(self.every.min(Duration::from_secs(1))).get()
    }
}

/// Bits of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "u8")]
pub enum DataBits {
    /// 5
    Five,
    /// 6
    Six,
    /// 7
    Seven,
    /// 8
    #[default]
    Eight,
}

impl TryFrom<u8> for DataBits {
    type Error = &'static str;

    fn try_from(bits: u8) -> Result<Self, Self::Error> {
        match bits {
            5 => Ok(Self::Five),
            6 => Ok(Self::Six),
            7 => Ok(Self::Seven),
            8 => Ok(Self::Eight),
            _ => Err("expected 5, 6, 7 or 8"),
        }
    }
}

/// Bits between characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "u8")]
pub enum StopBits {
    /// 1
    #[default]
    One,
    /// 2
    Two,
}

impl TryFrom<u8> for StopBits {
    type Error = &'static str;

    fn try_from(bits: u8) -> Result<Self, Self::Error> {
        match bits {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            _ => Err("expected 1 or 2"),
        }
    }
}

/// The parity bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parity {
    /// There is none.
    #[default]
    None,
    /// Makes the number of ones even.
    Even,
    /// Makes the number of ones odd.
    Odd,
}

impl SerialConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.framing.check(self.check.kind)?;
        if self.data_bits != DataBits::Eight
            && (self.check.kind != CheckKind::None || self.framing.is_coded())
        {
            return Err(ConfigError::at(
                "data_bits",
                "expected 8: the check or the framing needs all of them",
            ));
        }
        if self.baud == 0 {
            return Err(ConfigError::at("baud", "expected at least 1"));
        }
        match &self.poll {
            Some(poll) if poll.every < Duration::from_millis(10) => {
                Err(ConfigError::at("poll.every", "expected at least \"10ms\""))
            }
            Some(poll) if poll.send.as_bytes().is_empty() => {
                Err(ConfigError::at("poll.send", "expected something to send"))
            }
            Some(Poll { timeout: Some(timeout), .. })
                if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(timeout) =>
            {
                Err(ConfigError::at("poll.timeout", "expected \"10ms\" to \"60s\""))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn build(self, name: String) -> Result<Box<dyn Adapter>, ConfigError> {
        self.check()?;
        Ok(Box::new(SerialAdapter { name, config: self }))
    }
}

struct SerialAdapter {
    name: String,
    config: SerialConfig,
}

impl Adapter for SerialAdapter {
    fn run(
        self: Box<Self>,
        intake: Intake,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Running {
        let Self { name, config } = *self;
        let decoder = Decoder::plain(config.decode.clone(), config.units.clone());
        Box::pin(async move {
            Port::new(name, config, decoder, intake).run(commands, stop).await;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: &str = r#"
        port = "/dev/serial/by-id/usb-Prolific-port0"
        baud = 115200
        device = "scale1"
        stream = "weights"
        framing = { kind = "line", ending = "crlf", max = 512 }
        decode = { as = "regex", pattern = '^(?<gross>[+-][0-9.]+)\s*kg', types = { gross = "f64" } }
        poll = { send = "P\r\n", every = "1s" }
    "#;

    #[test]
    fn the_documented_example_is_read() {
        let config: SerialConfig = toml::from_str(SCALE).unwrap();
        config.check().unwrap();
        assert_eq!(config.framing, Framing::Line { ending: Ending::Crlf, max: 512 });
        assert_eq!(
            (config.parity, config.stop_bits, config.data_bits),
            (Parity::None, StopBits::One, DataBits::Eight)
        );
    }

    #[test]
    fn the_packaged_sample_shows_settings_that_are_read() {
        let sample = include_str!("../../../packaging/agent.toml");
        let shown = sample.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let shown = shown.filter(|part| part.starts_with("framing =") || part.starts_with("{ as ="));
        let mut read = 0;
        for part in shown {
            let setting = if part.starts_with('{') { format!("decode = {part}") } else { part.to_owned() };
            let mut table: toml::Table = toml::from_str(SCALE).unwrap();
            table.extend(toml::from_str::<toml::Table>(&setting).unwrap());
            table.try_into::<SerialConfig>().unwrap().check().unwrap();
            read += 1;
        }
        assert_eq!(read, 8);
    }

    #[test]
    fn wrong_values_do_not_load_or_are_named() {
        for tail in ["parity = \"mark\"", "stop_bits = 3", "data_bits = 9", "baudrate = 1"] {
            assert!(toml::from_str::<SerialConfig>(&format!("{SCALE}\n{tail}")).is_err(), "{tail} was taken");
        }
        let mut config: SerialConfig = toml::from_str(SCALE).unwrap();
        config.poll =
            Some(Poll { send: "P".parse().unwrap(), every: Duration::from_millis(1), timeout: None });
        assert_eq!(config.check().unwrap_err().setting, "poll.every");
        let timeout = Some(Duration::from_secs(61));
        config.poll = Some(Poll { send: "P".parse().unwrap(), every: Duration::from_secs(1), timeout });
        assert_eq!(config.check().unwrap_err().setting, "poll.timeout");
        config.check.kind = CheckKind::Sum8;
        config.data_bits = DataBits::Seven;
        assert_eq!(config.check().unwrap_err().setting, "data_bits");
        config.framing = Framing::Line { ending: Ending::Lf, max: 0 };
        assert_eq!(config.check().unwrap_err().setting, "framing.max");
    }
}
