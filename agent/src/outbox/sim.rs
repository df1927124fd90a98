//! An outbox without its thread, for simulations on virtual time.

use std::sync::Arc;

use atedge_adapters::{Point, Value};

use super::open::open_store;
use super::store::Store;
use super::tests::{capture, now, options};
use super::{BatchLimit, FlowKey, Grown, Parcel, Receipted, Waiting};
use crate::payload::{Boot, Cause, Lane, Receipt, Record};

/// A real store in a folder of its own; every call is a group of its own.
pub(crate) struct Queue {
    folder: tempfile::TempDir,
    store: Option<Store>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        let mut queue = Self { folder: tempfile::tempdir().unwrap(), store: None };
        queue.crash();
        queue
    }

    /// Closes it without a word and opens it anew.
    pub(crate) fn crash(&mut self) {
        self.store = None;
        self.store = Some(open_store(options(self.folder.path(), &["@ops"]), now()).unwrap().0);
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    pub(crate) fn boot(&self) -> Boot {
        self.store.as_ref().unwrap().boot
    }

    pub(crate) fn append(&mut self, device: &str, value: i64) {
        self.store().group(|store| store.append(&capture(device, value), true)).unwrap();
    }

    pub(crate) fn grown(&mut self) -> Grown {
        self.store().take_grown()
    }

    pub(crate) fn waiting(&mut self) -> Vec<Waiting> {
        self.store().waiting().unwrap()
    }

    pub(crate) fn take(
        &mut self,
        key: &FlowKey,
        lane: &Arc<Lane>,
        from: u64,
        to: u64,
        limit: BatchLimit,
    ) -> Option<Parcel> {
        self.store().group(|store| store.take(key, lane, from, to, limit)).unwrap()
    }

    pub(crate) fn confirm(&mut self, key: &FlowKey, upto: u64) {
        self.store().group(|store| store.confirm(key, upto)).unwrap();
    }

    pub(crate) fn receipt(&mut self, reader: &str, lane: &Lane, receipt: &Receipt) -> Option<Receipted> {
        let reader = reader.parse().unwrap();
        self.store()
            .group(|store| store.receipt(&reader, lane.device.as_str(), lane.stream.as_str(), receipt))
            .unwrap()
    }

    /// Drops as many of the oldest records of each lane, for want of room.
    pub(crate) fn drop_oldest(&mut self, most: u64) {
        let drop = |store: &mut Store| {
            for Waiting { key, last, .. } in store.waiting()? {
                let first = store.first_record(key.lane)?.unwrap_or(last + 1);
                store.drop_records(key.lane, first, last.min(first + most - 1), Cause::Full)?;
            }
            Ok(())
        };
        self.store().group(drop).unwrap();
    }

    /// How many records readers lost.
    pub(crate) fn lost(&mut self) -> u64 {
        self.store().stat().unwrap().readers.iter().flat_map(|reader| reader.lost.values()).sum()
    }

    pub(crate) fn records(&mut self) -> u64 {
        self.store().stat().unwrap().records
    }
}

/// The value of a record that [`Queue::append`] made.
pub(crate) fn value(record: &Record) -> i64 {
    match record.points.as_slice() {
        [Point { value: Value::Integer(value), .. }] => *value,
        _ => panic!("not a record of a simulation"),
    }
}
