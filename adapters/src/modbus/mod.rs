//! Devices that speak Modbus: on a serial line (RTU), or over TCP.
//!
//! [`pdu`] is what is asked and answered, [`rtu`] and [`mbap`] are the frames around it, [`value`] turns
//! registers into numbers and back; `plan` joins points into few requests, and `schedule` says whose turn
//! it is. All of that is pure. `way` leads to the units, `link` carries one question and its answer, and `bus` is
//! the adapter at work, one question at a time; `verify` looks again at what it wrote. [`Probe`] is for who looks
//! at units by hand.
//!
//! This is a core of our own: tokio-modbus leaves it to its caller to get an RTU line in step again after
//! noise and late answers, and here that is half the work.
//!
//! RTU has no numbers for questions, so an answer that is late must not meet the next question. What comes
//! between questions is read away; a unit that did not answer is left alone for twice its timeout, for a
//! second at least, and then asked the same again. An answer that is later than that would be taken for the
//! answer to that: `timeout` has to be long enough for what the units can do. The echo of a
//! write looks like its confirmation: that a converter echoes has to be said (`echo`).

mod addressing;
mod bus;
mod config;
mod fault;
mod link;
pub mod mbap;
pub mod pdu;
mod plan;
mod probe;
pub mod rtu;
mod schedule;
pub mod value;
mod verify;
mod way;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::addressing::Addressing;
use self::bus::{Bus, Unit};
use self::config::Place;
pub use self::config::{
    Degrade, ModbusRtuConfig, ModbusTcpConfig, PointConfig, UnitConfig, UnitId, WriteConfig,
};
pub use self::fault::Fault;
use self::plan::plan;
pub use self::probe::{Presence, Probe, ProbeError};
use self::schedule::Rhythm;
use self::way::Way;
use crate::waiting::Waiting;
use crate::{Adapter, Command, ConfigError, Intake, Running};

/// How long a unit on a serial line is left alone, at least, when it has not answered.
const LEAST_REST: Duration = Duration::from_secs(1);

impl ModbusRtuConfig {
    pub(crate) fn build(self, name: String) -> Result<Box<dyn Adapter>, ConfigError> {
        self.check()?;
        let way = self.way()?;
        let rest = (2 * self.timeout.get()).max(LEAST_REST);
        let units = units(self.unit, rest, self.degrade)?;
        Ok(Box::new(ModbusAdapter { name, way, units }))
    }

    fn way(&self) -> Result<Way, ConfigError> {
        let (baud, timeout, echo) = (self.baud, self.timeout.get(), self.echo);
        Ok(match self.place()? {
            Place::Port(port) => {
                Way::Serial { port, baud, parity: self.parity, stop_bits: self.stop_bits, timeout, echo }
            }
            Place::Address(address) => Way::RtuOverTcp { address, baud, timeout, echo },
        })
    }
}

impl ModbusTcpConfig {
    pub(crate) fn build(self, name: String) -> Result<Box<dyn Adapter>, ConfigError> {
        self.check()?;
        let way = self.way()?;
        // Over TCP questions have numbers, and late answers are known.
        let units = units(self.unit, Duration::ZERO, self.degrade)?;
        Ok(Box::new(ModbusAdapter { name, way, units }))
    }

    fn way(&self) -> Result<Way, ConfigError> {
        Ok(Way::Tcp { address: self.address()?, timeout: self.timeout.get() })
    }
}

fn units(
    configs: BTreeMap<UnitId, UnitConfig>,
    rest: Duration,
    degrade: Degrade,
) -> Result<Vec<Unit>, ConfigError> {
    let unit = |(id, config): (UnitId, UnitConfig)| {
        let spots = config.spots(&format!("unit.{id}"))?;
        let degrade = config.degrade.unwrap_or(degrade);
        Ok(Unit {
            id,
            rhythm: Rhythm {
                every: config.every().get(),
                after: degrade.after,
                retry_every: degrade.retry_every.get(),
                rest,
            },
            blocks: plan(spots.clone(), config.gap),
            spots,
            device: config.device,
            stream: config.stream,
            write_multiple: config.write_multiple,
            first: 0,
        })
    };
    configs.into_iter().map(unit).collect()
}

struct ModbusAdapter {
    name: String,
    way: Way,
    units: Vec<Unit>,
}

impl Adapter for ModbusAdapter {
    fn run(
        self: Box<Self>,
        intake: Intake,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Running {
        let Self { name, way, units } = *self;
        Box::pin(async move {
            Bus::new(name, way, units, Waiting::new(intake)).run(commands, stop).await;
            Ok(())
        })
    }
}
