//! Simulated devices, for demonstrations and trials: an MQTT sensor, a serial scale, and Modbus units.
//!
//! They speak to the adapters over a real socket and a real pseudo-terminal, as devices do.

mod scale;
mod sensor;
mod units;

pub use scale::{Scale, ScaleError};
pub use sensor::{Sensor, SensorError};
pub use units::{Questions, SerialUnits, Units, serve_units};
