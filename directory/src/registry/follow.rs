//! Changes from one directory to another.

use at_protocol::directory::{Address, VerifiedRecord};
use at_protocol::{AtSign, Timestamp};
use rusqlite::{OptionalExtension, Transaction, params};

use super::changes::{Say, keep, signed_until, write};
use super::database::{Database, last_change};
use super::{Registered, RegistryError};
use crate::follow::Line;

/// What a registry says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Story {
    /// What it is called.
    pub(crate) id: String,
    /// Whoever has its changes up to one before this misses names that have gone.
    pub(crate) floor: i64,
    /// Its last change.
    pub(crate) last: i64,
}

/// What has changed, for another directory.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) lines: Vec<Line>,
    /// The last of the changes.
    pub(crate) last: i64,
}

/// What another directory says of one atSign.
#[derive(Debug)]
pub(crate) enum Word {
    /// Its operator said so.
    At(AtSign, Address),
    /// A node has signed it.
    Signed(Box<VerifiedRecord>),
    /// It is served no more.
    Gone(AtSign),
}

impl Database {
    pub(super) fn story(&self) -> Result<Story, RegistryError> {
        self.reading(|| Ok(Story { id: self.id()?, floor: self.floor()?, last: self.last_change()? }))
    }

    pub(super) fn news(&self, after: i64, most: usize) -> Result<News, RegistryError> {
        self.reading(|| {
            let mut entries = Vec::new();
            self.changes(after, most, |entry| entries.push(entry))?;
            let mut news = News { lines: Vec::with_capacity(entries.len()), last: after };
            for entry in entries {
                news.last = entry.change;
                let signed = if entry.is_signed { self.record(&entry.atsign)? } else { None };
                news.lines.push(match (signed.map(|text| text.parse()), entry.address) {
                    (Some(Ok(record)), _) => Line::Record(Box::new(record)),
                    (_, Some(address)) => Line::At(entry.atsign, address),
                    (_, None) => Line::Gone(entry.atsign),
                });
            }
            Ok(news)
        })
    }

    pub(super) fn followed(&self) -> Result<Option<(String, i64)>, RegistryError> {
        let followed = "SELECT id, change FROM follows";
        let row = self.connection.query_row(followed, [], |row| Ok((row.get(0)?, row.get(1)?)));
        row.optional().map_err(self.refused())
    }

    pub(super) fn begin(&mut self) -> Result<i64, RegistryError> {
        self.change(|transaction| {
            transaction
                .execute("INSERT INTO follows SELECT '', 0 WHERE NOT EXISTS (SELECT 1 FROM follows)", [])?;
            last_change(transaction)
        })
    }

    /// Takes an operator's and nodes' words again, of a directory that follows no other any more.
    pub(super) fn lead(&mut self) -> Result<(), RegistryError> {
        self.change(|transaction| transaction.execute("DELETE FROM follows", []).map(drop))
    }

    pub(super) fn take_over(
        &mut self,
        words: &[Word],
        upto: Option<(&str, i64)>,
        now: Timestamp,
    ) -> Result<(), RegistryError> {
        self.change(|transaction| {
            let mut change = last_change(transaction)?;
            for word in words {
                let (atsign, address, is_signed) = match word {
                    Word::Gone(atsign) => {
                        signed_until(transaction, atsign, Say::Anyway)?;
                        (atsign, None, false)
                    }
                    // What a node has signed counts for more than another directory's word.
                    Word::At(atsign, _) if signed_until(transaction, atsign, Say::At(now))?.is_some() => {
                        change += 1;
                        touch(transaction, atsign, change)?;
                        continue;
                    }
                    Word::At(atsign, address) => (atsign, Some(address), false),
                    Word::Signed(record) => match keep(transaction, record)? {
                        Registered::New | Registered::Again => {
                            (&record.atsign, Some(&record.at.address), true)
                        }
                        Registered::Older { .. } | Registered::TooHigh => {
                            change += 1;
                            touch(transaction, &record.atsign, change)?;
                            continue;
                        }
                    },
                };
                change += 1;
                write(transaction, atsign, address, change, is_signed)?;
            }
            if let Some((id, change)) = upto {
                transaction.execute("UPDATE follows SET id = ?1, change = ?2", params![id, change])?;
            }
            Ok(())
        })
    }

    /// Forgets the names whose last change is not after `before`, at most `most`; whether there are more.
    pub(super) fn forget_before(&mut self, before: i64, most: usize) -> Result<bool, RegistryError> {
        let mut names = Vec::new();
        self.changes_upto(before, most, |entry| names.push(entry.atsign))?;
        let gone: Vec<Word> = names.into_iter().map(Word::Gone).collect();
        self.take_over(&gone, None, Timestamp::from_millis(0))?;
        Ok(gone.len() == most)
    }
}

/// Notes that an atSign was spoken of, though nothing has changed.
fn touch(transaction: &Transaction<'_>, atsign: &AtSign, change: i64) -> rusqlite::Result<()> {
    let mut touch = transaction.prepare_cached("UPDATE atsign SET changed = ?2 WHERE name = ?1")?;
    touch.execute(params![atsign.as_str(), change]).map(drop)
}
