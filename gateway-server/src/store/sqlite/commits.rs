//! The commit log in SQL: the newest commit of each key, and nothing older, so that there is nothing to
//! compact.

use at_protocol::{AtKey, AtSign, Timestamp};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{Change, Commit, Committed, Record};
use super::records::{COLUMNS, bounded, key, record};
use super::writer::Group;

/// Enters a change into the log, if the key is one that does; gives its id, or -1.
pub(super) fn enter(
    group: &mut Group<'_>,
    (tenant, atsign): (i64, &AtSign),
    key: &AtKey,
    change: Change,
    (time, now): (Timestamp, Timestamp),
) -> rusqlite::Result<i64> {
    if !key.is_committed() {
        return Ok(-1);
    }
    let id = group.next_commit(tenant)?;
    let mut upsert = group.sql.prepare_cached(
        "INSERT INTO commit_log (tenant, key, id, operation, time) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (tenant, key) DO UPDATE SET id = ?3, operation = ?4, time = ?5",
    )?;
    upsert.execute(params![tenant, key.to_string(), id, change.to_string(), time.as_millis()])?;
    let operation = change.operation();
    group.announce(Committed::Changed { tenant: atsign.clone(), commit: id, operation, now });
    Ok(id)
}

/// Takes a key out of the log. Its id is not given to another, even if it was the newest.
pub(super) fn forget(sql: &Connection, tenant: i64, key: &AtKey) -> rusqlite::Result<()> {
    let mut delete =
        sql.prepare_cached("DELETE FROM commit_log WHERE tenant = ?1 AND key = ?2 RETURNING id")?;
    let id: Option<i64> = delete.query_row(params![tenant, key.to_string()], |row| row.get(0)).optional()?;
    if let Some(id) = id {
        let mut upsert = sql.prepare_cached(
            "INSERT INTO forgotten_commit (tenant, id) VALUES (?1, ?2)
             ON CONFLICT (tenant) DO UPDATE SET id = max(id, ?2)",
        )?;
        upsert.execute([tenant, id])?;
    }
    Ok(())
}

/// The id of the newest commit in the log; -1 where there is none.
pub(super) fn newest(sql: &Connection, tenant: i64) -> rusqlite::Result<i64> {
    let mut query = sql.prepare_cached("SELECT max(id) FROM commit_log WHERE tenant = ?1")?;
    query.query_row([tenant], |row| row.get::<_, Option<i64>>(0)).map(|id| id.unwrap_or(-1))
}

/// The last id that was given, whether its commit is still in the log or not; -1 before the first.
pub(super) fn last_given(sql: &Connection, tenant: i64) -> rusqlite::Result<i64> {
    let mut query = sql.prepare_cached("SELECT id FROM forgotten_commit WHERE tenant = ?1")?;
    let forgotten = query.query_row([tenant], |row| row.get(0)).optional()?.unwrap_or(-1);
    Ok(newest(sql, tenant)?.max(forgotten))
}

/// Commits behind `after` with their records.
pub(super) fn after(
    sql: &Connection,
    tenant: i64,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Commit>> {
    let text = format!(
        "SELECT c.id, c.key, c.operation, c.time, r.key, {COLUMNS}
         FROM commit_log c LEFT JOIN record r ON r.tenant = c.tenant AND r.key = c.key
         WHERE c.tenant = ?1 AND c.id > ?2 ORDER BY c.id LIMIT ?3"
    );
    let mut query = sql.prepare_cached(&text)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = query.query_map(params![tenant, after, limit], |row| {
        let found: Option<String> = row.get(4)?;
        let key: String = row.get(1)?;
        commit(row, found.map(|_| record(row, 5, &key)).transpose()?)
    })?;
    bounded(found, |commit| commit.record.as_ref().map_or(0, |record| record.value.len()))
}

/// Commits before `before`, newest first, without their records.
pub(super) fn before(
    sql: &Connection,
    tenant: i64,
    before: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Commit>> {
    let mut query = sql.prepare_cached(
        "SELECT id, key, operation, time FROM commit_log
         WHERE tenant = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    query.query_map(params![tenant, before, limit], |row| commit(row, None))?.collect()
}

fn commit(row: &Row<'_>, record: Option<Record>) -> rusqlite::Result<Commit> {
    let operation: String = row.get(2)?;
    let change =
        operation.parse().map_err(|()| rusqlite::Error::InvalidColumnType(2, operation, Type::Text))?;
    let time = Timestamp::from_millis(row.get(3)?);
    Ok(Commit { id: row.get(0)?, key: key(row, 1)?, operation: change, time, record })
}
