//! What was captured and waits for room in the intake.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{Captured, Command, CommandError, Intake};

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

    /// Says that the device is reached, or why it is not.
    pub(crate) fn tell(&mut self, reached: Result<(), String>) {
        let state = reached.map_or_else(|why| Captured::Unreached { why }, |()| Captured::Reached);
        state.tell(&mut self.captured);
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

    /// Hands on what waits while there is no device, which `peer` names. Says whether to go on.
    pub(crate) async fn pause(
        &mut self,
        pause: Duration,
        peer: &str,
        commands: &mut mpsc::Receiver<Command>,
        stop: &CancellationToken,
    ) -> bool {
        let mut pause = pin!(sleep(pause));
        loop {
            select! {
                () = &mut pause => return true,
                () = stop.cancelled() => return false,
                Some(command) = commands.recv() => {
                    command.finish(Err(CommandError::NotConnected { peer: peer.to_owned() }));
                }
                is_open = self.hand_on() => if !is_open { return false },
            }
        }
    }

    /// Hands on all that waits, before the adapter ends.
    pub(crate) async fn last_words(&mut self, adapter: &str) {
        let all = async { while !self.captured.is_empty() && self.hand_on().await {} };
        if timeout(LAST_WORDS, all).await.is_err() {
            warn!(adapter, "the gateway did not take the last readings; they are lost");
        }
    }
}
