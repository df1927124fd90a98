//! What came in through each adapter, and how the adapter is: counted as it happens, looked at by others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// For so long after something was refused an adapter counts as degraded, in milliseconds.
const REFUSED_LATELY_MS: i64 = 60_000;

/// The tallies of all adapters, by their names.
#[derive(Clone, Debug, Default)]
pub struct Tallies(Arc<Mutex<BTreeMap<String, Arc<Tally>>>>);

impl Tallies {
    /// That of an adapter: a new one, or where it left off before it was changed.
    pub fn of(&self, adapter: &str) -> Arc<Tally> {
        Arc::clone(lock(&self.0).entry(adapter.to_owned()).or_default())
    }

    /// The adapter is there no more.
    pub fn forget(&self, adapter: &str) {
        lock(&self.0).remove(adapter);
    }

    /// All, as they are at `now_ms`.
    pub fn look(&self, now_ms: i64) -> BTreeMap<String, AdapterStatus> {
        lock(&self.0).iter().map(|(name, tally)| (name.clone(), tally.look(now_ms))).collect()
    }
}

/// What came in through one adapter.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    way: Way,
    counts: Counts,
    refused_as: BTreeMap<&'static str, u64>,
    last_reading_ms: Option<i64>,
    last_error: Option<Fault>,
}

#[derive(Debug, Default)]
enum Way {
    #[default]
    Unknown,
    Reached,
    Unreached(String),
    GivenUp(String),
}

/// How many came in since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Became records.
    pub kept: u64,
    /// Came again and were known.
    pub repeated: u64,
    /// Could not be kept.
    pub refused: u64,
    /// Were not to be reported.
    pub suppressed: u64,
    /// Were dropped, for the outbox was full of what is more important.
    pub dropped: u64,
}

/// How an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its device or broker was not reached yet, and has not failed to be.
    Starting,
    /// All is well.
    Running,
    /// Its device or broker is reached, but something was refused within the last minute.
    Degraded,
    /// Its device or broker is not reached; it tries again.
    Waiting,
    /// It gave up, and is started again after a pause.
    Failed,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// What.
    pub what: String,
}

/// An adapter, as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterStatus {
    /// How it is.
    pub state: State,
    /// Why it is not running.
    pub why: Option<String>,
    /// How many came in.
    #[serde(flatten)]
    pub counts: Counts,
    /// What was refused, by reason.
    pub refused_as: BTreeMap<String, u64>,
    /// When the last reading came.
    pub last_reading_ms: Option<i64>,
    /// What last went wrong.
    pub last_error: Option<Fault>,
}

impl Tally {
    /// A reading of `at_ms` became a record.
    pub fn kept(&self, at_ms: i64) {
        let mut seen = lock(&self.0);
        seen.counts.kept += 1;
        seen.last_reading_ms = Some(at_ms);
    }

    /// A reading came again.
    pub fn repeated(&self) {
        lock(&self.0).counts.repeated += 1;
    }

    /// A reading was not to be reported.
    pub fn suppressed(&self) {
        lock(&self.0).counts.suppressed += 1;
    }

    /// A reading was dropped.
    pub fn dropped(&self) {
        lock(&self.0).counts.dropped += 1;
    }

    /// Something could not be kept; `kind` is one word for it.
    pub fn refused(&self, at_ms: i64, kind: &'static str, why: String) {
        let mut seen = lock(&self.0);
        seen.counts.refused += 1;
        *seen.refused_as.entry(kind).or_default() += 1;
        seen.last_error = Some(Fault { at_ms, what: why });
    }

    /// The device or broker is reached.
    pub fn reached(&self) {
        lock(&self.0).way = Way::Reached;
    }

    /// It is not.
    pub fn unreached(&self, at_ms: i64, why: String) {
        let mut seen = lock(&self.0);
        seen.last_error = Some(Fault { at_ms, what: why.clone() });
        seen.way = Way::Unreached(why);
    }

    /// The adapter gave up.
    pub fn gave_up(&self, at_ms: i64, why: String) {
        let mut seen = lock(&self.0);
        seen.last_error = Some(Fault { at_ms, what: why.clone() });
        seen.way = Way::GivenUp(why);
    }

    /// The adapter starts.
    pub fn begin(&self) {
        lock(&self.0).way = Way::Unknown;
    }

    /// How many so far.
    pub fn counts(&self) -> Counts {
        lock(&self.0).counts
    }

    /// How the adapter is at `now_ms`.
    pub fn look(&self, now_ms: i64) -> AdapterStatus {
        let seen = lock(&self.0);
        let lately = seen.last_error.as_ref().filter(|fault| fault.at_ms + REFUSED_LATELY_MS > now_ms);
        let (state, why) = match (&seen.way, lately) {
            (Way::GivenUp(why), _) => (State::Failed, Some(why.clone())),
            (Way::Unreached(why), _) => (State::Waiting, Some(why.clone())),
            (Way::Reached, Some(fault)) if seen.counts.refused > 0 => {
                (State::Degraded, Some(fault.what.clone()))
            }
            (Way::Reached, _) => (State::Running, None),
            (Way::Unknown, _) => (State::Starting, None),
        };
        AdapterStatus {
            state,
            why,
            counts: seen.counts,
            refused_as: seen.refused_as.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            last_reading_ms: seen.last_reading_ms,
            last_error: seen.last_error.clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Numbers are right whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_says_what_is_wrong_now() {
        let tally = Tally::default();
        let state = |now| {
            let status = tally.look(now);
            (status.state, status.why)
        };
        assert_eq!(state(0), (State::Starting, None));
        tally.unreached(1, "unplugged".into());
        assert_eq!(state(100_000), (State::Waiting, Some("unplugged".into())));
        tally.reached();
        tally.kept(100_001);
        assert_eq!(state(100_002), (State::Running, None));
        tally.refused(100_003, "check", "bad sum".into());
        assert_eq!(state(160_002), (State::Degraded, Some("bad sum".into())));
        assert_eq!(state(160_003), (State::Running, None), "it is well again");
        let status = tally.look(160_003);
        assert_eq!(status.last_error, Some(Fault { at_ms: 100_003, what: "bad sum".into() }));
        assert_eq!(status.last_reading_ms, Some(100_001));
        assert_eq!(status.refused_as, BTreeMap::from([("check".to_owned(), 1)]));
        tally.gave_up(160_004, "port taken".into());
        assert_eq!(state(900_000), (State::Failed, Some("port taken".into())));
        tally.begin();
        assert_eq!(state(900_001), (State::Starting, None));
    }

    #[test]
    fn a_changed_adapter_goes_on_counting() {
        let tallies = Tallies::default();
        tallies.of("shop").repeated();
        tallies.of("shop").repeated();
        assert_eq!(tallies.look(0)["shop"].counts.repeated, 2);
        tallies.forget("shop");
        assert!(tallies.look(0).is_empty());
    }
}
