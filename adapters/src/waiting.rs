//! What was captured and waits for room in the intake.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use crate::{Captured, Intake};

/// Reading from a device pauses while so many captures wait.
const MOST: usize = 64;
/// How long what was captured may take to reach the intake when the adapter is stopped.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Captures on their way to the intake, oldest first.
pub(crate) struct Waiting {
    intake: Intake,
    captured: VecDeque<Captured>,
}

impl Waiting {
    /// Nothing waits.
    pub(crate) fn new(intake: Intake) -> Self {
        Self { intake, captured: VecDeque::new() }
    }

    /// Puts one behind the others.
    pub(crate) fn push(&mut self, captured: Captured) {
        self.captured.push_back(captured);
    }

    /// Whether no more is to be read for now.
    pub(crate) fn is_full(&self) -> bool {
        self.captured.len() >= MOST
    }

    /// Hands on the oldest as soon as there is one, and room for it; `false` when nobody takes any more.
    /// Cancel-safe.
    pub(crate) async fn hand_on(&mut self) -> bool {
        if self.captured.is_empty() {
            pending::<()>().await;
        }
        let Ok(permit) = self.intake.reserve().await else { return false };
        if let Some(oldest) = self.captured.pop_front() {
            permit.send(oldest);
        }
        true
    }

    /// Hands on all that waits, before the adapter ends.
    pub(crate) async fn last_words(&mut self, adapter: &str) {
        let all = async { while !self.captured.is_empty() && self.hand_on().await {} };
        if timeout(LAST_WORDS, all).await.is_err() {
            warn!(adapter, "the gateway did not take the last readings; they are lost");
        }
    }
}
