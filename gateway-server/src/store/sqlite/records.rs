//! Records and the commit log in SQL.

use at_protocol::verb::Operation;
use at_protocol::{AtKey, AtSign, Metadata, Timestamp};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{Commit, Committed, Edit, KeyPage, Record, Refused};
use super::writer::Group;

/// Values that a page of rows holds before it ends, in bytes: what one request keeps in memory.
const PAGE_BYTES: usize = 1024 * 1024;

const COLUMNS: &str = "value, metadata, created, updated, available, expires, refresh, version";

/// A record, by number of its tenant.
pub(super) fn get(sql: &Connection, tenant: i64, key: &str) -> rusqlite::Result<Option<Record>> {
    let text = format!("SELECT {COLUMNS} FROM record WHERE tenant = ?1 AND key = ?2");
    sql.prepare_cached(&text)?.query_row(params![tenant, key], |row| record(row, 0)).optional()
}

fn record(row: &Row<'_>, first: usize) -> rusqlite::Result<Record> {
    let time = |column| row.get::<_, Option<i64>>(first + column).map(|ms| ms.map(Timestamp::from_millis));
    let metadata: String = row.get(first + 1)?;
    Ok(Record {
        value: row.get(first)?,
        metadata: metadata_from(&metadata, first + 1)?,
        created: Timestamp::from_millis(row.get(first + 2)?),
        updated: Timestamp::from_millis(row.get(first + 3)?),
        available: time(4)?,
        expires: time(5)?,
        refresh: time(6)?,
        version: row.get::<_, i64>(first + 7)?.unsigned_abs(),
    })
}

pub(super) fn metadata_from(json: &str, column: usize) -> rusqlite::Result<Metadata> {
    serde_json::from_str(json)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub(super) fn metadata_text(metadata: &Metadata) -> String {
    serde_json::to_string(metadata).expect("metadata has only strings, numbers and plain maps")
}

fn put(sql: &Connection, tenant: i64, key: &str, record: &Record) -> rusqlite::Result<()> {
    let mut upsert = sql.prepare_cached(
        "INSERT INTO record (tenant, key, value, metadata, created, updated, available, expires, refresh, version)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT (tenant, key) DO UPDATE SET value = ?3, metadata = ?4, created = ?5, updated = ?6,
             available = ?7, expires = ?8, refresh = ?9, version = ?10",
    )?;
    let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
    upsert.execute(params![
        tenant,
        key,
        record.value,
        metadata_text(&record.metadata),
        record.created.as_millis(),
        record.updated.as_millis(),
        millis(record.available),
        millis(record.expires),
        millis(record.refresh),
        i64::try_from(record.version).unwrap_or(i64::MAX),
    ])?;
    Ok(())
}

fn commit(
    group: &mut Group<'_>,
    (tenant, atsign): (i64, &AtSign),
    key: &AtKey,
    text: &str,
    operation: Operation,
    now: Timestamp,
) -> rusqlite::Result<i64> {
    if !key.is_committed() {
        return Ok(-1);
    }
    let id = group.next_commit(tenant)?;
    let mut upsert = group.sql.prepare_cached(
        "INSERT INTO commit_log (tenant, key, id, operation) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (tenant, key) DO UPDATE SET id = ?3, operation = ?4",
    )?;
    let letter = match operation {
        Operation::Update => "*",
        Operation::Delete => "-",
    };
    upsert.execute(params![tenant, text, id, letter])?;
    group.announce(Committed::Changed { tenant: atsign.clone(), commit: id, operation, now });
    Ok(id)
}

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
            let (Edit::Update { key, .. } | Edit::Delete { key }) = edit else { continue };
            if is_frozen(get(group.sql, tenant.0, &key.to_string())?.as_ref(), now) {
                return Ok(Err(Refused::Immutable(key.clone())));
            }
        }
    }
    let mut commits = Vec::with_capacity(edits.len());
    for edit in edits {
        match edit_one(group, tenant, edit, now)? {
            Ok(commit) => commits.push(commit),
            Err(refused) => return Ok(Err(refused)),
        }
    }
    Ok(Ok(commits))
}

fn is_frozen(record: Option<&Record>, now: Timestamp) -> bool {
    record.is_some_and(|record| record.metadata.immutable == Some(true) && !record.is_expired(now))
}

fn edit_one(
    group: &mut Group<'_>,
    tenant: (i64, &AtSign),
    edit: &Edit,
    now: Timestamp,
) -> rusqlite::Result<Result<i64, Refused>> {
    let (key, operation) = match edit {
        Edit::Update { key, .. } | Edit::Replace { key, .. } => (key, Operation::Update),
        Edit::Delete { key } => (key, Operation::Delete),
    };
    let text = key.to_string();
    let before = match edit {
        Edit::Update { .. } | Edit::Delete { .. } => get(group.sql, tenant.0, &text)?,
        Edit::Replace { .. } => None,
    };
    if is_frozen(before.as_ref(), now) {
        return Ok(Err(Refused::Immutable(key.clone())));
    }
    match edit {
        Edit::Update { value, metadata, .. } | Edit::Replace { value, metadata, .. } => {
            let record = Record::written(before.as_ref(), value.clone(), metadata, now);
            put(group.sql, tenant.0, &text, &record)?;
        }
        Edit::Delete { .. } => {
            delete(group.sql, tenant.0, &text)?;
        }
    }
    commit(group, tenant, key, &text, operation, now).map(Ok)
}

fn delete(sql: &Connection, tenant: i64, key: &str) -> rusqlite::Result<usize> {
    sql.prepare_cached("DELETE FROM record WHERE tenant = ?1 AND key = ?2")?.execute(params![tenant, key])
}

/// A page of the keys that can be read now.
pub(super) fn keys(sql: &Connection, tenant: i64, page: &KeyPage) -> rusqlite::Result<Vec<String>> {
    // Keys order as bytes, so that those with a prefix are a range.
    let mut query = sql.prepare_cached(
        "SELECT key FROM record
         WHERE tenant = ?1 AND key >= ?2 AND key > ?3
           AND (available IS NULL OR available <= ?4) AND (expires IS NULL OR expires > ?4)
         ORDER BY key LIMIT ?5",
    )?;
    let after = page.after.as_deref().unwrap_or_default();
    let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
    let found = query.query_map(params![tenant, page.prefix, after, page.now.as_millis(), limit], |row| {
        row.get::<_, String>(0)
    })?;
    let mut keys = Vec::new();
    for key in found {
        let key = key?;
        if !key.starts_with(&page.prefix) {
            break;
        }
        keys.push(key);
    }
    Ok(keys)
}

/// The records of enrollments.
pub(super) fn enrollments(sql: &Connection, tenant: i64) -> rusqlite::Result<Vec<(AtKey, Record)>> {
    let text = format!(
        "SELECT key, {COLUMNS} FROM record
         WHERE tenant = ?1 AND key GLOB '*.new.enrollments.__manage@*' ORDER BY created, key"
    );
    let mut query = sql.prepare_cached(&text)?;
    let found = query.query_map([tenant], |row| {
        let key: String = row.get(0)?;
        Ok((key.parse().ok(), record(row, 1)?))
    })?;
    let found: Vec<(Option<AtKey>, Record)> = found.collect::<rusqlite::Result<_>>()?;
    Ok(found.into_iter().filter_map(|(key, record)| key.map(|key| (key, record))).collect())
}

/// Commits behind `after` with their records.
pub(super) fn commits_after(
    sql: &Connection,
    tenant: i64,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Commit>> {
    let text = format!(
        "SELECT c.id, c.key, c.operation, r.key, {COLUMNS}
         FROM commit_log c LEFT JOIN record r ON r.tenant = c.tenant AND r.key = c.key
         WHERE c.tenant = ?1 AND c.id > ?2 ORDER BY c.id LIMIT ?3"
    );
    let mut query = sql.prepare_cached(&text)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = query.query_map(params![tenant, after, limit], |row| {
        let found: Option<String> = row.get(3)?;
        head(row, found.map(|_| record(row, 4)).transpose()?)
    })?;
    bounded(found, |commit| commit.record.as_ref().map_or(0, |record| record.value.len()))
}

/// As many rows as make up a page of [`PAGE_BYTES`], but one at least.
pub(super) fn bounded<T>(
    rows: impl Iterator<Item = rusqlite::Result<T>>,
    size: impl Fn(&T) -> usize,
) -> rusqlite::Result<Vec<T>> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let row = row?;
        bytes += size(&row);
        page.push(row);
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    Ok(page)
}

/// Commits before `before`, newest first.
pub(super) fn commits_before(
    sql: &Connection,
    tenant: i64,
    before: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Commit>> {
    let mut query = sql.prepare_cached(
        "SELECT id, key, operation FROM commit_log WHERE tenant = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    query.query_map(params![tenant, before, limit], |row| head(row, None))?.collect()
}

fn head(row: &Row<'_>, record: Option<Record>) -> rusqlite::Result<Commit> {
    let (key, operation): (String, String) = (row.get(1)?, row.get(2)?);
    let key = key
        .parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, Box::new(error)))?;
    Ok(Commit { id: row.get(0)?, key, operation: operation.chars().next().unwrap_or('*'), record })
}

/// Removes up to `limit` records whose time is over.
pub(super) fn expire(group: &mut Group<'_>, now: Timestamp, limit: i64) -> rusqlite::Result<usize> {
    let mut query = group.sql.prepare_cached(
        "SELECT t.id, t.atsign, r.key FROM record r JOIN tenant t ON t.id = r.tenant
         WHERE r.expires <= ?1 LIMIT ?2",
    )?;
    let found: Vec<(i64, String, String)> = query
        .query_map(params![now.as_millis(), limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    drop(query);
    for (tenant, atsign, key) in &found {
        match (atsign.parse::<AtSign>(), key.parse::<AtKey>()) {
            (Ok(atsign), Ok(key)) => {
                // What has expired is not immutable any more.
                let gone = edit_one(group, (*tenant, &atsign), &Edit::Delete { key }, now)?;
                debug_assert!(gone.is_ok(), "an expired record can go");
            }
            _ => {
                delete(group.sql, *tenant, key)?;
            }
        }
    }
    Ok(found.len())
}
