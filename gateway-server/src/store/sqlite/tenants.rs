//! Tenants as a whole in SQL: who is hosted, what they use, and moving one in or out.

use at_protocol::{AtKey, AtSign, Timestamp};
use rusqlite::types::{Value as Sql, ValueRef};
use rusqlite::{Connection, OptionalExtension, Transaction, params, params_from_iter};
use serde_json::{Map, Value};

use super::super::{Edit, Quota, Refused, Row, Tenant, Usage};
use super::writer::Group;

/// What a tenant has rows in, in the order in which they are exported; `tenant` is each one's column.
const TABLES: [&str; 4] = ["record", "commit_log", "forgotten_commit", "notification"];
/// How many rows of a removed tenant go at once.
const SWEEP: i64 = 500;

/// Who is hosted, by one of the tables that say so.
pub(super) fn list(sql: &Connection, table: &str) -> rusqlite::Result<Vec<Tenant>> {
    let mut query = sql.prepare_cached(&format!("SELECT atsign, listen FROM {table}"))?;
    let rows: Vec<(String, Option<String>)> =
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let tenant = |(atsign, listen): (String, Option<String>)| {
        let listen = listen.and_then(|listen| listen.parse().ok());
        atsign.parse().ok().map(|atsign| Tenant { atsign, listen })
    };
    Ok(rows.into_iter().filter_map(tenant).collect())
}

/// Remembers who is hosted in the shard before this one.
pub(super) fn note_neighbour(sql: &Connection, tenant: &Tenant) -> rusqlite::Result<()> {
    let note = "INSERT OR REPLACE INTO neighbour (atsign, listen) VALUES (?1, ?2)";
    sql.execute(note, params![tenant.atsign.as_str(), tenant.listen.map(|listen| listen.to_string())])?;
    Ok(())
}

/// Forgets that again.
pub(super) fn forget_neighbour(sql: &Connection, atsign: &AtSign) -> rusqlite::Result<()> {
    sql.execute("DELETE FROM neighbour WHERE atsign = ?1", [atsign.as_str()])?;
    Ok(())
}

/// Makes a tenant and gives its number, which none before had whose rows are still there; `None` if it is
/// hosted already.
pub(super) fn add(group: &mut Group<'_>, tenant: &Tenant, now: Timestamp) -> rusqlite::Result<Option<i64>> {
    if group.any_tenant(&tenant.atsign)?.is_some() {
        return Ok(None);
    }
    let id = next_id(group)?;
    let listen = tenant.listen.map(|listen| listen.to_string());
    group.sql.execute(
        "INSERT INTO tenant (id, atsign, listen, created) VALUES (?1, ?2, ?3, ?4)",
        params![id, tenant.atsign.as_str(), listen, now.as_millis()],
    )?;
    group.sql.execute("INSERT INTO usage (tenant, keys, bytes) VALUES (?1, 0, 0)", [id])?;
    Ok(Some(id))
}

/// A number that nobody has, who is here, arrives, or is being swept.
pub(super) fn next_id(group: &mut Group<'_>) -> rusqlite::Result<i64> {
    let mut query = group.sql.prepare_cached(
        "SELECT 1 + max((SELECT ifnull(max(id), 0) FROM tenant), (SELECT ifnull(max(tenant), 0) FROM removed),
                        (SELECT ifnull(max(tenant), 0) FROM arrival))",
    )?;
    let id = query.query_row([], |row| row.get(0))?;
    group.is_new(id);
    Ok(id)
}

/// Ends a tenant; its rows are swept later, a few at a time. `false` if it was not there.
pub(super) fn remove(group: &mut Group<'_>, atsign: &AtSign) -> rusqlite::Result<bool> {
    let Some(id) = group.any_tenant(atsign)? else { return Ok(false) };
    group.forget(atsign);
    group.sql.execute("INSERT INTO removed (tenant) VALUES (?1)", [id])?;
    group.sql.execute("DELETE FROM usage WHERE tenant = ?1", [id])?;
    group.sql.execute("DELETE FROM tenant WHERE id = ?1", [id])?;
    Ok(true)
}

/// Sweeps some rows of removed tenants; gives how many.
pub(super) fn sweep(sql: &Transaction<'_>) -> rusqlite::Result<usize> {
    let mut first = sql.prepare_cached("SELECT tenant FROM removed LIMIT 1")?;
    let Some(id): Option<i64> = first.query_row([], |row| row.get(0)).optional()? else { return Ok(0) };
    let mut swept = 0;
    for (table, key) in [
        ("record", "rowid"),
        ("commit_log", "key"),
        ("forgotten_commit", "rowid"),
        ("notification", "rowid"),
        ("visit", "number"),
    ] {
        let text = format!(
            "DELETE FROM {table} WHERE tenant = ?1 AND {key} IN (
                 SELECT {key} FROM {table} WHERE tenant = ?1 LIMIT {SWEEP})"
        );
        swept += sql.prepare_cached(&text)?.execute([id])?;
    }
    if swept == 0 {
        sql.execute("DELETE FROM removed WHERE tenant = ?1", [id])?;
    }
    // The row that says so counts as one, so that the next call looks for another tenant.
    Ok(swept.max(1))
}

/// What a tenant has stored.
pub(super) fn usage(sql: &Connection, tenant: i64) -> rusqlite::Result<Usage> {
    let mut query = sql.prepare_cached("SELECT keys, bytes FROM usage WHERE tenant = ?1")?;
    let number = |row: &rusqlite::Row<'_>, column| row.get::<_, i64>(column).map(i64::unsigned_abs);
    let found = query.query_row([tenant], |row| Ok(Usage { keys: number(row, 0)?, bytes: number(row, 1)? }));
    Ok(found.optional()?.unwrap_or_default())
}

/// Why a tenant may not make these changes: it would have more than its quota.
pub(super) fn over_quota(
    group: &Group<'_>,
    tenant: i64,
    edits: &[Edit],
) -> rusqlite::Result<Option<Refused>> {
    let Quota { keys, bytes } = group.quota;
    if keys == 0 && bytes == 0 {
        return Ok(None);
    }
    let (mut more_keys, mut more_bytes) = (0_i64, 0_i64);
    for edit in edits {
        let (key, value) = match edit.plain() {
            Edit::Update { key, value, .. } | Edit::Replace { key, value, .. } => (key, Some(value)),
            Edit::Delete { key } => (key, None),
            // Nothing grows by these.
            Edit::Describe { .. } | Edit::Rename { .. } | Edit::But(..) => continue,
        };
        if is_free(key) {
            continue;
        }
        let key = key.to_string();
        let mut query = group.sql.prepare_cached(
            "SELECT octet_length(key) + octet_length(value) FROM record WHERE tenant = ?1 AND key = ?2",
        )?;
        let before: Option<i64> = query.query_row(params![tenant, key], |row| row.get(0)).optional()?;
        let after = value.map(|value| i64::try_from(key.len() + value.len()).unwrap_or(i64::MAX));
        more_keys += i64::from(after.is_some()) - i64::from(before.is_some());
        more_bytes = more_bytes.saturating_add(after.unwrap_or(0)).saturating_sub(before.unwrap_or(0));
    }
    if more_keys <= 0 && more_bytes <= 0 {
        return Ok(None);
    }
    let used = usage(group.sql, tenant)?;
    let is_over = |used: u64, more: i64, most: u64| {
        most > 0 && more > 0 && used.saturating_add(more.unsigned_abs()) > most
    };
    Ok((is_over(used.keys, more_keys, keys).then_some(Refused::Keys { most: keys }))
        .or(is_over(used.bytes, more_bytes, bytes).then_some(Refused::Bytes { most: bytes })))
}

/// What is written whatever the quota: the server's own records, and enrollments, which must be revocable.
fn is_free(key: &AtKey) -> bool {
    matches!(key, AtKey::PrivateKey { .. } | AtKey::Private { .. }) || key.is_enrollment()
}

/// Gives all rows of a tenant to `take`, until it says that it wants no more.
pub(super) fn export(
    sql: &Connection,
    tenant: i64,
    take: &mut (dyn FnMut(Row) -> bool + Send),
) -> rusqlite::Result<()> {
    // One transaction: what is exported was there at one moment. In memory there is one already.
    let _snapshot = sql.is_autocommit().then(|| sql.unchecked_transaction()).transpose()?;
    for table in TABLES {
        let mut query = sql.prepare(&format!("SELECT * FROM {table} WHERE tenant = ?1"))?;
        let names: Vec<String> = query.column_names().map(str::to_owned).collect();
        let mut rows = query.query([tenant])?;
        while let Some(row) = rows.next()? {
            let mut columns = Map::new();
            for (place, name) in names.iter().enumerate().filter(|(_, name)| *name != "tenant") {
                columns.insert(name.clone(), json(row.get_ref(place)?)?);
            }
            if !take(Row { table: table.to_owned(), columns }) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn json(value: ValueRef<'_>) -> rusqlite::Result<Value> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Text(_) => value.as_str()?.into(),
        ValueRef::Real(_) | ValueRef::Blob(_) => return Err(wrong("a type")),
    })
}

/// Puts a row of an export in.
pub(super) fn import(sql: &Connection, tenant: i64, row: Row) -> rusqlite::Result<()> {
    let table = TABLES.into_iter().find(|table| *table == row.table).ok_or_else(|| wrong("a table"))?;
    let mut known = sql.prepare_cached("SELECT name FROM pragma_table_info(?1) WHERE name <> 'tenant'")?;
    let known: Vec<String> = known.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let (mut names, mut values) = (vec!["tenant".to_owned()], vec![Sql::Integer(tenant)]);
    for (name, value) in row.columns {
        if !known.contains(&name) {
            return Err(wrong("a column"));
        }
        names.push(name);
        values.push(match value {
            Value::Null => Sql::Null,
            Value::Number(number) => Sql::Integer(number.as_i64().ok_or_else(|| wrong("a number"))?),
            Value::String(text) => Sql::Text(text),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(wrong("a value")),
        });
    }
    let marks = vec!["?"; names.len()].join(", ");
    let text = format!("INSERT INTO {table} ({}) VALUES ({marks})", names.join(", "));
    sql.prepare_cached(&text)?.execute(params_from_iter(values))?;
    Ok(())
}

/// An export that this program has not written.
fn wrong(what: &str) -> rusqlite::Error {
    broken(format!("the export has {what} that is not known here"))
}

/// An export that cannot be read.
pub(super) fn broken(what: String) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(what.into())
}
