//! Simulated devices, for demonstrations and trials: an MQTT sensor and a serial scale.
//!
//! They speak to the adapters over a real socket and a real pseudo-terminal, as devices do.

mod scale;
mod sensor;

pub use scale::{Scale, ScaleError};
pub use sensor::{Sensor, SensorError};
