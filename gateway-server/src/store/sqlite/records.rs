//! Records in SQL.

use at_protocol::{AtKey, Metadata, Timestamp};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter};

use super::super::{KeyPage, Record};
use super::sums;

/// Values that a page of rows holds before it ends, in bytes: what one request keeps in memory.
const PAGE_BYTES: usize = 1024 * 1024;

pub(super) const COLUMNS: &str =
    "value, metadata, created, updated, available, expires, refresh, version, sum";

/// A record, by number of its tenant.
pub(super) fn get(sql: &Connection, tenant: i64, key: &str) -> rusqlite::Result<Option<Record>> {
    let text = format!("SELECT {COLUMNS} FROM record WHERE tenant = ?1 AND key = ?2");
    sql.prepare_cached(&text)?.query_row(params![tenant, key], |row| record(row, 0, key)).optional()
}

/// A record whose columns begin at `first`, under the key that was asked for.
pub(super) fn record(row: &Row<'_>, first: usize, key: &str) -> rusqlite::Result<Record> {
    sums::check(row, key, first, first + 8, first + 8)?;
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

pub(super) fn put(sql: &Connection, tenant: i64, key: &str, record: &Record) -> rusqlite::Result<()> {
    let mut upsert = sql.prepare_cached(
        "INSERT INTO record (key, value, metadata, created, updated, available, expires, refresh, version, sum, tenant)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (tenant, key) DO UPDATE SET value = ?2, metadata = ?3, created = ?4, updated = ?5,
             available = ?6, expires = ?7, refresh = ?8, version = ?9, sum = ?10",
    )?;
    let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
    let said: [&dyn ToSql; 9] = [
        &key,
        &record.value,
        &metadata_text(&record.metadata),
        &record.created.as_millis(),
        &record.updated.as_millis(),
        &millis(record.available),
        &millis(record.expires),
        &millis(record.refresh),
        &i64::try_from(record.version).unwrap_or(i64::MAX),
    ];
    let (sum, tenant): (&dyn ToSql, &dyn ToSql) = (&sums::of(&said)?, &tenant);
    upsert.execute(params_from_iter(said.into_iter().chain([sum, tenant])))?;
    Ok(())
}

pub(super) fn delete(sql: &Connection, tenant: i64, key: &str) -> rusqlite::Result<usize> {
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
        Ok((key.parse().ok(), record(row, 1, &key)?))
    })?;
    let found: Vec<(Option<AtKey>, Record)> = found.collect::<rusqlite::Result<_>>()?;
    Ok(found.into_iter().filter_map(|(key, record)| key.map(|key| (key, record))).collect())
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

/// Removes up to `limit` records whose time is over. Nothing of it enters the commit log, as in later
/// versions of the reference (atProtocol wire reference §6.2): clients know the lifetimes themselves, and
/// `sync` skips the entry that is left (§7.4).
pub(super) fn expire(sql: &Connection, now: Timestamp, limit: i64) -> rusqlite::Result<usize> {
    let mut delete = sql.prepare_cached(
        "DELETE FROM record WHERE rowid IN (SELECT rowid FROM record WHERE expires <= ?1 LIMIT ?2)",
    )?;
    delete.execute(params![now.as_millis(), limit])
}

/// A page of the copies that want to be fetched again.
pub(super) fn stale_copies(
    sql: &Connection,
    tenant: i64,
    after: &str,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<Vec<AtKey>> {
    // `;` is what follows `:`, so that the copies are a range.
    let mut query = sql.prepare_cached(
        "SELECT key FROM record
         WHERE tenant = ?1 AND key >= 'cached:' AND key < 'cached;' AND key > ?2
           AND refresh <= ?3 AND (expires IS NULL OR expires > ?3)
         ORDER BY key LIMIT ?4",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    query.query_map(params![tenant, after, now.as_millis(), limit], |row| key(row, 0))?.collect()
}

pub(super) fn key(row: &Row<'_>, column: usize) -> rusqlite::Result<AtKey> {
    let text: String = row.get(column)?;
    text.parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}
