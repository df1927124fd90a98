//! Times that were wrong when they were taken: what is known later sets them right.

use atedge_adapters::{DeviceName, StreamName};
use rusqlite::{OptionalExtension as _, params};

use super::store::{Store, text};
use crate::clock::Stamp;
use crate::failpoint::Failpoint;
use crate::payload::{Boot, ClockState, Record};

/// A clock that is right is written down this often, so that the next start knows what time it is at least.
const WRITE_DOWN_S: i64 = 3600;
/// Where that stands.
const SEEN: &str = "seen_s";

/// A moment, by which things grow old: whatever the wall clock is set to, they do so no sooner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steady {
    /// Since the start, in microseconds.
    pub(super) mono_us: u64,
    /// Since 1970, in microseconds, as the wall clock said when it was first right in this run; unknown until then.
    pub(super) us: Option<i64>,
}

impl Store {
    /// The clock is right since `now`: what waits from this run is given its right time when it goes, and the
    /// readers of what went already are told, by a record of its own in each lane.
    pub(super) fn synchronised(&mut self, now: Stamp) -> rusqlite::Result<()> {
        let began_us = self.note_began(now)?;
        let boot = self.boot.to_string();
        let lanes: Vec<(DeviceName, StreamName)> = self
            .db
            .prepare(
                "SELECT device, stream FROM lane WHERE boot = ? AND free
                 AND EXISTS (SELECT 1 FROM cursor WHERE lane = lane.id AND sent > 0)",
            )?
            .query_map([boot], |row| Ok((text(row, 0)?, text(row, 1)?)))?
            .collect::<Result<_, _>>()?;
        for (device, stream) in lanes {
            let (id, lane, seq) = self.next_number(&device, &stream)?;
            self.insert(id, &lane, &Record::timefix(seq, now.wall_us, began_us), now, false)?;
        }
        Failpoint::TimefixWritten.pass();
        Ok(())
    }

    /// Writes down when the monotonic time of this run began: its wall clock is right at `now`.
    fn note_began(&mut self, now: Stamp) -> rusqlite::Result<i64> {
        let began_us = now.wall_us - signed(now.mono_us);
        self.db
            .prepare_cached("INSERT OR REPLACE INTO began VALUES(?, ?)")?
            .execute(params![self.boot.to_string(), began_us])?;
        self.began = None;
        Ok(began_us)
    }

    /// What time it is by the clock that never jumps.
    pub(super) fn steady(&mut self, now: Stamp) -> rusqlite::Result<Steady> {
        let began_us = match self.began(self.boot)? {
            None if now.state == ClockState::Sync => Some(self.note_began(now)?),
            known => known,
        };
        let us = began_us.map(|began_us| began_us.saturating_add(signed(now.mono_us)));
        Ok(Steady { mono_us: now.mono_us, us })
    }

    /// When the monotonic time of `boot` began, if that is known.
    pub(super) fn began(&mut self, boot: Boot) -> rusqlite::Result<Option<i64>> {
        if let Some((known, began)) = self.began
            && known == boot
        {
            return Ok(began);
        }
        let began = self
            .db
            .prepare_cached("SELECT us FROM began WHERE boot = ?")?
            .query_row([boot.to_string()], |row| row.get(0))
            .optional()?;
        self.began = Some((boot, began));
        Ok(began)
    }

    /// Forgets what is known of boots that nothing is left of.
    pub(super) fn forget_began(&self) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("DELETE FROM began WHERE boot <> ? AND boot NOT IN (SELECT boot FROM lane)")?
            .execute([self.boot.to_string()])?;
        Ok(())
    }

    /// Writes down what time it is, which is sure, now and then.
    pub(super) fn see(&self, now_us: i64) -> rusqlite::Result<()> {
        let seconds = now_us / 1_000_000;
        let seen = self.number(SEEN)?.and_then(|seen| i64::try_from(seen).ok()).unwrap_or(0);
        if seconds - seen >= WRITE_DOWN_S {
            self.set_number(SEEN, u64::try_from(seconds).unwrap_or(0))?;
        }
        Ok(())
    }

    /// The last time that was written down, in seconds since 1970.
    pub(super) fn seen_s(&self) -> rusqlite::Result<Option<u64>> {
        self.number(SEEN)
    }
}

/// Monotonic time beside wall-clock time, which has a sign.
pub(super) fn signed(mono_us: u64) -> i64 {
    i64::try_from(mono_us).unwrap_or(i64::MAX)
}
