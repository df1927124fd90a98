//! Records that were read lately, so that reading them again asks neither a thread nor the database.
//!
//! The writer forgets what it has changed after the commit and before it answers: whoever was answered
//! sees his change, and so does everybody after him. What a query brings is kept only if nothing was
//! changed while it ran.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use at_protocol::AtSign;

use super::super::Record;

/// Keys share this many counters of changes, by their hashes: one that is changed keeps few others from
/// being kept.
const COUNTERS: usize = 256;
/// What a record costs besides its texts, in bytes.
const ENTRY: usize = size_of::<Record>() + 64;

/// The records of one shard.
pub(super) struct Hot {
    /// Most bytes of each of the two halves.
    half: usize,
    state: Mutex<State>,
}

/// Records are kept in the new half. When it is full it becomes the old one, which is forgotten; what is
/// read from the old half moves to the new one before.
struct State {
    new: Half,
    old: Half,
    changes: [u64; COUNTERS],
}

#[derive(Default)]
struct Half {
    records: HashMap<Name, Record>,
    bytes: usize,
}

/// A tenant and a key of its records.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Name(Box<str>);

/// How often records were changed before a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before(u64);

impl Name {
    pub(super) fn new(tenant: &AtSign, key: &str) -> Self {
        // No atSign has white space.
        Self(format!("{tenant} {key}").into())
    }

    fn counter(&self) -> usize {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        usize::try_from(hasher.finish() % COUNTERS as u64).unwrap_or_default()
    }
}

impl Hot {
    /// Keeps about so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let state = State { new: Half::default(), old: Half::default(), changes: [0; COUNTERS] };
        Self { half: bytes / 2, state: Mutex::new(state) }
    }

    /// The record, or what [`Self::keep`] wants to know after it was queried.
    pub(super) fn find(&self, name: &Name) -> Result<Record, Before> {
        let mut state = self.state();
        if let Some(record) = state.new.records.get(name) {
            return Ok(record.clone());
        }
        let before = Before(state.changes[name.counter()]);
        let (name, record) = state.old.records.remove_entry(name).ok_or(before)?;
        let bytes = bytes_of(&name, &record);
        state.old.bytes = state.old.bytes.saturating_sub(bytes);
        self.insert(&mut state, name, record.clone(), bytes);
        Ok(record)
    }

    /// Keeps what a query has brought, if nothing was changed since. Not what expires: it will be removed
    /// without being named.
    pub(super) fn keep(&self, name: Name, record: &Record, before: Before) {
        if record.expires.is_some() {
            return;
        }
        let bytes = bytes_of(&name, record);
        let mut state = self.state();
        if Before(state.changes[name.counter()]) == before {
            self.insert(&mut state, name, record.clone(), bytes);
        }
    }

    /// Forgets what was changed.
    pub(super) fn forget(&self, changed: &[Name]) {
        if changed.is_empty() {
            return;
        }
        let mut state = self.state();
        for name in changed {
            state.changes[name.counter()] += 1;
            let State { new, old, .. } = &mut *state;
            for half in [new, old] {
                if let Some(record) = half.records.remove(name) {
                    half.bytes = half.bytes.saturating_sub(bytes_of(name, &record));
                }
            }
        }
    }

    /// Forgets everything: another process has written.
    pub(super) fn clear(&self) {
        let mut state = self.state();
        (state.new, state.old) = (Half::default(), Half::default());
        state.changes.iter_mut().for_each(|count| *count += 1);
    }

    fn insert(&self, state: &mut State, name: Name, record: Record, bytes: usize) {
        if bytes > self.half {
            return;
        }
        if state.new.bytes + bytes > self.half {
            state.old = std::mem::take(&mut state.new);
        }
        if state.new.records.insert(name, record).is_none() {
            state.new.bytes += bytes;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes_of(name: &Name, record: &Record) -> usize {
    ENTRY + name.0.len() + record.value.len() + record.metadata.to_string().len()
}

#[cfg(test)]
mod tests {
    use at_protocol::{Metadata, Timestamp};

    use super::*;

    fn name(key: &str) -> Name {
        Name::new(&"@alice".parse().unwrap(), key)
    }

    fn record(value: &str) -> Record {
        Record::written(None, value.to_owned(), &Metadata::default(), Timestamp::from_millis(1))
    }

    /// As a read does: the database holds `value`.
    fn read(hot: &Hot, key: &str, value: &str) -> bool {
        match hot.find(&name(key)) {
            Ok(found) => {
                assert_eq!(found.value, value);
                true
            }
            Err(before) => {
                hot.keep(name(key), &record(value), before);
                false
            }
        }
    }

    #[test]
    fn what_was_read_is_found_until_it_is_changed() {
        let hot = Hot::new(1024 * 1024);
        assert!(!read(&hot, "k", "old") && read(&hot, "k", "old"));
        hot.forget(&[name("k")]);
        assert!(!read(&hot, "k", "new") && read(&hot, "k", "new"));
        hot.clear();
        assert!(!read(&hot, "k", "newer"));
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let hot = Hot::new(1024 * 1024);
        let Err(before) = hot.find(&name("k")) else { panic!("nothing was kept") };
        hot.forget(&[name("k")]);
        hot.keep(name("k"), &record("old"), before);
        assert!(hot.find(&name("k")).is_err(), "a record that is no more");
        let Err(before) = hot.find(&name("k")) else { panic!("nothing was kept") };
        hot.clear();
        hot.keep(name("k"), &record("old"), before);
        assert!(hot.find(&name("k")).is_err(), "a record of another time");
    }

    #[test]
    fn it_holds_so_many_bytes_and_those_that_are_read_again() {
        let hot = Hot::new(16 * (ENTRY + 100));
        for number in 0..1000 {
            read(&hot, &number.to_string(), "v");
            read(&hot, "again", "w");
            let state = hot.state();
            assert!(state.new.bytes + state.old.bytes <= 2 * hot.half);
            assert!(state.new.records.len() + state.old.records.len() <= 17);
        }
        assert!(read(&hot, "again", "w"), "what is read all the time stays");
        let huge = "x".repeat(32 * ENTRY);
        assert!(!read(&hot, "huge", &huge) && !read(&hot, "huge", &huge));
    }
}
