//! Random actions and crashes, against a model that fits on one screen.
//!
//! `ATEDGE_MODEL_STEPS` says how many actions are tried, 4000 by themselves.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Action {
    /// A device says its next values, in one group; committed.
    Append { device: u8, most: u8 },
    /// Two devices in one group, which is lost to a power cut before its COMMIT.
    Lost(u8, u8),
    /// A reader confirms a part of what is there.
    Confirm { device: u8, reader: u8, part: u8 },
    /// The oldest records of a device go, for all readers.
    Drop { device: u8, most: u8 },
    /// A reader will not get some of the numbers, though others may.
    PassOver { device: u8, reader: u8, first: u8, most: u8 },
    /// A reader takes what there is for it.
    Take { device: u8, reader: u8, most: u8 },
    /// The agent dies and starts again.
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    let (device, reader) = (|| 0u8..3, || 0u8..2);
    prop_oneof![
        8 => (device(), 1u8..6).prop_map(|(device, most)| Action::Append { device, most }),
        1 => (device(), device()).prop_map(|(one, two)| Action::Lost(one, two)),
        3 => (device(), reader(), any::<u8>()).prop_map(|(device, reader, part)| Action::Confirm { device, reader, part }),
        1 => (device(), 1u8..6).prop_map(|(device, most)| Action::Drop { device, most }),
        1 => (device(), reader(), any::<u8>(), 1u8..6).prop_map(|(device, reader, first, most)| Action::PassOver { device, reader, first, most }),
        2 => (device(), reader(), 1u8..9).prop_map(|(device, reader, most)| Action::Take { device, reader, most }),
        1 => Just(Action::Crash),
    ]
}

const READERS: [&str; 2] = ["@audit", "@ops"];

/// What should be in a lane: each value under its number, where the readers are, and what they will not get.
#[derive(Default)]
struct Expected {
    values: Vec<i64>,
    upto: [u64; 2],
    gaps: [BTreeSet<u64>; 2],
    lost: u64,
}

impl Expected {
    fn last(&self) -> u64 {
        self.values.len() as u64
    }

    /// The numbers that a reader has neither confirmed nor lost.
    fn owed(&self, reader: usize) -> BTreeSet<u64> {
        (self.upto[reader] + 1..=self.last()).filter(|seq| !self.gaps[reader].contains(seq)).collect()
    }

    /// The first number that somebody still needs: a gap at a reader's front needs no record.
    fn needed_from(&self) -> u64 {
        let first = |reader: usize| self.owed(reader).first().copied().unwrap_or(self.last() + 1);
        first(0).min(first(1))
    }

    fn lose(&mut self, reader: usize, first: u64, last: u64) {
        for seq in first.max(self.upto[reader] + 1)..=last {
            self.lost += u64::from(self.gaps[reader].insert(seq));
        }
    }

    fn confirm(&mut self, reader: usize, upto: u64) {
        self.upto[reader] = self.upto[reader].max(upto);
        self.gaps[reader].retain(|seq| *seq > upto);
    }
}

/// The store beside its model.
struct Both {
    store: Store,
    model: BTreeMap<(u64, String), Expected>,
    value: i64,
}

impl Both {
    /// The flow of a device and reader that is not confirmed, of the oldest boot that has one, and its model.
    fn flow(&mut self, device: u8, reader: u8) -> Option<(Waiting, &mut Expected, usize)> {
        let (device, reader) = (format!("d{device}"), usize::from(reader));
        let waiting = self.store.waiting().unwrap().into_iter().find(|waiting| {
            waiting.lane.device.as_str() == device && waiting.key.reader.to_string() == READERS[reader]
        })?;
        let expected = self.model.get_mut(&(waiting.lane.boot.epoch(), device)).unwrap();
        Some((waiting, expected, reader))
    }

    fn act(&mut self, action: &Action, folder: &Path) {
        self.value += 1;
        match *action {
            Action::Append { device, most } => {
                let device = format!("d{device}");
                let values = self.value..self.value + i64::from(most);
                self.value = values.end - 1;
                let appended = self
                    .store
                    .group(|store| {
                        let captures = values.clone().map(|value| capture(&device, value));
                        captures.map(|capture| store.append(&capture, true)).collect::<Result<Vec<_>, _>>()
                    })
                    .unwrap();
                let lane = self.model.entry((self.store.boot.epoch(), device)).or_default();
                for (value, appended) in values.zip(appended) {
                    lane.values.push(value);
                    assert!(matches!(appended, Appended::New { seq, .. } if seq == lane.last()));
                }
            }
            Action::Lost(one, two) => {
                let value = self.value;
                let lost = self.store.group(|store| {
                    store.append(&capture(&format!("d{one}"), value), true)?;
                    store.append(&capture(&format!("d{two}"), value), true)?;
                    Err::<(), _>(rusqlite::Error::InvalidQuery)
                });
                assert!(lost.is_err());
            }
            Action::Confirm { device, reader, part } => {
                let Some((waiting, expected, index)) = self.flow(device, reader) else { return };
                let upto = waiting.upto + (waiting.last - waiting.upto) * u64::from(part) / 255;
                expected.confirm(index, upto);
                self.store.group(|store| store.confirm(&waiting.key, upto)).unwrap();
            }
            Action::Drop { device, most } => {
                let Some((waiting, expected, _)) = self.flow(device, 0) else { return };
                let first = expected.needed_from();
                let last = expected.last().min(first + u64::from(most) - 1);
                if first > last {
                    return;
                }
                expected.lose(0, first, last);
                expected.lose(1, first, last);
                let lane = waiting.key.lane;
                self.store
                    .group(|store| {
                        store.drop_records(lane, first, last, Cause::Full)?;
                        store.retire(lane);
                        Ok(())
                    })
                    .unwrap();
            }
            Action::PassOver { device, reader, first, most } => {
                let Some((waiting, expected, index)) = self.flow(device, reader) else { return };
                let first = 1 + u64::from(first) % expected.last();
                let last = expected.last().min(first + u64::from(most) - 1);
                expected.lose(index, first, last);
                let FlowKey { lane, reader } = &waiting.key;
                self.store
                    .group(|store| {
                        store.lose(*lane, reader.as_str(), first, last, Cause::Silent)?;
                        store.retire(*lane);
                        Ok(())
                    })
                    .unwrap();
            }
            Action::Take { device, reader, most } => {
                let limit = BatchLimit { records: usize::from(most), ..ALL };
                let Some((waiting, expected, index)) = self.flow(device, reader) else { return };
                let (owed, gaps) = (expected.owed(index), expected.gaps[index].clone());
                let values = expected.values.clone();
                let Waiting { key, lane, upto, last } = waiting;
                let parcel = self
                    .store
                    .group(|store| store.take(&key, &lane, upto + 1, last, limit))
                    .unwrap()
                    .unwrap();
                let batch = Batch::from_json(parcel.json.as_bytes()).unwrap();
                let told: BTreeSet<u64> = batch.gaps.iter().flat_map(|gap| gap.first..=gap.last).collect();
                let expected: BTreeSet<u64> = gaps.range(..=parcel.last).copied().collect();
                assert_eq!(told, expected);
                let got: Vec<(u64, i64)> = batch
                    .records
                    .iter()
                    .map(|record| (record.seq, crate::outbox::sim::value(record)))
                    .collect();
                let expected: Vec<(u64, i64)> =
                    owed.range(..=parcel.last).map(|seq| (*seq, values[*seq as usize - 1])).collect();
                assert_eq!(got, expected);
                assert!(parcel.last == last || got.len() == usize::from(most));
            }
            Action::Crash => {
                let fresh = tempfile::tempdir().unwrap();
                let options = |folder| options(folder, &READERS);
                drop(std::mem::replace(&mut self.store, store(options(fresh.path()))));
                self.store = store(options(folder));
            }
        }
    }

    fn check(&self) {
        let waiting = self.store.waiting().unwrap();
        let mut left: u64 = 0;
        for ((epoch, device), lane) in &self.model {
            left += lane.last() + 1 - lane.needed_from();
            for (index, reader) in READERS.iter().enumerate() {
                let found = waiting.iter().find(|w| {
                    w.lane.boot.epoch() == *epoch
                        && w.lane.device.as_str() == device
                        && w.key.reader.to_string() == *reader
                });
                assert_eq!(found.is_some(), lane.upto[index] < lane.last());
                if let Some(found) = found {
                    assert_eq!((found.upto, found.last), (lane.upto[index], lane.last()));
                }
            }
        }
        let stat = self.store.stat().unwrap();
        assert_eq!(stat.records, left);
        let lost: u64 = stat.readers.iter().flat_map(|reader| reader.lost.values()).sum();
        assert_eq!(lost, self.model.values().map(|lane| lane.lost).sum::<u64>());
        let sum = |sql: &str| self.store.db.query_row(sql, [], |row| row.get::<_, u64>(0)).unwrap();
        let untold: usize = self.model.values().flat_map(|lane| &lane.gaps).map(BTreeSet::len).sum();
        assert_eq!(sum("SELECT ifnull(sum(last - first + 1), 0) FROM gap"), untold as u64);
        let touching = "SELECT count(*) FROM gap AS one JOIN gap AS two USING(lane, reader, cause)
            WHERE two.first = one.last + 1";
        assert_eq!(sum(touching), 0, "neighbours are one gap");
    }
}

#[test]
fn the_queue_is_what_the_model_says() {
    const EACH: usize = 200;
    let steps = std::env::var("ATEDGE_MODEL_STEPS").map_or(4000, |steps| steps.parse().unwrap());
    let config = ProptestConfig { cases: steps / EACH as u32, ..ProptestConfig::default() };
    proptest!(config, |(actions in prop::collection::vec(action(), EACH))| {
        let folder = tempfile::tempdir().unwrap();
        let store = store(options(folder.path(), &READERS));
        let mut both = Both { store, model: BTreeMap::new(), value: 0 };
        for action in &actions {
            both.act(action, folder.path());
        }
        both.check();
    });
}
