//! A look at the running agent, for people and for machines.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use at_protocol::AtSign;
use atedge_adapters::DeviceName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::commands::Handled;
use crate::outbox::{OutboxError, Stat, Trouble, stat_from_outside};
use crate::payload::{Boot, ClockState};
use crate::reach::{Reach, ServerStatus};
use crate::standing::Standing;
use crate::tally::{AdapterStatus, Tallies};
use crate::voice::{Own, VoiceStatus};

/// What is looked at.
#[derive(Clone)]
pub struct Look {
    /// The gateway.
    pub gateway: AtSign,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The run.
    pub boot: Boot,
    /// Where the queue is.
    pub folder: PathBuf,
    /// The adapters.
    pub tallies: Tallies,
    /// The way to our atServer.
    pub reach: Arc<Reach>,
    /// The devices with an atSign of their own.
    pub own: Own,
    /// Receipts that were taken.
    pub receipts: Arc<AtomicU64>,
    /// Receipts that were not known to be genuine, of each atSign.
    pub receipts_refused: Vec<Arc<AtomicU64>>,
    /// Why the queue takes nothing, while that is so.
    pub trouble: Trouble,
    /// Commands, by how they ended.
    pub handled: Arc<Handled>,
    /// Whether another box is this gateway.
    pub standing: watch::Receiver<Standing>,
}

/// How an agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Who it is.
    pub gateway: AtSign,
    /// Its run: the epoch grows at every start.
    pub boot: String,
    /// How long it has run, in seconds.
    pub uptime_s: u64,
    /// What time it has, in milliseconds since 1970.
    pub now_ms: i64,
    /// Whether that is right.
    pub clock: ClockState,
    /// Memory in use (resident), in KiB; absent where the system does not say.
    pub memory_kib: Option<u64>,
    /// Whether it alone is the gateway.
    #[serde(default)]
    pub standing: Standing,
    /// Its atServer.
    pub server: ServerStatus,
    /// The devices with an atSign of their own.
    #[serde(default)]
    pub own: BTreeMap<String, VoiceStatus>,
    /// Receipts of readers that were taken.
    pub receipts: u64,
    /// Receipts that were not known to be genuine, or came again.
    #[serde(default)]
    pub receipts_refused: u64,
    /// Commands, by how they ended.
    pub commands: BTreeMap<String, u64>,
    /// Its adapters.
    pub adapters: BTreeMap<String, AdapterStatus>,
    /// Why its disk takes nothing now, so that no device is acknowledged anything; absent where it does.
    #[serde(default)]
    pub disk: Option<String>,
    /// Its queue, with the backlog of each reader.
    pub queue: Stat,
}

impl Look {
    /// How the agent is now.
    ///
    /// # Errors
    /// When the queue does not answer.
    pub async fn status(&self) -> Result<Status, OutboxError> {
        // To count takes a while in a deep queue, which its thread has better use for.
        let folder = self.folder.clone();
        let counted = tokio::task::spawn_blocking(move || stat_from_outside(&folder)).await;
        let queue = counted.unwrap_or(Err(OutboxError::NotStored))?;
        let now = self.clock.now();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            gateway: self.gateway.clone(),
            boot: self.boot.to_string(),
            uptime_s: now.mono_us / 1_000_000,
            now_ms: now.wall_ms(),
            clock: now.state,
            memory_kib: memory_kib(),
            standing: self.standing.borrow().clone(),
            server: self.reach.look(),
            own: self.own.iter().map(own).collect(),
            receipts: self.receipts.load(Ordering::Relaxed),
            receipts_refused: self.receipts_refused.iter().map(|one| one.load(Ordering::Relaxed)).sum(),
            commands: self.handled.look(),
            adapters: self.tallies.look(now.wall_ms()),
            disk: self.trouble.look(),
            queue,
        })
    }
}

fn own((device, (atsign, reach)): (&DeviceName, &(AtSign, Arc<Reach>))) -> (String, VoiceStatus) {
    (device.to_string(), VoiceStatus { atsign: atsign.clone(), server: reach.look() })
}

fn memory_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}
