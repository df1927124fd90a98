//! Tenants that move from node to node, in SQL.
//!
//! What arrives has a number like a tenant's, and its rows, but no tenant has that number until it is served:
//! nothing finds it before. What leaves is frozen in memory, see [`Frozen`].

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use at_protocol::{AtSign, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::{Arrival, Departure, Row};
use super::tenants;
use super::writer::Group;

/// Tenants for which nothing is written.
#[derive(Debug, Default)]
pub(super) struct Frozen(RwLock<HashSet<AtSign>>);

impl Frozen {
    pub(super) fn contains(&self, tenant: &AtSign) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(tenant)
    }

    pub(super) fn insert(&self, tenant: &AtSign) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.clone());
    }

    pub(super) fn remove(&self, tenant: &AtSign) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }
}

/// All that leave.
pub(super) fn departures(sql: &Connection) -> rusqlite::Result<Vec<(AtSign, Departure)>> {
    states(sql, "departure")
}

/// Notes how far one is that leaves; `None` forgets it.
pub(super) fn set_departure(
    sql: &Connection,
    atsign: &AtSign,
    state: Option<&Departure>,
) -> rusqlite::Result<()> {
    match state {
        Some(state) => sql.execute(
            "INSERT OR REPLACE INTO departure (atsign, state) VALUES (?1, ?2)",
            params![atsign.as_str(), text(state)],
        )?,
        None => sql.execute("DELETE FROM departure WHERE atsign = ?1", [atsign.as_str()])?,
    };
    Ok(())
}

/// All that arrive.
pub(super) fn arrivals(sql: &Connection) -> rusqlite::Result<Vec<(AtSign, Arrival)>> {
    states(sql, "arrival")
}

/// Begins anew with one that arrives; `false` if it is hosted already.
pub(super) fn begin(group: &mut Group<'_>, atsign: &AtSign, state: &Arrival) -> rusqlite::Result<bool> {
    if group.any_tenant(atsign)?.is_some() {
        return Ok(false);
    }
    drop_arrival(group.sql, atsign)?;
    let id = tenants::next_id(group)?;
    let insert = "INSERT INTO arrival (tenant, atsign, state) VALUES (?1, ?2, ?3)";
    group.sql.execute(insert, params![id, atsign.as_str(), text(state)])?;
    group.sql.execute("INSERT INTO usage (tenant, keys, bytes) VALUES (?1, 0, 0)", [id])?;
    Ok(true)
}

/// Puts rows in; `false` if it does not arrive any more.
pub(super) fn add_rows(sql: &Connection, atsign: &AtSign, rows: Vec<Row>) -> rusqlite::Result<bool> {
    let Some(id) = number(sql, atsign)? else { return Ok(false) };
    for row in rows {
        tenants::import(sql, id, row)?;
    }
    Ok(true)
}

/// Notes how far one is that arrives; `false` if it does not any more.
pub(super) fn set_arrival(sql: &Connection, atsign: &AtSign, state: &Arrival) -> rusqlite::Result<bool> {
    let update = "UPDATE arrival SET state = ?2 WHERE atsign = ?1";
    Ok(sql.execute(update, params![atsign.as_str(), text(state)])? > 0)
}

/// Makes a tenant of one that has arrived; `false` if it has not.
pub(super) fn settle_in(group: &mut Group<'_>, atsign: &AtSign, now: Timestamp) -> rusqlite::Result<bool> {
    let sql = group.sql;
    let Some(id) = number(sql, atsign)? else { return Ok(false) };
    if group.any_tenant(atsign)?.is_some() {
        return Ok(false);
    }
    sql.execute(
        "INSERT INTO tenant (id, atsign, listen, created) VALUES (?1, ?2, NULL, ?3)",
        params![id, atsign.as_str(), now.as_millis()],
    )?;
    sql.execute("DELETE FROM arrival WHERE tenant = ?1", [id])?;
    Ok(true)
}

/// Gives up one that arrives; its rows are swept later, a few at a time.
pub(super) fn drop_arrival(sql: &Connection, atsign: &AtSign) -> rusqlite::Result<()> {
    if let Some(id) = number(sql, atsign)? {
        sql.execute("INSERT INTO removed (tenant) VALUES (?1)", [id])?;
        sql.execute("DELETE FROM usage WHERE tenant = ?1", [id])?;
        sql.execute("DELETE FROM arrival WHERE tenant = ?1", [id])?;
    }
    Ok(())
}

fn number(sql: &Connection, atsign: &AtSign) -> rusqlite::Result<Option<i64>> {
    let mut query = sql.prepare_cached("SELECT tenant FROM arrival WHERE atsign = ?1")?;
    query.query_row([atsign.as_str()], |row| row.get(0)).optional()
}

/// What a table says of whom; what cannot be read is left alone.
fn states<T: DeserializeOwned>(sql: &Connection, table: &str) -> rusqlite::Result<Vec<(AtSign, T)>> {
    let mut query = sql.prepare_cached(&format!("SELECT atsign, state FROM {table}"))?;
    let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let read =
        |(atsign, state): (String, String)| Some((atsign.parse().ok()?, serde_json::from_str(&state).ok()?));
    rows.filter_map(|row| row.map(read).transpose()).collect()
}

fn text(state: &impl Serialize) -> String {
    serde_json::to_string(state).expect("states are plain values")
}
