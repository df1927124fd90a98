//! Which runs of this outbox have said at the atServer that they are the gateway, so that the next one knows
//! itself there again.

use rusqlite::params;

use super::store::{Store, text};
use super::{Outbox, OutboxError};
use crate::payload::Boot;

/// In `meta`: 1 while another run is, or may be, the gateway, and the owner has not decided.
const FROZEN: &str = "frozen";

/// What is known of former runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The last run that is known to have said that it is the gateway, and those since that may have.
    pub boots: Vec<Boot>,
    /// Whether the owner has yet to decide which box is the gateway.
    pub frozen: bool,
}

impl Outbox {
    /// What is known of former runs.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn claims(&self) -> Result<Claims, OutboxError> {
        self.call(|store| store.claims()).await
    }

    /// This run will say at the atServer that it is the gateway.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`]: it must not.
    pub async fn claiming(&self) -> Result<(), OutboxError> {
        self.call(Store::claiming).await
    }

    /// It has, in place of a run of epoch `before`: the next epoch is beyond that.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn claimed(&self, before: u64) -> Result<(), OutboxError> {
        self.call(move |store| store.claimed(before)).await
    }

    /// Another run is, or may be, the gateway.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn freeze(&self) -> Result<(), OutboxError> {
        self.call(|store| store.set_number(FROZEN, 1)).await
    }
}

impl Store {
    fn claims(&self) -> rusqlite::Result<Claims> {
        let boots = self
            .db
            .prepare_cached("SELECT boot FROM claim")?
            .query_map([], |row| text(row, 0))?
            .collect::<Result<_, _>>()?;
        Ok(Claims { boots, frozen: self.number(FROZEN)?.is_some_and(|frozen| frozen > 0) })
    }

    fn claiming(&mut self) -> rusqlite::Result<()> {
        self.db.execute("INSERT OR IGNORE INTO claim VALUES(?)", [self.boot.to_string()])?;
        Ok(())
    }

    fn claimed(&self, before: u64) -> rusqlite::Result<()> {
        self.db.execute("DELETE FROM claim WHERE boot <> ?", params![self.boot.to_string()])?;
        self.set_number(FROZEN, 0)?;
        let epoch = self.number("epoch")?.unwrap_or(0).max(before);
        self.set_number("epoch", epoch)
    }
}
