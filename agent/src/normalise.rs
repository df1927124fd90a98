//! From what an adapter captured to what the queue keeps. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use atedge_adapters::{DeviceName, Reading, StreamName};

use crate::clock::Stamp;
use crate::outbox::Capture;
use crate::payload::TIMEFIX;
use crate::payload::name::is_reserved;

/// Most points of one reading.
const MOST_POINTS: usize = 256;

/// Why a reading cannot be kept. It is counted, and acknowledged, so that nobody repeats it for ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Nobody is to get it.
    #[error("the stream {0} is not configured")]
    Stream(StreamName),
    /// The device's name means something else in keys.
    #[error("no device can be called {0}: the word is reserved")]
    Reserved(DeviceName),
    /// A point's name means something else to readers.
    #[error("no point of {0} can be called {TIMEFIX}: the word is reserved")]
    ReservedPoint(DeviceName),
    /// It has no points, or too many.
    #[error("a reading of {device} has {points} points; 1 to {MOST_POINTS} are allowed")]
    Points {
        /// Whose reading.
        device: DeviceName,
        /// How many.
        points: usize,
    },
}

/// Makes a capture of `reading`, which arrived at `now`.
///
/// # Errors
/// When it cannot be kept.
pub fn normalise(
    reading: Reading,
    now: Stamp,
    is_configured: impl Fn(&StreamName) -> bool,
) -> Result<Capture, Unfit> {
    let Reading { device, stream, points, time, device_id, delivery } = reading;
    if !is_configured(&stream) {
        return Err(Unfit::Stream(stream));
    }
    if is_reserved(device.as_str()) {
        return Err(Unfit::Reserved(device));
    }
    if points.is_empty() || points.len() > MOST_POINTS {
        return Err(Unfit::Points { device, points: points.len() });
    }
    if points.iter().any(|point| point.name.as_str() == TIMEFIX) {
        return Err(Unfit::ReservedPoint(device));
    }
    Ok(Capture { device, stream, taken: now, own_time_us: time.map(micros), points, device_id, delivery })
}

fn micros(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use atedge_adapters::{Point, Value};

    use super::*;
    use crate::payload::ClockState;

    const NOW: Stamp = Stamp { wall_us: 1_800_000_000_000_000, mono_us: 5, state: ClockState::Free };

    fn reading(device: &str, points: usize) -> Reading {
        let point = Point { name: "t".parse().unwrap(), value: Value::Bool(true), unit: None };
        Reading {
            device: device.parse().unwrap(),
            stream: "process".parse().unwrap(),
            points: vec![point; points],
            time: None,
            device_id: None,
            delivery: None,
        }
    }

    #[test]
    fn a_time_of_the_devices_own_is_kept_beside_ours() {
        let capture = normalise(reading("boiler", 1), NOW, |_| true).unwrap();
        assert_eq!((capture.taken, capture.own_time_us), (NOW, None));
        for (time, micros) in [
            (UNIX_EPOCH + Duration::from_micros(1_500_000), 1_500_000),
            (UNIX_EPOCH - Duration::from_micros(7), -7),
        ] {
            let capture =
                normalise(Reading { time: Some(time), ..reading("boiler", 1) }, NOW, |_| true).unwrap();
            assert_eq!((capture.taken, capture.own_time_us), (NOW, Some(micros)));
        }
    }

    #[test]
    fn what_nobody_could_read_is_refused() {
        let fit = |reading| normalise(reading, NOW, |stream| stream.as_str() == "process");
        let stream = "other".parse().unwrap();
        assert!(matches!(fit(Reading { stream, ..reading("boiler", 1) }), Err(Unfit::Stream(_))));
        assert!(matches!(fit(reading("receipt", 1)), Err(Unfit::Reserved(_))));
        assert!(matches!(fit(reading("boiler", 0)), Err(Unfit::Points { points: 0, .. })));
        assert!(matches!(fit(reading("boiler", 257)), Err(Unfit::Points { points: 257, .. })));
        assert!(fit(reading("boiler", 256)).is_ok());
        let mut fix = reading("boiler", 1);
        fix.points[0].name = TIMEFIX.parse().unwrap();
        assert!(matches!(fit(fix), Err(Unfit::ReservedPoint(_))));
    }
}
