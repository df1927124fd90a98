//! Who may say what of an atSign, and what becomes of it.

use at_protocol::directory::{Address, VerifiedRecord};
use at_protocol::{AtSign, Timestamp};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::RegistryError;
use super::database::{Database, last_change};

/// Whether what an operator says counts for more than what a node has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// It does not, while the record holds, which depends on the time.
    At(Timestamp),
    /// It does.
    Anyway,
}

/// What became of an operator's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is answered from now on.
    Done {
        /// Where the atSign was before.
        before: Option<Address>,
    },
    /// Nothing: a signed record says otherwise.
    Signed {
        /// When the record ends.
        until: Timestamp,
    },
}

/// What became of a signed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It is answered from now on.
    New,
    /// It is the one that was kept already.
    Again,
    /// It is refused, or another with the same number.
    Older {
        /// The highest number that there was.
        known: u64,
    },
    /// It is refused: its number is beyond what can be kept.
    TooHigh,
}

impl Database {
    /// Refuses what is said at the directory that this one follows.
    fn must_lead(&self) -> Result<(), RegistryError> {
        if self.followed()?.is_some() { Err(RegistryError::Follows) } else { Ok(()) }
    }

    /// Says from now on where these atSigns are served, all in one transaction. A directory that follows another
    /// takes it with [`Say::Anyway`] only.
    ///
    /// # Errors
    /// When the database refuses; nothing has changed then.
    pub fn put(&mut self, entries: &[(AtSign, Address)], say: Say) -> Result<Vec<Put>, RegistryError> {
        // A follower may hold a record that is to be overruled: the other directory's word cannot do that.
        if say != Say::Anyway {
            self.must_lead()?;
        }
        self.change(|transaction| {
            let mut change = last_change(transaction)?;
            let mut results = Vec::with_capacity(entries.len());
            for (atsign, address) in entries {
                if let Some(until) = signed_until(transaction, atsign, say)? {
                    results.push(Put::Signed { until });
                    continue;
                }
                results.push(Put::Done { before: address_of(transaction, atsign)? });
                change += 1;
                write(transaction, atsign, Some(address), change, false)?;
            }
            Ok(results)
        })
    }

    /// Forgets `atsign`, whoever said where it is.
    ///
    /// # Errors
    /// When the database refuses; nothing has changed then.
    pub fn remove(&mut self, atsign: &AtSign) -> Result<Option<Address>, RegistryError> {
        self.must_lead()?;
        self.change(|transaction| {
            let before = address_of(transaction, atsign)?;
            if before.is_some() {
                signed_until(transaction, atsign, Say::Anyway)?;
                write(transaction, atsign, None, last_change(transaction)? + 1, false)?;
            }
            Ok(before)
        })
    }

    /// Takes in signed records, all in one transaction.
    ///
    /// # Errors
    /// When the database refuses; nothing has changed then.
    pub fn register(&mut self, records: &[VerifiedRecord]) -> Result<Vec<Registered>, RegistryError> {
        self.must_lead()?;
        self.change(|transaction| {
            let mut change = last_change(transaction)?;
            let mut results = Vec::with_capacity(records.len());
            for record in records {
                let result = keep(transaction, record)?;
                if result == Registered::New {
                    change += 1;
                    write(transaction, &record.atsign, Some(&record.at.address), change, true)?;
                }
                results.push(result);
            }
            Ok(results)
        })
    }
}

/// The only statement by which a name changes.
pub(super) fn write(
    transaction: &Transaction<'_>,
    atsign: &AtSign,
    address: Option<&Address>,
    change: i64,
    is_signed: bool,
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO atsign VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name)
         DO UPDATE SET address = ?2, changed = ?3, signed = ?4",
    )?;
    let address = address.map(Address::to_string);
    statement.execute(params![atsign.as_str(), address, change, is_signed])?;
    Ok(())
}

/// Keeps a record, if it is newer than what is known of its atSign. Its number then stays known, whatever
/// becomes of the record.
pub(super) fn keep(transaction: &Transaction<'_>, record: &VerifiedRecord) -> rusqlite::Result<Registered> {
    let (name, text) = (record.atsign.as_str(), record.to_string());
    let Ok(seq) = i64::try_from(record.at.seq) else { return Ok(Registered::TooHigh) };
    let mut known = transaction.prepare_cached("SELECT seq, text FROM record WHERE name = ?1")?;
    let known: Option<(i64, Option<String>)> =
        known.query_row([name], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    match known {
        Some((known, kept)) if seq == known && kept.as_ref() == Some(&text) => return Ok(Registered::Again),
        Some((known, _)) if seq <= known => {
            return Ok(Registered::Older { known: known.unsigned_abs() });
        }
        _ => {}
    }
    let ends = record.at.not_after.min(record.grant.not_after);
    transaction
        .prepare_cached(
            "INSERT INTO record VALUES (?1, ?2, ?3, ?4) ON CONFLICT (name)
             DO UPDATE SET seq = ?2, ends = ?3, text = ?4",
        )?
        .execute(params![name, seq, ends.as_millis(), text])?;
    Ok(Registered::New)
}

/// Makes place for another word on an atSign: the end of the record that is in its way, if there is one.
pub(super) fn signed_until(
    transaction: &Transaction<'_>,
    atsign: &AtSign,
    say: Say,
) -> rusqlite::Result<Option<Timestamp>> {
    let mut live =
        transaction.prepare_cached("SELECT ends FROM record WHERE name = ?1 AND text IS NOT NULL")?;
    let ends: Option<i64> = live.query_row([atsign.as_str()], |row| row.get(0)).optional()?;
    let Some(ends) = ends.map(Timestamp::from_millis) else { return Ok(None) };
    if let Say::At(now) = say
        && now < ends
    {
        return Ok(Some(ends));
    }
    let mut forget = transaction.prepare_cached("UPDATE record SET text = NULL WHERE name = ?1")?;
    forget.execute([atsign.as_str()])?;
    Ok(None)
}

fn address_of(connection: &Connection, atsign: &AtSign) -> rusqlite::Result<Option<Address>> {
    let mut statement = connection.prepare_cached("SELECT address FROM atsign WHERE name = ?1")?;
    let address: Option<Option<String>> =
        statement.query_row([atsign.as_str()], |row| row.get(0)).optional()?;
    // What is no address is nowhere.
    Ok(address.flatten().and_then(|address| address.parse().ok()))
}
