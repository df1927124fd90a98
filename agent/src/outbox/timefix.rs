//! Times that were wrong when they were taken: what is known later sets them right.

use atedge_adapters::{DeviceName, StreamName};
use rusqlite::{OptionalExtension as _, params};

use super::store::{Store, text};
use crate::clock::Stamp;
use crate::failpoint::Failpoint;
use crate::payload::{Boot, Record};

/// A clock that is right is written down this often, so that the next start knows what time it is at least.
const WRITE_DOWN_S: i64 = 3600;
/// Where that stands.
const SEEN: &str = "seen_s";

impl Store {
    /// The clock is right since `now`: what waits from this run is given its right time when it goes, and the
    /// readers of what went already are told, by a record of its own in each lane.
    pub(super) fn synchronised(&mut self, now: Stamp) -> rusqlite::Result<()> {
        let began_us = now.wall_us - i64::try_from(now.mono_us).unwrap_or(i64::MAX);
        let boot = self.boot.to_string();
        self.db.execute("INSERT OR REPLACE INTO began VALUES(?, ?)", params![boot, began_us])?;
        self.began = None;
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

    /// Writes a right clock down, now and then.
    pub(super) fn see(&self, now: Stamp) -> rusqlite::Result<()> {
        let seconds = now.wall_us / 1_000_000;
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
