//! How commands are declared in the configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use at_protocol::AtSign;
use atedge_adapters::units::Duration;
use atedge_adapters::{DeviceName, PointName};
use serde::{Deserialize, Deserializer, de};

use super::template::is_name;

/// A command's name in the configuration: `boiler.setpoint`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandName {
    /// For whom it is.
    pub device: DeviceName,
    /// What is asked for: `a` to `z`, `0` to `9` and `_`.
    pub command: String,
}

/// A text that is no [`CommandName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a command is called DEVICE.NAME, as in \"boiler.setpoint\"")]
pub struct InvalidCommandName;

impl FromStr for CommandName {
    type Err = InvalidCommandName;

    fn from_str(text: &str) -> Result<Self, InvalidCommandName> {
        let (device, command) = text.split_once('.').ok_or(InvalidCommandName)?;
        let device = device.parse().map_err(|_| InvalidCommandName)?;
        if is_name(command) {
            Ok(Self { device, command: command.to_owned() })
        } else {
            Err(InvalidCommandName)
        }
    }
}

impl fmt::Display for CommandName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.device, self.command)
    }
}

impl<'de> Deserialize<'de> for CommandName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A table `[command."DEVICE.NAME"]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// Who may call it.
    pub allow: Vec<AtSign>,
    /// Its arguments; each must be given, and no others.
    #[serde(default)]
    pub args: BTreeMap<String, ArgConfig>,
    /// What it does.
    #[serde(rename = "do")]
    pub effect: EffectConfig,
    /// The adapter that does it. May be left out when only one can.
    pub adapter: Option<String>,
    /// Which point shows that it was done, for a command that writes one.
    pub verify: Option<VerifyConfig>,
    /// A call may be valid at most this long.
    pub expires: Duration,
    /// How long a call is remembered, so that a repeat does nothing.
    #[serde(default = "default_once")]
    pub once: Duration,
    /// Whether doing it twice is as good as once: then a call that the agent did not finish, because it was
    /// killed, may be done again.
    #[serde(default)]
    pub idempotent: bool,
    /// Whether the caller must have signed it. Only `false` is possible yet, and must be said.
    pub signed: Signed,
}

fn default_once() -> Duration {
    Duration::from_secs(24 * 3600)
}

/// How it is seen that a write was done: the command ends as done when the point holds what was written, and
/// as failed when it holds something else after that time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyConfig {
    /// The point to read back: `"DEVICE.POINT"`, of the same adapter; mostly the one that was written.
    pub read: Target,
    /// How long it may take, up to `"25s"`.
    pub within: Duration,
}

/// An argument's type and range.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum ArgConfig {
    /// A number.
    F64 {
        /// The least.
        min: f64,
        /// The most.
        max: f64,
    },
    /// A whole number.
    I64 {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// `true` or `false`.
    Bool {},
    /// Text of letters, digits, space and `_.:-`, so that it can do no harm where it is put.
    String {
        /// The only values there are; any where absent.
        one_of: Option<Vec<String>>,
        /// Most characters.
        max: Option<usize>,
    },
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EffectConfig {
    /// Publishes over MQTT; `{name}` stands for an argument.
    Publish(PublishConfig),
    /// Sends text over a serial line, or as a line to a program; `{name}` stands for an argument.
    Send(String),
    /// Writes a point of a Modbus unit.
    Write(WriteConfig),
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteConfig {
    /// The point: `"DEVICE.POINT"`.
    pub point: Target,
    /// The value; `{name}` stands for an argument.
    pub value: String,
}

/// A point of a device: `boiler.setpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The device.
    pub device: DeviceName,
    /// Its point.
    pub point: PointName,
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let both = text.split_once('.').and_then(|(device, point)| {
            Some(Self { device: device.parse().ok()?, point: point.parse().ok()? })
        });
        both.ok_or_else(|| de::Error::custom("a point is called DEVICE.POINT, as in \"boiler.setpoint\""))
    }
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishConfig {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: String,
}

/// Whether a call must be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// By a key that is known.
    Yes,
    /// By the key that was seen first.
    Tofu,
    /// Need not be.
    No,
}

impl<'de> Deserialize<'de> for Signed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl de::Visitor<'_> for Word {
            type Value = Signed;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("true, \"tofu\" or false")
            }

            fn visit_bool<E: de::Error>(self, signed: bool) -> Result<Signed, E> {
                Ok(if signed { Signed::Yes } else { Signed::No })
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Signed, E> {
                if word == "tofu" {
                    Ok(Signed::Tofu)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(word), &self))
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}
