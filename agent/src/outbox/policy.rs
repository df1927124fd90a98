//! What streams ask of the queue, and what becomes of their records when it is full.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use at_protocol::AtSign;
use atedge_adapters::report::Summary;
use atedge_adapters::{DeviceName, StreamName};
use serde::{Deserialize, Serialize};

use crate::seal::Place;

/// How long records of streams that say nothing about it are kept.
pub const DEFAULT_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// How sure a COMMIT is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It survives a power cut: synchronous=FULL.
    Full,
    /// It does not: synchronous=OFF. For tests, and to prove that those which cut the power can fail; no
    /// configuration reaches it.
    None,
}

/// How important a stream is: 0 comes first, 9 last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

/// A number above 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a priority is 0, which comes first, to 9")]
pub struct InvalidPriority;

impl Priority {
    /// The most important.
    pub const FIRST: Self = Self(0);
}

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

impl TryFrom<u8> for Priority {
    type Error = InvalidPriority;

    fn try_from(number: u8) -> Result<Self, InvalidPriority> {
        if number <= 9 { Ok(Self(number)) } else { Err(InvalidPriority) }
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

/// What of a stream must reach its readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Every record.
    #[default]
    Log,
    /// The newest of each device: it takes the place of those that were not sent before it.
    Latest,
    /// As many as do: nobody waits until they are on disk.
    Sample,
}

/// One way to make room in a full queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// Records whose time to live is up go now.
    Expire,
    /// Old records that were never sent become one per window, as [`Thin`] says.
    Thin,
    /// The oldest records of the least important streams that allow it go.
    DropOldest,
    /// Nothing goes: whoever brings more waits, and its device with it.
    Block,
}

/// How many become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thin {
    /// Records younger than this stay as they are.
    pub after: Duration,
    /// The length of a window.
    pub to: Duration,
    /// What is kept of the numbers in it.
    pub with: Vec<Summary>,
}

impl Default for Thin {
    /// After six hours one record a minute, with mean, least and greatest.
    fn default() -> Self {
        Self {
            after: Duration::from_secs(6 * 3600),
            to: Duration::from_secs(60),
            with: vec![Summary::Mean, Summary::Min, Summary::Max],
        }
    }
}

/// What a stream asks of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPolicy {
    /// Who is to get its records.
    pub readers: BTreeSet<AtSign>,
    /// Whether only their receipts confirm; else it also does that their server has it.
    pub receipts: bool,
    /// How long a record is kept for a reader that does not confirm it.
    pub ttl: Duration,
    /// How long a record is kept for a reader that confirms nothing at all.
    pub hold: Duration,
    /// Who goes first, and who is dropped last.
    pub priority: Priority,
    /// What of it must reach them.
    pub keep: Keep,
    /// What to do when the queue is full, in this order; [`WhenFull::Block`] after all of them.
    pub full: Vec<WhenFull>,
    /// How it is thinned.
    pub thin: Thin,
}

impl Default for StreamPolicy {
    /// For nobody, kept a week, dropped by nothing but its age.
    fn default() -> Self {
        Self {
            readers: BTreeSet::new(),
            receipts: false,
            ttl: DEFAULT_TTL,
            hold: DEFAULT_TTL,
            priority: Priority::default(),
            keep: Keep::Log,
            full: Vec::new(),
            thin: Thin::default(),
        }
    }
}

impl StreamPolicy {
    /// Whether `way` may be gone to make room in its records.
    pub(super) fn allows(&self, way: WhenFull) -> bool {
        self.full.iter().take_while(|way| **way != WhenFull::Block).any(|allowed| *allowed == way)
    }
}

/// Space on the disk that is left to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the file system.
    Percent(u8),
}

/// How to open an outbox.
#[derive(Clone, Debug)]
pub struct OutboxOptions {
    /// The folder of the database and its lock.
    pub folder: PathBuf,
    /// Where the seal key is.
    pub seal: Place,
    /// Size of the database, in bytes, from which on it is full.
    pub max_bytes: u64,
    /// It is full as well when the file system has no more than this left.
    pub min_free: MinFree,
    /// Of the size, what only records of this priority, or more important ones, may take.
    pub reserve: BTreeMap<Priority, u64>,
    /// Devices that are sent for by themselves: see [`Outbox::share`](super::Outbox::share).
    pub apart: BTreeSet<DeviceName>,
    /// The streams that are configured.
    pub streams: BTreeMap<StreamName, StreamPolicy>,
    /// How long a group waits for more to share its COMMIT.
    pub linger: Duration,
    /// How sure a COMMIT is.
    pub durability: Durability,
    /// A file system registered with SQLite, to be used in place of the system's. For tests.
    pub vfs: Option<String>,
}

impl OutboxOptions {
    /// An outbox in `folder` for `streams`: 512 MiB and no reserve, durable.
    pub fn new(folder: impl Into<PathBuf>, streams: BTreeMap<StreamName, StreamPolicy>) -> Self {
        let folder = folder.into();
        Self {
            seal: Place::of(&folder),
            folder,
            max_bytes: 512 << 20,
            min_free: MinFree::Bytes(0),
            reserve: BTreeMap::new(),
            apart: BTreeSet::new(),
            streams,
            linger: Duration::ZERO,
            durability: Durability::Full,
            vfs: None,
        }
    }

    /// The most bytes that records of `priority` may fill the database to.
    pub(super) fn limit(&self, priority: Priority) -> u64 {
        let reserved = self.reserve.range(..priority).map(|(_, bytes)| bytes).sum();
        self.max_bytes.saturating_sub(reserved)
    }
}
