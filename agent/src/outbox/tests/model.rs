//! Random actions and crashes, against a model that fits on one screen.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Action {
    /// A device says its next value; committed.
    Append(u8),
    /// Two devices in one group, which is lost to a power cut before its COMMIT.
    Lost(u8, u8),
    /// A reader confirms a part of what is there.
    Confirm { device: u8, reader: u8, part: u8 },
    /// The agent dies and starts again.
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (0u8..3).prop_map(Action::Append),
        1 => (0u8..3, 0u8..3).prop_map(|(one, two)| Action::Lost(one, two)),
        3 => (0u8..3, 0u8..2, any::<u8>()).prop_map(|(device, reader, part)| Action::Confirm { device, reader, part }),
        1 => Just(Action::Crash),
    ]
}

const READERS: [&str; 2] = ["@audit", "@ops"];

/// What should be in a lane: each value under its number, and where the readers are.
#[derive(Default)]
struct Expected {
    values: Vec<i64>,
    upto: [u64; 2],
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_queue_is_what_the_model_says(actions in prop::collection::vec(action(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let open = || store(options(folder.path(), &READERS));
        let mut store = open();
        let mut model: BTreeMap<(u64, String), Expected> = BTreeMap::new();
        let mut value = 0;
        for action in actions {
            value += 1;
            match action {
                Action::Append(device) => {
                    let device = format!("d{device}");
                    let seq = append(&mut store, &capture(&device, value)).unwrap();
                    let lane = model.entry((store.boot.epoch(), device)).or_default();
                    lane.values.push(value);
                    prop_assert_eq!(seq, lane.values.len() as u64);
                }
                Action::Lost(one, two) => {
                    let lost = store.group(|store| {
                        store.append(&capture(&format!("d{one}"), value))?;
                        store.append(&capture(&format!("d{two}"), value))?;
                        Err::<(), _>(rusqlite::Error::InvalidQuery)
                    });
                    prop_assert!(lost.is_err());
                }
                Action::Confirm { device, reader, part } => {
                    let name = format!("d{device}");
                    let waiting = store.waiting().unwrap();
                    let of_device = waiting.iter().find(|w| {
                        w.lane.device.as_str() == name && w.key.reader.to_string() == READERS[usize::from(reader)]
                    });
                    if let Some(waiting) = of_device {
                        let upto = waiting.upto + (waiting.last - waiting.upto) * u64::from(part) / 255;
                        store.group(|store| store.confirm(&waiting.key, upto)).unwrap();
                        model.get_mut(&(waiting.lane.boot.epoch(), name)).unwrap().upto[usize::from(reader)] = upto;
                    }
                }
                Action::Crash => {
                    drop(store);
                    store = open();
                }
            }
        }
        drop(store);
        let mut store = open();
        let waiting = store.waiting().unwrap();
        let mut left: usize = 0;
        for ((epoch, device), lane) in &model {
            let all = lane.values.len() as u64;
            let confirmed = *lane.upto.iter().min().unwrap();
            left += (all - confirmed) as usize;
            for (index, reader) in READERS.iter().enumerate() {
                let found = waiting.iter().find(|w| {
                    w.lane.boot.epoch() == *epoch && w.lane.device.as_str() == device && w.key.reader.to_string() == *reader
                });
                prop_assert_eq!(found.is_some(), lane.upto[index] < all);
                let Some(found) = found else { continue };
                prop_assert_eq!((found.upto, found.last), (lane.upto[index], all));
                let expected: Vec<(u64, i64)> =
                    (found.upto + 1..=all).map(|seq| (seq, lane.values[seq as usize - 1])).collect();
                prop_assert_eq!(take(&mut store, found, found.upto + 1), expected);
            }
        }
        prop_assert_eq!(store.stat().unwrap().records, left as u64);
    }
}
