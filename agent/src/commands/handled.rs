//! How many commands ended in which way.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::State;

/// Commands since the agent started, by how they ended.
#[derive(Debug, Default)]
pub struct Handled(Mutex<BTreeMap<State, u64>>);

impl Handled {
    /// One more.
    pub(super) fn count(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(state).or_default() += 1;
    }

    /// How many so far, by the state's word.
    pub fn look(&self) -> BTreeMap<String, u64> {
        let handled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        handled.iter().map(|(state, count)| (format!("{state:?}").to_lowercase(), *count)).collect()
    }
}
