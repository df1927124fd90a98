//! Places on the road of a reading at which a build for tests dies, so that it can be seen what is left.
//!
//! The feature `failpoints` makes such a build, which says `+failpoints` in its version, by which packaging refuses
//! it. `ATEDGE_FAIL=commit-before:3` has it abort when it comes by that place for the third time, and
//! `ATEDGE_SABOTAGE=1` has it acknowledge before the COMMIT, to prove that tests notice. Without the feature
//! nothing of this is in the program.

use clap::ValueEnum;

/// A place, named for what has just happened or is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Failpoint {
    /// The key of a new segment is written.
    SegmentMade,
    /// A start has its epoch.
    EpochKept,
    /// An adapter has handed a reading on.
    Captured,
    /// It is on its way to the outbox.
    Submitted,
    /// What its broker may repeat is remembered, and it is not yet written.
    DeliveryRemembered,
    /// It is written.
    RecordWritten,
    /// A group is about to be committed.
    CommitBefore,
    /// It is, and nobody knows.
    CommitAfter,
    /// Whoever asked has been told.
    Answered,
    /// A device is about to be acknowledged its reading.
    AckBefore,
    /// Its adapter has been told to.
    AckAfter,
    /// A broker will not repeat some deliveries, which are still remembered.
    SettleBefore,
    /// They are forgotten.
    SettleAfter,
    /// SQLite is about to move its log into the database.
    CheckpointBefore,
    /// It has.
    CheckpointAfter,
    /// Records were given out and count as sent, which is not yet committed.
    SentNoted,
    /// They are about to be sent.
    SendBefore,
    /// Our atServer has them.
    SendAfter,
    /// A receipt came.
    ReceiptHeard,
    /// The outbox has taken it, the uplink not.
    ReceiptTaken,
    /// A reader's cursor was moved, and what it passed is still there.
    CursorMoved,
    /// What all readers have was deleted.
    RecordsDeleted,
    /// A lane of an earlier boot was deleted.
    LaneClosed,
    /// It is about to be written down how far was heard.
    HeardBefore,
    /// It is.
    HeardAfter,
    /// Records were dropped, and no gap tells.
    RecordsDropped,
    /// A gap tells.
    GapWritten,
    /// The records that tell of a right clock are written.
    TimefixWritten,
    /// It is written down where a damaged database goes.
    DamageNoted,
    /// It is there.
    Quarantined,
    /// What still reads of it is copied.
    Salvaged,
    /// The copy is in its place.
    Replaced,
}

#[cfg(not(feature = "failpoints"))]
impl Failpoint {
    /// Comes by.
    pub(crate) const fn pass(self) {}
}

/// Whether to acknowledge too early.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn is_sabotaged() -> bool {
    false
}

#[cfg(feature = "failpoints")]
impl Failpoint {
    pub(crate) fn pass(self) {
        use std::sync::LazyLock;
        use std::sync::atomic::{AtomicU32, Ordering};

        static FATAL: LazyLock<Option<(Failpoint, AtomicU32)>> = LazyLock::new(|| {
            let wanted = std::env::var("ATEDGE_FAIL").ok()?;
            let read = || {
                let (point, passes) = wanted.split_once(':')?;
                Some((Failpoint::from_str(point, false).ok()?, AtomicU32::new(passes.parse().ok()?)))
            };
            Some(read().unwrap_or_else(|| panic!("ATEDGE_FAIL is a failpoint and a number, not {wanted}")))
        });
        if let Some((fatal, left)) = &*FATAL
            && *fatal == self
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            std::process::abort();
        }
    }
}

#[cfg(feature = "failpoints")]
pub(crate) fn is_sabotaged() -> bool {
    std::env::var_os("ATEDGE_SABOTAGE").is_some()
}
