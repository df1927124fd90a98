//! Commands that were begun, each once.

use rusqlite::{OptionalExtension as _, params};

use at_protocol::AtSign;

use super::store::{Store, text};
use super::{Outbox, OutboxError};

/// What tells two commands apart: who asks, and the key that the caller gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommandId {
    /// The caller.
    pub caller: AtSign,
    /// The idempotency key, or where there is none the id of the request.
    pub key: String,
}

/// What must be known of a command before it may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCommand {
    /// What tells it apart.
    pub id: CommandId,
    /// The id of the request, to answer it.
    pub request: String,
    /// For whom it is.
    pub device: String,
    /// Whether doing it twice is as good as once.
    pub idempotent: bool,
    /// When it expires, in milliseconds since 1970.
    pub expires_ms: i64,
    /// Until when it is remembered, in milliseconds since 1970.
    pub forget_ms: i64,
}

/// Whether a command may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It may: that it has begun is on disk.
    Now,
    /// It has begun before and not ended, in this run of the agent.
    Running,
    /// It ended like this.
    Ended(String),
    /// It expires no later than others of this caller that were forgotten, and may be one of them.
    Forgotten,
}

/// A command that a former run of the agent began and did not end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// What tells it apart.
    pub id: CommandId,
    /// The id of its request.
    pub request: String,
    /// For whom it was.
    pub device: String,
}

impl Outbox {
    /// What is known of a command that has begun before.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn recall(&self, id: CommandId) -> Result<Option<Begun>, OutboxError> {
        self.call(move |store| store.recall_command(&id)).await
    }

    /// Writes down that a command begins, unless it has begun before.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`]: it must not begin.
    pub async fn begin(&self, command: NewCommand) -> Result<Begun, OutboxError> {
        self.call(move |store| store.begin_command(&command)).await
    }

    /// Writes down how a command ended.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn end(&self, id: CommandId, outcome: String) -> Result<(), OutboxError> {
        self.call(move |store| store.end_command(&id, &outcome)).await
    }

    /// Commands that former runs began and did not end. Those declared idempotent are forgotten, so that a
    /// repeat runs them again; the others end with `outcome` and are returned.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn give_up_unfinished(&self, outcome: String) -> Result<Vec<Unfinished>, OutboxError> {
        self.call(move |store| store.give_up_unfinished(&outcome)).await
    }

    /// Forgets commands whose time to be remembered is over at `now_ms`, in milliseconds since 1970, and
    /// refuses from now on what could be one of them.
    ///
    /// # Errors
    /// [`OutboxError::NotStored`].
    pub async fn forget_commands(&self, now_ms: i64) -> Result<(), OutboxError> {
        self.call(move |store| store.forget_commands(now_ms)).await
    }
}

impl Store {
    fn recall_command(&self, id: &CommandId) -> rusqlite::Result<Option<Begun>> {
        let outcome: Option<Option<String>> = self
            .db
            .prepare_cached("SELECT outcome FROM command WHERE caller = ? AND key = ?")?
            .query_row(params![id.caller.as_str(), id.key], |row| row.get(0))
            .optional()?;
        Ok(outcome.map(|outcome| outcome.map_or(Begun::Running, Begun::Ended)))
    }

    pub(super) fn begin_command(&self, new: &NewCommand) -> rusqlite::Result<Begun> {
        if let Some(begun) = self.recall_command(&new.id)? {
            return Ok(begun);
        }
        let CommandId { caller, key } = &new.id;
        let floor: Option<i64> = self
            .db
            .prepare_cached("SELECT expires_ms FROM command_floor WHERE caller = ?")?
            .query_row([caller.as_str()], |row| row.get(0))
            .optional()?;
        if floor.is_some_and(|floor| new.expires_ms <= floor) {
            return Ok(Begun::Forgotten);
        }
        self.db.prepare_cached("INSERT INTO command VALUES(?, ?, ?, ?, ?, ?, ?, ?, NULL)")?.execute(
            params![
                caller.as_str(),
                key,
                self.boot.epoch(),
                new.request,
                new.device,
                new.idempotent,
                new.expires_ms,
                new.forget_ms
            ],
        )?;
        Ok(Begun::Now)
    }

    pub(super) fn end_command(&self, id: &CommandId, outcome: &str) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("UPDATE command SET outcome = ? WHERE caller = ? AND key = ?")?
            .execute(params![outcome, id.caller.as_str(), id.key])?;
        Ok(())
    }

    pub(super) fn give_up_unfinished(&self, outcome: &str) -> rusqlite::Result<Vec<Unfinished>> {
        let epoch = self.boot.epoch();
        self.db.execute("DELETE FROM command WHERE outcome IS NULL AND idempotent AND epoch < ?", [epoch])?;
        let mut update = self.db.prepare(
            "UPDATE command SET outcome = ? WHERE outcome IS NULL AND epoch < ? RETURNING caller, key, request, device",
        )?;
        let rows = update.query_map(params![outcome, epoch], |row| {
            let id = CommandId { caller: text(row, 0)?, key: row.get(1)? };
            Ok(Unfinished { id, request: row.get(2)?, device: row.get(3)? })
        })?;
        rows.collect()
    }

    pub(super) fn forget_commands(&self, now_ms: i64) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO command_floor
                 SELECT caller, max(expires_ms) FROM command WHERE forget_ms <= ? AND outcome IS NOT NULL GROUP BY caller
                 ON CONFLICT(caller) DO UPDATE SET expires_ms = max(expires_ms, excluded.expires_ms)",
            )?
            .execute([now_ms])?;
        self.db
            .prepare_cached("DELETE FROM command WHERE forget_ms <= ? AND outcome IS NOT NULL")?
            .execute([now_ms])?;
        Ok(())
    }
}
