//! Changes to records, with what the commit log hears of them.

use at_protocol::{AtKey, AtSign, Timestamp};
use rusqlite::Connection;

use super::super::{Change, Edit, How, Record, Refused};
use super::commits;
use super::records::{delete, get, put};
use super::writer::Group;

/// Makes all of `edits`, or none.
pub(super) fn edit(
    group: &mut Group<'_>,
    tenant: (i64, &AtSign),
    edits: &[Edit],
    now: Timestamp,
) -> rusqlite::Result<Result<Vec<i64>, Refused>> {
    group.note_time(now);
    // A single edit finds out before it writes; of several, none may write before all have.
    if edits.len() > 1 {
        for edit in edits {
            if let Err(refused) = before(group.sql, tenant.0, edit, How::default(), now)? {
                return Ok(Err(refused));
            }
        }
    }
    let mut commits = Vec::with_capacity(edits.len());
    for edit in edits {
        match edit_one(group, tenant, edit, How::default(), now)? {
            Ok(commit) => commits.push(commit),
            Err(refused) => return Ok(Err(refused)),
        }
    }
    Ok(Ok(commits))
}

/// What is there before an edit, as far as it matters, if the edit may be made at all.
fn before(
    sql: &Connection,
    tenant: i64,
    edit: &Edit,
    how: How,
    now: Timestamp,
) -> rusqlite::Result<Result<Option<Record>, Refused>> {
    let (key, must_be) = match edit {
        Edit::But(how, edit) => return before(sql, tenant, edit, *how, now),
        Edit::Update { key, .. } | Edit::Delete { key } => (key, false),
        Edit::Describe { key, .. } => (key, true),
        Edit::Rename { from, .. } => return get(sql, tenant, &from.to_string()).map(Ok),
        Edit::Replace { .. } => return Ok(Ok(None)),
    };
    let record = get(sql, tenant, &key.to_string())?;
    let lives = record.as_ref().filter(|record| !record.is_expired(now));
    Ok(match lives {
        None if must_be => Err(Refused::Missing(key.clone())),
        // A copy is not the owner's word, and goes when the owner's does.
        Some(record) if record.metadata.immutable == Some(true) && !is_copy(key) && !how.force => {
            Err(Refused::Immutable(key.clone()))
        }
        Some(_) | None => Ok(record),
    })
}

fn is_copy(key: &AtKey) -> bool {
    match key {
        AtKey::CachedPublic { .. } | AtKey::CachedShared { .. } => true,
        AtKey::Public { .. }
        | AtKey::Own { .. }
        | AtKey::Shared { .. }
        | AtKey::PrivateKey { .. }
        | AtKey::Private { .. } => false,
    }
}

fn edit_one(
    group: &mut Group<'_>,
    tenant: (i64, &AtSign),
    edit: &Edit,
    how: How,
    now: Timestamp,
) -> rusqlite::Result<Result<i64, Refused>> {
    let found = match before(group.sql, tenant.0, edit, how, now)? {
        Ok(found) => found,
        Err(refused) => return Ok(Err(refused)),
    };
    let (key, change) = match edit {
        Edit::But(how, edit) => return edit_one(group, tenant, edit, *how, now),
        Edit::Update { key, value, metadata } | Edit::Replace { key, value, metadata } => {
            let record = Record::written(found.as_ref(), value.clone(), metadata, now);
            put(group.sql, tenant.0, &key.to_string(), &record)?;
            (key, Change::Whole)
        }
        Edit::Describe { key, metadata } => {
            if let Some(found) = found {
                put(group.sql, tenant.0, &key.to_string(), &found.described(metadata, now))?;
            }
            (key, Change::Metadata)
        }
        Edit::Rename { from, to } => {
            let Some(found) = found else { return Ok(Ok(-1)) };
            delete(group.sql, tenant.0, &from.to_string())?;
            put(group.sql, tenant.0, &to.to_string(), &found)?;
            group.changes(tenant.1, from);
            commits::enter(group, tenant, from, Change::Gone, (now, now))?;
            (to, Change::Whole)
        }
        Edit::Delete { key } => {
            delete(group.sql, tenant.0, &key.to_string())?;
            (key, Change::Gone)
        }
    };
    group.changes(tenant.1, key);
    if how.uncommitted {
        commits::forget(group.sql, tenant.0, key)?;
        return Ok(Ok(-1));
    }
    commits::enter(group, tenant, key, change, (how.at.unwrap_or(now), now)).map(Ok)
}
