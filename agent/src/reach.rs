//! Whether our atServer is reached, as the last attempts tell, and what was sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::payload::NoteId;
use crate::uplink::{Note, NoteStatus, Road, RoadError};

/// How it goes with our atServer.
#[derive(Debug, Default)]
pub struct Reach(Mutex<ServerStatus>);

/// Whether our atServer is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    /// It was not tried yet.
    #[default]
    Untried,
    /// It answered last.
    Yes,
    /// It did not.
    No,
}

/// Our atServer, as others see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Whether it is reached.
    pub reached: Reached,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
    /// Why not.
    pub why: Option<String>,
    /// Notifications that it took.
    pub sent: u64,
    /// Notifications that could not be sent to their reader for the time being.
    pub put_off: u64,
    /// Notifications that can never be sent.
    pub refused: u64,
    /// Attempts that did not reach it.
    pub unreached: u64,
    /// How often it was reached again.
    pub reconnects: u64,
}

impl Reach {
    /// As it is.
    pub fn look(&self) -> ServerStatus {
        self.lock().clone()
    }

    /// It answered.
    pub fn yes(&self, now_ms: i64) {
        let mut server = self.lock();
        if server.reached != Reached::Yes {
            server.reconnects += u64::from(server.reached == Reached::No);
            (server.reached, server.since_ms, server.why) = (Reached::Yes, now_ms, None);
        }
    }

    /// It did not answer.
    pub fn no(&self, now_ms: i64, why: String) {
        let mut server = self.lock();
        server.unreached += 1;
        if server.reached != Reached::No {
            (server.reached, server.since_ms) = (Reached::No, now_ms);
        }
        server.why = Some(why);
    }

    fn lock(&self) -> MutexGuard<'_, ServerStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A road whose traffic is counted.
#[derive(Debug)]
pub struct Counted<R, C> {
    /// The road.
    pub road: R,
    /// Where it is counted.
    pub reach: Arc<Reach>,
    /// What time it is.
    pub clock: Arc<C>,
}

impl<R: Clone, C> Clone for Counted<R, C> {
    fn clone(&self) -> Self {
        Self { road: self.road.clone(), reach: Arc::clone(&self.reach), clock: Arc::clone(&self.clock) }
    }
}

impl<R: Road + Sync, C: Clock> Counted<R, C> {
    fn note<T>(&self, result: &Result<T, RoadError>) {
        let now_ms = self.clock.now().wall_ms();
        match result {
            Ok(_) => self.reach.yes(now_ms),
            Err(RoadError::Unreachable(why)) => self.reach.no(now_ms, why.clone()),
            // These may be about the reader alone, and say nothing of our own server.
            Err(RoadError::Later(_)) => self.reach.lock().put_off += 1,
            Err(RoadError::Refused(_)) => self.reach.lock().refused += 1,
        }
    }
}

impl<R: Road + Sync, C: Clock> Road for Counted<R, C> {
    async fn notify(&self, note: Note<'_>) -> Result<(), RoadError> {
        let result = self.road.notify(note).await;
        self.note(&result);
        if result.is_ok() {
            self.reach.lock().sent += 1;
        }
        result
    }

    async fn status(&self, id: &NoteId) -> Result<NoteStatus, RoadError> {
        let result = self.road.status(id).await;
        self.note(&result);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_begins_a_new_time() {
        let reach = Reach::default();
        assert_eq!(reach.look().reached, Reached::Untried);
        reach.yes(1);
        reach.yes(2);
        assert_eq!((reach.look().since_ms, reach.look().reconnects), (1, 0));
        reach.no(3, "refused".into());
        reach.no(4, "no route".into());
        let server = reach.look();
        assert_eq!((server.reached, server.since_ms, server.unreached), (Reached::No, 3, 2));
        assert_eq!(server.why.as_deref(), Some("no route"), "the latest reason");
        reach.yes(5);
        let server = reach.look();
        assert_eq!((server.since_ms, server.why, server.reconnects), (5, None, 1));
    }
}
