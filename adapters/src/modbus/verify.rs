//! Whether a point has come to hold what was written: it is read again until it does, or its time is over.
//! Meanwhile the other units have their turns.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::fault::Fault;
use super::pdu::Response;
use super::plan::Spot;
use crate::{Command, CommandError, DeviceName};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// Most commands that wait for their look at a time.
const MOST: usize = 16;

/// What is to be seen.
pub(super) struct Look {
    /// The unit, by its place.
    pub(super) unit: usize,
    pub(super) device: DeviceName,
    pub(super) spot: Spot,
    /// What was written.
    pub(super) wanted: String,
    pub(super) within: Duration,
}

/// A look, and who waits for it.
pub(super) struct Looking {
    pub(super) look: Look,
    command: Command,
    next: Instant,
    until: Instant,
}

/// All that is to be seen on a bus.
#[derive(Default)]
pub(super) struct Looks(Vec<Looking>);

impl Looks {
    /// Whether no more can be begun.
    pub(super) fn are_full(&self) -> bool {
        self.0.len() >= MOST
    }

    /// What was written at `now` is to be seen.
    pub(super) fn begin(&mut self, look: Look, command: Command, now: Instant) {
        let until = now + look.within;
        self.0.push(Looking { look, command, next: now, until });
    }

    /// The next look's time; never where there is none. Cancel-safe.
    pub(super) async fn due(&self) {
        match self.0.iter().map(|looking| looking.next).min() {
            Some(next) => sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    /// The look that is due first.
    pub(super) fn take(&mut self) -> Option<Looking> {
        let (at, _) = self.0.iter().enumerate().min_by_key(|(_, looking)| looking.next)?;
        Some(self.0.swap_remove(at))
    }

    pub(super) fn put_back(&mut self, looking: Looking) {
        self.0.push(looking);
    }

    /// What `answer` shows at `now`: the end, or that there will be another look, after `rest` at least where
    /// the unit was silent.
    pub(super) fn seen(
        &mut self,
        mut looking: Looking,
        answer: Result<Response, Fault>,
        now: Instant,
        rest: Duration,
        peer: String,
    ) {
        let Look { device, spot, wanted, within, .. } = &looking.look;
        if answer.as_ref().is_ok_and(|response| spot.holds(response, wanted)) {
            return looking.command.finish(Ok(()));
        }
        let next = now + if answer.is_err() { rest.max(PAUSE) } else { PAUSE };
        if next <= looking.until {
            looking.next = next;
            return self.put_back(looking);
        }
        let error = match answer {
            Ok(response) => CommandError::Unverified {
                device: device.clone(),
                point: spot.name.clone(),
                wanted: wanted.clone(),
                found: spot
                    .value(&response)
                    .map_or_else(|| "no number".to_owned(), |value| value.to_string()),
                within: *within,
            },
            Err(fault) => {
                CommandError::NoAnswer { peer, cause: format!("it confirmed the write, and then {fault}") }
            }
        };
        looking.command.finish(Err(error));
    }

    /// The way to the units has gone: nothing will be seen.
    pub(super) fn give_up(&mut self, peer: &str) {
        for looking in self.0.drain(..) {
            let cause = "it confirmed the write, and was lost before it could be read back".to_owned();
            looking.command.finish(Err(CommandError::NoAnswer { peer: peer.to_owned(), cause }));
        }
    }
}
