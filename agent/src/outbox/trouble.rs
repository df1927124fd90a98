//! Why the outbox stores nothing now, for whoever looks on.

use std::sync::{Arc, Mutex, PoisonError};

/// Clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// What the disk said; nothing while it takes what it is given.
    pub fn look(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}
