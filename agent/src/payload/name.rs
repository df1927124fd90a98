//! The names under which things travel.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use atedge_adapters::{DeviceName, StreamName};

use super::Boot;

/// The records of one device in one stream during one boot of its gateway. Within a lane, sequence
/// numbers begin with 1 and have no holes; (gateway, lane, sequence number) is the id of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The device that was read.
    pub device: DeviceName,
    /// The stream that the readings belong to.
    pub stream: StreamName,
    /// The run of the agent that captured them.
    pub boot: Boot,
}

impl Lane {
    /// What the record of number `seq` is sealed about, `<lane>/<seq>`.
    pub fn about(&self, seq: u64) -> String {
        let Self { device, stream, boot } = self;
        // Each record goes through here twice: piece by piece, since formatting all of it takes three times as long.
        let mut about = String::with_capacity(device.as_str().len() + stream.as_str().len() + 64);
        for name in [device.as_str(), stream.as_str()] {
            about.push_str(name);
            about.push('/');
        }
        let (epoch, random) = boot.halves();
        write!(about, "{epoch}-{random:016x}/{seq}").expect("a String takes everything");
        about
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.device, self.stream, self.boot)
    }
}

/// Words that mean something in keys, and so can be neither device nor stream.
const RESERVED: [&str; 9] = ["tel", "cmd", "receipt", "gap", "timefix", "latest", "status", "caps", "epoch"];

/// Whether `name` can be neither device nor stream, since it means something in keys.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// The key name of a batch: `<stream>.<device>.tel.<namespace>`.
pub fn telemetry(device: &DeviceName, stream: &StreamName, namespace: &str) -> String {
    format!("{stream}.{device}.tel.{namespace}")
}

/// The device and stream of a key name that [`telemetry`] made.
pub fn parse_telemetry(name: &str, namespace: &str) -> Option<(DeviceName, StreamName)> {
    let head = name.strip_suffix(namespace)?.strip_suffix(".tel.")?;
    let (stream, device) = head.split_once('.')?;
    Some((DeviceName::from_str(device).ok()?, StreamName::from_str(stream).ok()?))
}

/// The key name of a device's newest values: `latest.<device>.<namespace>`.
pub fn latest(device: &DeviceName, namespace: &str) -> String {
    format!("latest.{device}.{namespace}")
}

/// The key name of a receipt: `receipt.<stream>.<device>.<namespace>`.
pub fn receipt(device: &DeviceName, stream: &StreamName, namespace: &str) -> String {
    format!("receipt.{stream}.{device}.{namespace}")
}

/// The device and stream of a key name that [`receipt`] made.
pub fn parse_receipt(name: &str, namespace: &str) -> Option<(DeviceName, StreamName)> {
    let head = name.strip_prefix("receipt.")?.strip_suffix(namespace)?.strip_suffix('.')?;
    let (stream, device) = head.split_once('.')?;
    Some((DeviceName::from_str(device).ok()?, StreamName::from_str(stream).ok()?))
}

/// The id of the notification that carries a batch, `ae1-<boot>-<seq>-<attempt>`. Servers of ours drop a
/// repeat of such an id, so no two notifications of a gateway may share one: see [`NoteId::new`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoteId(String);

impl NoteId {
    /// The id for the batch that begins with record `first` of `boot`.
    ///
    /// `attempt` must be used once only by the gateway, over all devices, streams, readers and starts:
    /// [`NoteId::attempt`] makes such numbers.
    pub fn new(boot: Boot, first: u64, attempt: u64) -> Self {
        Self(format!("ae1-{boot}-{first}-{attempt}"))
    }

    /// The `count`-th send of the run with `epoch`: as epochs never come twice, neither does the number.
    pub const fn attempt(epoch: u64, count: u32) -> u64 {
        (epoch << 32) | count as u64
    }

    /// The id as text: letters, digits and hyphens.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NoteId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_sealed_about_its_id() {
        let boot: Boot = "41-00ffee0000001234".parse().unwrap();
        let lane = Lane { device: "boiler".parse().unwrap(), stream: "process".parse().unwrap(), boot };
        assert_eq!(lane.about(7), format!("{lane}/7"));
    }

    #[test]
    fn names_come_back() {
        let device: DeviceName = "boiler".parse().unwrap();
        let stream: StreamName = "process".parse().unwrap();
        assert_eq!(telemetry(&device, &stream, "plant7"), "process.boiler.tel.plant7");
        assert_eq!(receipt(&device, &stream, "plant7"), "receipt.process.boiler.plant7");
        let both = Some((device, stream));
        assert_eq!(parse_telemetry("process.boiler.tel.plant7", "plant7"), both);
        assert_eq!(parse_receipt("receipt.process.boiler.plant7", "plant7"), both);
        for bad in ["process.boiler.tel.plant8", "process.boiler.plant7", "a.b.c.tel.plant7", "tel.plant7"] {
            assert_eq!(parse_telemetry(bad, "plant7"), None, "{bad}");
        }
    }

    #[test]
    fn ids_of_two_runs_never_meet() {
        let boot = Boot::new(41, 0x9f0c);
        let id = NoteId::new(boot, 7, NoteId::attempt(42, 1));
        assert_eq!(id.as_str(), "ae1-41-0000000000009f0c-7-180388626433");
        assert_ne!(NoteId::attempt(42, 0), NoteId::attempt(41, u32::MAX));
    }
}
