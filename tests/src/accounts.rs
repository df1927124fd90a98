//! What an atServer owes: a ledger of what it has acknowledged, kept where no crash of it reaches, and the
//! comparison with what it has after one.
//!
//! Each key is written by one connection, which writes it again only when the fate of the last write is
//! known. So the newest commit of a key is either the last that was acknowledged or one that was on its way
//! when the server was killed, and every commit id from the first to the last belongs to exactly one of them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::wire::Wire;

/// Entries of the commit log that are asked for at once.
const PAGE: usize = 500;

/// What a line does to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It has this value now.
    Value(String),
    /// It has the value that it had.
    Same,
    /// It is gone.
    Gone,
}

/// What came of the lines of one connection.
#[derive(Debug, Default)]
pub struct Talk {
    /// Acknowledged changes: key, effect, commit id.
    pub done: Vec<(String, Effect, i64)>,
    /// Changes whose answer did not come.
    pub open: Vec<(String, Effect)>,
    /// Acknowledged notifications: to whom, and a value that no other has.
    pub sent: Vec<(String, String)>,
}

/// Faults, by kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Acknowledged changes that are not there.
    pub lost: u64,
    /// Commit ids that two changes have.
    pub reused: u64,
    /// Commit ids that no change has.
    pub skipped: u64,
    /// Records that are not as they were written.
    pub wrong: u64,
}

impl Faults {
    /// Whether there are any.
    #[must_use]
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// These and those.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.reused += other.reused;
        self.skipped += other.skipped;
        self.wrong += other.wrong;
    }
}

/// One tenant's ledger.
pub struct Account {
    /// Every key's value, if it has one, and newest commit.
    keys: BTreeMap<String, (Option<String>, i64)>,
    /// The newest commit that was compared.
    compared: i64,
    /// Whose it is.
    atsign: String,
}

/// The newest commit of a key, as the server says.
struct Entry {
    key: String,
    value: Option<String>,
    id: i64,
}

impl Account {
    /// Begins with what the tenant has now.
    ///
    /// # Errors
    /// The server does not say.
    pub fn open(atsign: &str, wire: &mut Wire) -> Result<Self> {
        let mut account = Self { keys: BTreeMap::new(), compared: -1, atsign: atsign.to_owned() };
        for Entry { key, value, id } in account.log(wire, -1)? {
            account.compared = account.compared.max(id);
            account.keys.insert(key, (value, id));
        }
        Ok(account)
    }

    /// Enters what has been said since, and compares it with what the server has.
    ///
    /// # Errors
    /// The server does not say.
    pub fn settle(&mut self, talks: &[Talk], wire: &mut Wire) -> Result<Faults> {
        let mut faults = Faults::default();
        let mut ids = BTreeSet::new();
        let mut done: Vec<_> = talks.iter().flat_map(|talk| &talk.done).collect();
        done.sort_by_key(|(_, _, id)| *id);
        for (key, effect, id) in done {
            faults.reused += u64::from(*id <= self.compared || !ids.insert(*id));
            self.enter(key, effect, *id);
        }
        let open: BTreeMap<&str, &Effect> =
            talks.iter().flat_map(|talk| &talk.open).map(|(key, effect)| (key.as_str(), effect)).collect();
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        let mut last = self.compared;
        for Entry { key, value, id } in self.log(wire, self.compared)? {
            last = last.max(id);
            let known = self.keys.get(&key).map_or(-1, |(_, known)| *known);
            if id > known
                && let Some(effect) = open.get(key.as_str())
            {
                faults.reused += u64::from(!ids.insert(id));
                self.enter(&key, effect, id);
            }
            let agrees = self.keys.get(&key).is_some_and(|known| *known == (value, id));
            faults.wrong += u64::from(!agrees && id >= known);
            newest.insert(key, id);
        }
        let expected = self.keys.iter().filter(|(_, (_, id))| *id > self.compared);
        let lost = expected.filter(|(key, (_, id))| newest.get(*key).is_none_or(|found| found < id));
        faults.lost += u64::try_from(lost.count())?;
        let missing = (self.compared + 1..=last).filter(|id| !ids.contains(id));
        faults.skipped += u64::try_from(missing.count())?;
        self.compared = last;
        Ok(faults)
    }

    /// Compares all there is, from the first commit on: how many keys are not as they should be.
    ///
    /// # Errors
    /// The server does not say.
    pub fn compare_all(&self, wire: &mut Wire) -> Result<u64> {
        let found: BTreeMap<String, (Option<String>, i64)> =
            self.log(wire, -1)?.into_iter().map(|Entry { key, value, id }| (key, (value, id))).collect();
        let differing = self.keys.iter().filter(|(key, known)| found.get(*key) != Some(known)).count();
        let foreign = found.keys().filter(|key| !self.keys.contains_key(*key)).count();
        Ok(u64::try_from(differing + foreign)?)
    }

    fn enter(&mut self, key: &str, effect: &Effect, id: i64) {
        let value = match effect {
            Effect::Value(value) => Some(value.clone()),
            Effect::Same => self.keys.get(key).and_then(|(value, _)| value.clone()),
            Effect::Gone => None,
        };
        self.keys.insert(key.to_owned(), (value, id));
    }

    /// The newest commit of each key behind `after`.
    fn log(&self, wire: &mut Wire, mut after: i64) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        loop {
            let page: Vec<Value> = serde_json::from_str(
                &wire.ask_long(&format!("sync:from:{after}:limit:{PAGE}"), &self.atsign)?,
            )?;
            if page.is_empty() {
                return Ok(entries);
            }
            for entry in page {
                let id = entry["commitId"].as_i64().context("a commit's id")?;
                let key = entry["atKey"].as_str().context("a commit's key")?.to_owned();
                let is_gone = entry["operation"] == "-";
                let value = entry["value"].as_str().filter(|_| !is_gone).map(str::to_owned);
                entries.push(Entry { key, value, id });
                after = after.max(id);
            }
        }
    }
}
