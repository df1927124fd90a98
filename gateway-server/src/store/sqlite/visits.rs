//! The access log in SQL. A tenant's entries are numbered, so that its oldest are found without a search.

use at_protocol::{AtSign, Timestamp};
use rusqlite::{Connection, params};

use super::super::{Visit, Visits};

/// Adds an entry that is kept until `expires`, and removes what is then beyond the newest `most`.
pub(super) fn add(
    sql: &Connection,
    tenant: i64,
    visit: &Visit,
    most: usize,
    expires: Timestamp,
) -> rusqlite::Result<()> {
    let mut newest = sql.prepare_cached("SELECT max(number) FROM visit WHERE tenant = ?1")?;
    let newest: Option<i64> = newest.query_row([tenant], |row| row.get(0))?;
    let number = newest.unwrap_or(0) + 1;
    let mut insert = sql.prepare_cached(
        "INSERT INTO visit (tenant, number, at, expires, who, verb, key) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let who = visit.who.as_ref().map(AtSign::as_str);
    let (at, expires) = (visit.at.as_millis(), expires.as_millis());
    insert.execute(params![tenant, number, at, expires, who, visit.verb, visit.key])?;
    let last_gone = number.saturating_sub(i64::try_from(most).unwrap_or(i64::MAX));
    let mut trim = sql.prepare_cached("DELETE FROM visit WHERE tenant = ?1 AND number <= ?2")?;
    trim.execute([tenant, last_gone])?;
    Ok(())
}

/// What the entries come to, with the `top` of each list. Looks at all of the tenant's entries, which are
/// bounded.
pub(super) fn summary(sql: &Connection, tenant: i64, atsign: &str, top: usize) -> rusqlite::Result<Visits> {
    let top = i64::try_from(top).unwrap_or(i64::MAX);
    // A `from` is only a claim.
    let mut atsigns = sql.prepare_cached(
        "SELECT who, count(*) FROM visit WHERE tenant = ?1 AND who <> ?2 AND verb <> 'from'
         GROUP BY who ORDER BY 2 DESC, 1 LIMIT ?3",
    )?;
    let atsigns: Vec<(String, i64)> = atsigns
        .query_map(params![tenant, atsign, top], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut keys = sql.prepare_cached(
        "SELECT key, count(*) FROM visit WHERE tenant = ?1 AND key IS NOT NULL
         GROUP BY key ORDER BY 2 DESC, 1 LIMIT ?2",
    )?;
    let keys: Vec<(String, i64)> = keys
        .query_map([tenant, top], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut logins = sql.prepare_cached(
        "SELECT max(CASE WHEN verb IN ('cram', 'pkam') THEN at END), max(CASE WHEN verb = 'pkam' THEN at END)
         FROM visit WHERE tenant = ?1",
    )?;
    let (last_login, last_pkam): (Option<i64>, Option<i64>) =
        logins.query_row([tenant], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Visits {
        atsigns: atsigns
            .into_iter()
            .filter_map(|(atsign, count)| Some((atsign.parse().ok()?, count.unsigned_abs())))
            .collect(),
        keys: keys.into_iter().map(|(key, count)| (key, count.unsigned_abs())).collect(),
        last_login: last_login.map(Timestamp::from_millis),
        last_pkam: last_pkam.map(Timestamp::from_millis),
    })
}

/// Removes up to `limit` entries whose time is over.
pub(super) fn expire(sql: &Connection, now: Timestamp, limit: i64) -> rusqlite::Result<usize> {
    let mut delete = sql.prepare_cached(
        "DELETE FROM visit WHERE (tenant, number) IN (
             SELECT tenant, number FROM visit WHERE expires <= ?1 LIMIT ?2)",
    )?;
    delete.execute([now.as_millis(), limit])
}
