//! Whether this box alone is the gateway. A cloned disk, or a backup that is put back while the original lives,
//! would make two of one: each would send in the other's name, and carry out each command again.
//!
//! The self key `epoch.atedge@gateway` names the run that is the gateway. Each run looks there before it sends
//! anything. Where it finds a run of its own outbox, it takes over; where it finds another, it freezes, and says so
//! in the record, so that the other, which looks every now and then, freezes as well. A frozen gateway keeps what
//! its devices say, and waits for its owner to claim that it is the one.

use std::sync::Arc;
use std::time::Duration;

use at_client::{Client, RecordError};
use at_protocol::response::ErrorCode;
use at_protocol::{AtKey, Metadata};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::control::Answer;
use crate::outbox::{Claims, Outbox, OutboxError};
use crate::payload::{Boot, NoteId};
use crate::uplink::{Note, NoteStatus, Road, RoadError};

/// The name of the record.
const EPOCH: &str = "epoch.atedge";
/// How often it is looked there whether another has come: within this time a clone is noticed.
const LOOK: Duration = Duration::from_secs(30);
/// Pause before the first look is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What the record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EpochRecord {
    /// The version of this format: 1.
    atedge: u32,
    /// The run that is the gateway.
    boot: Boot,
    /// A run of another outbox, which was there as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rival: Option<Boot>,
}

/// What to do about what was found. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It names us.
    Stay,
    /// It names a run before us, or none.
    Claim,
    /// Another is, or was, there as well.
    Freeze(Boot),
}

fn judge(found: Option<EpochRecord>, own: Boot, former: &[Boot]) -> Verdict {
    match found {
        None => Verdict::Claim,
        Some(EpochRecord { boot, .. }) if boot != own && !former.contains(&boot) => Verdict::Freeze(boot),
        Some(EpochRecord { rival: Some(rival), .. }) => Verdict::Freeze(rival),
        Some(EpochRecord { boot, rival: None, .. }) if boot == own => Verdict::Stay,
        Some(_) => Verdict::Claim,
    }
}

/// Whether this box alone is the gateway, as far as it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Standing {
    /// It has not been able to look yet. Nothing is sent.
    #[default]
    Unknown,
    /// It is.
    Alone,
    /// It may not look, and acts as if it were.
    Unwatched {
        /// Why not.
        why: String,
    },
    /// Another run is, or was, there as well. Nothing is sent and no command carried out until the owner decides.
    Frozen {
        /// Which.
        other: Boot,
    },
}

impl Standing {
    const fn may_act(&self) -> bool {
        matches!(self, Self::Alone | Self::Unwatched { .. })
    }
}

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The atServer did not answer, or not with what it was asked for.
    #[error("cannot look whether another box is this gateway: {0}")]
    Record(#[from] RecordError),
    /// The outbox no longer answers.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// What a claim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The run that is the gateway now.
    pub boot: Boot,
}

/// A claim that somebody waits for.
pub type Claiming = oneshot::Sender<Answer<Claimed>>;

/// Looks whether another box is this gateway.
pub struct Guard {
    client: Client,
    outbox: Outbox,
    /// Whether the outbox was so damaged that it may have forgotten its runs.
    forgetful: bool,
    standing: watch::Sender<Standing>,
    looking: Mutex<()>,
}

impl Guard {
    /// Nothing is looked at yet. `forgetful` says that the outbox was damaged: should it know no former run, it
    /// believes to be the gateway.
    pub fn new(client: Client, outbox: Outbox, forgetful: bool) -> Self {
        Self { client, outbox, forgetful, standing: watch::Sender::default(), looking: Mutex::default() }
    }

    /// What is known, now and from now on.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whether commands may be carried out now.
    pub fn may_act(&self) -> bool {
        self.standing.borrow().may_act()
    }

    /// Looks until it is known whether another is there, and then every now and then, until `stop`. Does what
    /// the owner decides.
    ///
    /// # Errors
    /// When the outbox no longer answers.
    pub async fn run(
        &self,
        mut claims: mpsc::Receiver<Claiming>,
        stop: CancellationToken,
    ) -> Result<(), OutboxError> {
        loop {
            let looked = {
                let _one = self.looking.lock().await;
                self.look().await
            };
            let pause = match looked {
                Ok(()) => LOOK,
                Err(LookError::Outbox(error)) => return Err(error),
                Err(error @ LookError::Record(_)) => {
                    debug!(%error, "looking again");
                    if self.is_unknown() { LOOK_AGAIN } else { LOOK }
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                Some(claiming) = claims.recv() => {
                    let answer = match self.claim().await {
                        Ok(()) => Answer::Done(Claimed { boot: self.outbox.boot() }),
                        Err(error) => Answer::Failed(error.to_string()),
                    };
                    // Whoever asked may have gone.
                    claiming.send(answer).ok();
                }
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Waits until it is known whether another is there.
    pub async fn known(&self) {
        // The sender is ours, so that it cannot go meanwhile.
        drop(self.standing.subscribe().wait_for(|standing| *standing != Standing::Unknown).await);
    }

    /// Waits while frozen; looks first where that has not been done.
    ///
    /// # Errors
    /// When it could not look.
    pub async fn clear(&self) -> Result<(), LookError> {
        if self.is_unknown() {
            let _one = self.looking.lock().await;
            if self.is_unknown() {
                self.look().await?;
            }
        }
        drop(self.standing.subscribe().wait_for(Standing::may_act).await);
        Ok(())
    }

    fn is_unknown(&self) -> bool {
        *self.standing.borrow() == Standing::Unknown
    }

    /// Looks, one at a time.
    async fn look(&self) -> Result<(), LookError> {
        let own = self.outbox.boot();
        let found = match self.found().await {
            Ok(found) => found,
            Err(error) if is_forbidden(&error) => {
                self.turn(Standing::Unwatched { why: error.to_string() });
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        // As most looks find it; it needs no look into the outbox.
        if judge(found, own, &[]) == Verdict::Stay && *self.standing.borrow() == Standing::Alone {
            return Ok(());
        }
        let Claims { boots: former, frozen } = self.outbox.claims().await?;
        let has_forgotten = self.forgetful && former.is_empty();
        match judge(found.filter(|_| !has_forgotten), own, &former) {
            Verdict::Freeze(other) => {
                if let Some(EpochRecord { boot, rival: None, .. }) = found
                    && !frozen
                {
                    self.say(EpochRecord { atedge: 1, boot, rival: Some(own) }).await?;
                }
                self.outbox.freeze().await?;
                self.turn(Standing::Frozen { other });
            }
            Verdict::Stay | Verdict::Claim if frozen => {
                self.turn(Standing::Frozen { other: found.map_or(own, |found| found.boot) });
            }
            Verdict::Claim => {
                self.take_over(found).await?;
                self.turn(Standing::Alone);
            }
            Verdict::Stay => self.turn(Standing::Alone),
        }
        Ok(())
    }

    /// The owner has decided: this box is the gateway, and any other is not.
    async fn claim(&self) -> Result<(), LookError> {
        let _one = self.looking.lock().await;
        let found = self.found().await?;
        self.take_over(found).await?;
        self.turn(Standing::Alone);
        Ok(())
    }

    /// Written down before it is said, so that the next run knows this one wherever this one is killed.
    async fn take_over(&self, found: Option<EpochRecord>) -> Result<(), LookError> {
        self.outbox.claiming().await?;
        self.say(EpochRecord { atedge: 1, boot: self.outbox.boot(), rival: None }).await?;
        let before = found.map_or(0, |found| found.boot.epoch());
        self.outbox.claimed(before).await?;
        Ok(())
    }

    async fn found(&self) -> Result<Option<EpochRecord>, RecordError> {
        let record = match self.client.get(&self.key()).await {
            Ok(record) => record,
            Err(error @ RecordError::Ask { .. }) => return Err(error),
            Err(error) => {
                warn!(%error, "what was said about the gateway's runs cannot be read, and is written anew");
                return Ok(None);
            }
        };
        Ok(record.and_then(|record| match serde_json::from_slice(&record.value) {
            Ok(found) => Some(found),
            Err(error) => {
                warn!(%error, "what was said about the gateway's runs makes no sense, and is written anew");
                None
            }
        }))
    }

    async fn say(&self, record: EpochRecord) -> Result<(), RecordError> {
        let json = serde_json::to_vec(&record).expect("numbers and words are JSON");
        self.client.put(&self.key(), &json, Metadata::default()).await.map(drop)
    }

    fn key(&self) -> AtKey {
        let name = EPOCH.parse().expect("it is a key name");
        AtKey::Own { name, owner: self.client.atsign().clone() }
    }

    /// Says what changed.
    fn turn(&self, standing: Standing) {
        let changed = self.standing.send_if_modified(|before| {
            let changed = *before != standing;
            before.clone_from(&standing);
            changed
        });
        if !changed {
            return;
        }
        match &standing {
            Standing::Unknown => {}
            Standing::Alone => info!(boot = %self.outbox.boot(), "this box is the gateway"),
            Standing::Unwatched { why } => {
                warn!(why, "a clone of this box would go unnoticed; does its enrollment include atedge:rw?");
            }
            Standing::Frozen { other } => error!(%other, "{FROZEN}"),
        }
    }
}

/// What a frozen gateway says of itself.
pub const FROZEN: &str = "another box is, or was, this gateway: its disk was cloned, or a backup was put back. Nothing is \
    sent and no command carried out; what devices say is kept. `atedge-agent claim` on the one that is to be the \
    gateway ends that";

/// Whether our atServer does not let us look or say, which no waiting mends.
fn is_forbidden(error: &RecordError) -> bool {
    let RecordError::Ask { source, .. } = error else { return false };
    matches!(source.code(), Some(ErrorCode::Unauthorized))
}

/// A road that nothing is sent on while another may be this gateway.
#[derive(Clone)]
pub struct Guarded<R> {
    /// The road.
    pub road: R,
    /// Who knows.
    pub guard: Arc<Guard>,
}

impl<R: Road + Sync> Road for Guarded<R> {
    async fn notify(&self, note: Note<'_>) -> Result<(), RoadError> {
        self.guard.clear().await.map_err(|error| RoadError::Unreachable(error.to_string()))?;
        self.road.notify(note).await
    }

    async fn status(&self, id: &NoteId) -> Result<NoteStatus, RoadError> {
        self.road.status(id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Boot = Boot::new(7, 1);
    const BEFORE: Boot = Boot::new(6, 1);
    const OTHER: Boot = Boot::new(6, 2);

    fn record(boot: Boot, rival: Option<Boot>) -> Option<EpochRecord> {
        Some(EpochRecord { atedge: 1, boot, rival })
    }

    #[test]
    fn a_run_takes_over_from_its_own_outbox_alone() {
        let judge = |found| judge(found, OWN, &[BEFORE]);
        assert_eq!(judge(None), Verdict::Claim);
        assert_eq!(judge(record(BEFORE, None)), Verdict::Claim);
        assert_eq!(judge(record(OWN, None)), Verdict::Stay);
        assert_eq!(judge(record(OTHER, None)), Verdict::Freeze(OTHER));
        // Another was here since: ours before or not, the owner decides.
        for ours in [OWN, BEFORE] {
            assert_eq!(judge(record(ours, Some(OTHER))), Verdict::Freeze(OTHER));
        }
        assert_eq!(judge(record(OTHER, Some(OWN))), Verdict::Freeze(OTHER));
    }

    #[test]
    fn the_record_reads_like_this() {
        let json = r#"{"atedge":1,"boot":"7-0000000000000001"}"#;
        assert_eq!(serde_json::to_string(&record(OWN, None)).unwrap(), json);
        assert_eq!(serde_json::from_str::<EpochRecord>(json).ok(), record(OWN, None));
        let newer = r#"{"atedge":2,"boot":"7-0000000000000001","rival":"6-0000000000000002","more":0}"#;
        assert_eq!(serde_json::from_str::<EpochRecord>(newer).unwrap().rival, Some(OTHER));
    }
}
