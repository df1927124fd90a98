//! Looking at units by hand, over the way that an adapter is configured to take, while it does not.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::fault::Fault;
use super::link::{Heard, Link};
use super::pdu::{Exception, Request, Response, Table};
use super::rtu::Noise;
use super::way::Way;
use super::{ModbusRtuConfig, ModbusTcpConfig, UnitId};
use crate::AdapterConfig;
use crate::serial::{Holder, is_in_use};
use crate::units::Duration;

/// The open way to the units of an adapter. Nobody else may use it meanwhile: answers would be mixed up.
pub struct Probe {
    link: Link,
    /// Who was asked last.
    last: Option<UnitId>,
}

/// Why units cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The adapter is no Modbus adapter.
    #[error("it is no Modbus adapter; expected one of `type = \"modbus-rtu\"` or `\"modbus-tcp\"`")]
    NotModbus,
    /// Another process has the port.
    #[error("{port} is in use by {}; {}", holder_or_nobody(.holder), cure(.holder))]
    InUse {
        /// The port.
        port: PathBuf,
        /// By whom, where that can be seen.
        holder: Option<Holder>,
    },
    /// The way cannot be opened.
    #[error("cannot open {peer}: {cause}{hint}")]
    Open {
        /// The port, or host and port.
        peer: String,
        /// What may be the reason.
        hint: &'static str,
        /// The operating system's words.
        cause: io::Error,
    },
}

/// What is often the reason where a device does not take a connection.
const ONE_AT_A_TIME: &str = "; many devices take one connection at a time, which a running agent has \
                             (systemctl stop atedge-agent)";

fn holder_or_nobody(holder: &Option<Holder>) -> String {
    holder.as_ref().map_or_else(|| "another process".to_owned(), Holder::to_string)
}

fn cure(holder: &Option<Holder>) -> &'static str {
    match holder {
        Some(holder) if holder.is_agent() => {
            "two that ask on one line take each other's answers: stop it for as long as you look \
             (systemctl stop atedge-agent)"
        }
        Some(_) => "end it first",
        None => {
            "end it first (root sees who it is: fuser -v); a running agent by `systemctl stop atedge-agent`"
        }
    }
}

/// What is known of a unit after it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It answers.
    Answers,
    /// It is there, and refuses what it was asked.
    Refuses(Exception),
    /// It is there, and answers later than `timeout` allows.
    Late,
    /// Something was said that is no answer: two units of one number, say, or a wrong baud rate.
    Garbled(Fault),
}

impl fmt::Display for Presence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answers => out.write_str("answers"),
            Self::Refuses(exception) => write!(out, "is there, and refuses to be read: {exception}"),
            Self::Late => out.write_str("is there, and answers too late: `timeout` has to be longer"),
            Self::Garbled(fault) => fault.fmt(out),
        }
    }
}

impl Presence {
    /// One word for it: `answers`, `refuses`, `late` or `garbled`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Refuses(_) => "refuses",
            Self::Late => "late",
            Self::Garbled(_) => "garbled",
        }
    }
}

impl Probe {
    /// Opens the way of an adapter. `timeout` is how long a unit may take, instead of the adapter's.
    ///
    /// # Errors
    /// When it is no Modbus adapter, or the way is in use or cannot be opened.
    pub async fn open(config: &AdapterConfig, timeout: Option<Duration>) -> Result<Self, ProbeError> {
        let way = match config {
            AdapterConfig::ModbusRtu(rtu) => {
                let timeout = timeout.unwrap_or(rtu.timeout);
                ModbusRtuConfig { timeout, ..rtu.clone() }.way()
            }
            AdapterConfig::ModbusTcp(tcp) => {
                let timeout = timeout.unwrap_or(tcp.timeout);
                ModbusTcpConfig { timeout, ..tcp.clone() }.way()
            }
            AdapterConfig::Mqtt(_) | AdapterConfig::Serial(_) | AdapterConfig::Process(_) => {
                return Err(ProbeError::NotModbus);
            }
        };
        let way: Way = way.map_err(|wrong| ProbeError::Open {
            peer: "the adapter's way".to_owned(),
            hint: "",
            cause: io::Error::new(io::ErrorKind::InvalidInput, wrong),
        })?;
        match way.open().await {
            Ok(link) => Ok(Self { link: link.patient(), last: None }),
            Err(cause) => Err(match &way {
                Way::Serial { port, .. } if is_in_use(port, &cause) => {
                    ProbeError::InUse { port: port.clone(), holder: Holder::of(port) }
                }
                Way::Serial { .. } => ProbeError::Open { peer: way.peer(), hint: "", cause },
                Way::RtuOverTcp { .. } | Way::Tcp { .. } => {
                    ProbeError::Open { peer: way.peer(), hint: ONE_AT_A_TIME, cause }
                }
            }),
        }
    }

    /// Asks a unit for its first holding register, and says who was heard: mostly that unit or nobody.
    ///
    /// # Errors
    /// When the way has gone.
    pub async fn knock(&mut self, unit: UnitId) -> io::Result<Vec<(UnitId, Presence)>> {
        let question = Request::Read { table: Table::Holding, address: 0, count: 1 };
        let Heard { answer, strays } = self.link.ask(unit, &question).await?;
        let before = self.last.replace(unit);
        let late = |fault: &Fault| match fault {
            Fault::Late { .. } => before,
            Fault::Noise { noise: Noise::OtherUnit { found }, .. } => Some(UnitId(*found)),
            Fault::Noise { .. }
            | Fault::Silent { .. }
            | Fault::Exception { .. }
            | Fault::Wrong { .. }
            | Fault::NotFinite { .. } => None,
        };
        let mut heard: Vec<_> = strays
            .iter()
            .chain(answer.as_ref().err())
            .filter_map(late)
            .map(|unit| (unit, Presence::Late))
            .collect();
        match answer {
            Ok(_) => heard.push((unit, Presence::Answers)),
            Err(Fault::Exception { exception, .. }) if !exception.is_silence() => {
                heard.push((unit, Presence::Refuses(exception)));
            }
            Err(Fault::Silent { .. } | Fault::Exception { .. }) => {}
            Err(fault) if late(&fault).is_some() => {}
            Err(fault) => heard.push((unit, Presence::Garbled(fault))),
        }
        Ok(heard)
    }

    /// Reads `count` items of a table from `address` on, which counts from 0.
    ///
    /// # Errors
    /// The outer error means that the way has gone, the inner one is the unit's.
    pub async fn read(
        &mut self,
        unit: UnitId,
        table: Table,
        address: u16,
        count: u16,
    ) -> io::Result<Result<Response, Fault>> {
        Ok(self.link.ask(unit, &Request::Read { table, address, count }).await?.answer)
    }
}
