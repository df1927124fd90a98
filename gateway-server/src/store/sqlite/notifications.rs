//! Notifications and their queue in SQL.

use std::str::FromStr;

use at_protocol::verb::{Operation, Priority, Strategy};
use at_protocol::{AtSign, Timestamp};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter};

use super::super::{
    Committed, Edit, Kind, Notification, Outcome, Reached, Settled, Status, Taken, Tally, is_unique,
};
use super::edits;
use super::records::{self, metadata_from, metadata_text};
use super::sums;
use super::tenants;
use super::writer::Group;
use crate::blocklist::Blocklist;

/// How long what was sent can be asked for after its time is over, in milliseconds: an hour.
const KEEP_SENT: i64 = 60 * 60 * 1000;

/// What the sums of notifications begin with.
const SUMMED: &str = "notification";

const COLUMNS: &str =
    "received, id, sender, recipient, key, value, operation, message_type, priority, latest,
    latest_n, notifier, ttln, is_encrypted, metadata, created, expires, status, attempts, sum";

fn notification(row: &Row<'_>) -> rusqlite::Result<Notification> {
    // All but how it fares, which changes.
    sums::check(row, SUMMED, 0, 17, 19)?;
    let latest: bool = row.get(9)?;
    let metadata: String = row.get(14)?;
    Ok(Notification {
        kind: kind(row.get(0)?),
        id: row.get(1)?,
        from: parsed(row, 2)?,
        to: parsed(row, 3)?,
        key: row.get(4)?,
        value: row.get(5)?,
        operation: word(row, 6)?,
        message_type: word(row, 7)?,
        priority: match row.get(8)? {
            2 => Priority::High,
            1 => Priority::Medium,
            _ => Priority::Low,
        },
        strategy: if latest { Strategy::Latest } else { Strategy::All },
        latest_n: row.get(10)?,
        notifier: row.get(11)?,
        ttln: row.get::<_, i64>(12)?.unsigned_abs(),
        is_encrypted: row.get(13)?,
        metadata: metadata_from(&metadata, 14)?,
        created: Timestamp::from_millis(row.get(15)?),
        expires: Timestamp::from_millis(row.get(16)?),
        status: status(row.get(17)?),
        attempts: row.get(18)?,
    })
}

fn kind(number: i64) -> Kind {
    match number {
        0 => Kind::Sent,
        1 => Kind::Received,
        _ => Kind::Own,
    }
}

fn kind_number(kind: Kind) -> i64 {
    match kind {
        Kind::Sent => 0,
        Kind::Received => 1,
        Kind::Own => 2,
    }
}

fn status(number: i64) -> Status {
    match number {
        0 => Status::Queued,
        1 => Status::Retrying,
        2 => Status::Delivered,
        3 => Status::Errored,
        _ => Status::Expired,
    }
}

fn status_number(status: Status) -> i64 {
    match status {
        Status::Queued => 0,
        Status::Retrying => 1,
        Status::Delivered => 2,
        Status::Errored => 3,
        Status::Expired => 4,
    }
}

fn priority_number(priority: Priority) -> i64 {
    match priority {
        Priority::Low => 0,
        Priority::Medium => 1,
        Priority::High => 2,
    }
}

fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    text.parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

fn word<T: FromStr<Err = ()>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    text.parse().map_err(|()| rusqlite::Error::InvalidColumnType(column, text, Type::Text))
}

/// Queues what a tenant sends; what goes to another tenant of this store, and waits behind nothing, is
/// delivered in the same transaction.
pub(super) fn send(group: &mut Group<'_>, mut sent: Notification, now: Timestamp) -> rusqlite::Result<Taken> {
    let Some(tenant) = group.tenant(&sent.from)? else { return Ok(Taken::Repeated) };
    if sent.from == sent.to {
        return receive(group, sent, now);
    }
    sent.kind = Kind::Sent;
    if sent.strategy == Strategy::Latest {
        if is_repeated(group.sql, tenant, &sent)? {
            return Ok(Taken::Repeated);
        }
        supersede(group.sql, tenant, &sent)?;
    }
    let here = match group.tenant(&sent.to)? {
        Some(recipient) => {
            !has_waiting(group.sql, tenant, &sent.to)? && !is_blocked(group.sql, recipient, &sent)?
        }
        None => false,
    };
    sent.created = Timestamp::from_millis(group.next_moment(tenant, now.as_millis())?);
    sent.expires = sent.created.plus_millis(sent.ttln);
    sent.status = if here { Status::Delivered } else { Status::Queued };
    sent.attempts = 0;
    if insert(group.sql, tenant, &sent)? == Taken::Repeated {
        group.give_back(tenant, sent.created);
        return Ok(Taken::Repeated);
    }
    if here {
        receive(group, sent, now)?;
    } else {
        group.announce(Committed::Queued { from: sent.from, to: sent.to });
    }
    Ok(Taken::New)
}

/// Takes what came for a tenant, with the copy that it may ask for (wire reference §6.4).
pub(super) fn receive(
    group: &mut Group<'_>,
    mut received: Notification,
    now: Timestamp,
) -> rusqlite::Result<Taken> {
    let Some(tenant) = group.tenant(&received.to)? else { return Ok(Taken::Repeated) };
    if received.kind != Kind::Own {
        received.kind = Kind::Received;
    }
    received.status = Status::Delivered;
    received.created = Timestamp::from_millis(group.next_moment(tenant, now.as_millis())?);
    received.expires = received.created.plus_millis(received.ttln);
    if insert(group.sql, tenant, &received)? == Taken::Repeated {
        group.give_back(tenant, received.created);
        return Ok(Taken::Repeated);
    }
    copy(group, tenant, &received, now)?;
    group.announce(Committed::Received { notification: Box::new(received) });
    Ok(Taken::New)
}

fn copy(group: &mut Group<'_>, tenant: i64, received: &Notification, now: Timestamp) -> rusqlite::Result<()> {
    let cacheable = received.metadata.ttr.is_some_and(|ttr| ttr != 0);
    if received.operation == Operation::Update && !cacheable {
        return Ok(());
    }
    let Some(key) = received.cached_key() else { return Ok(()) };
    let kept = records::get(group.sql, tenant, &key.to_string())?;
    let edit = match (received.operation, &received.value, kept) {
        (Operation::Update, Some(value), _) if cacheable => {
            Edit::Replace { key, value: value.clone(), metadata: received.metadata.clone() }
        }
        (Operation::Update, None, Some(kept)) if cacheable => {
            Edit::Replace { key, value: kept.value, metadata: received.metadata.clone() }
        }
        (Operation::Delete, _, Some(kept)) if kept.metadata.ccd == Some(true) => Edit::Delete { key },
        (Operation::Update | Operation::Delete, ..) => return Ok(()),
    };
    if let Some(refused) = tenants::over_quota(group, tenant, std::slice::from_ref(&edit))? {
        tracing::debug!(tenant = %received.to, %refused, "a copy is not kept");
        return Ok(());
    }
    let made = edits::edit(group, (tenant, &received.to), &[edit], now)?;
    debug_assert!(made.is_ok(), "copies are never immutable here");
    Ok(())
}

fn is_repeated(sql: &Connection, tenant: i64, new: &Notification) -> rusqlite::Result<bool> {
    if !is_unique(&new.id) {
        return Ok(false);
    }
    let mut query =
        sql.prepare_cached("SELECT 1 FROM notification WHERE tenant = ?1 AND sender = ?2 AND id = ?3")?;
    query.exists(params![tenant, new.from.as_str(), new.id])
}

/// Whether the recipient, a tenant of this store, turns the sender away. Then the notification waits, as
/// it would for another server that does.
fn is_blocked(sql: &Connection, recipient: i64, sent: &Notification) -> rusqlite::Result<bool> {
    let record = records::get(sql, recipient, &Blocklist::key(&sent.to).to_string())?;
    Ok(record.is_some_and(|record| Blocklist::read(&record.value).is_none_or(|list| list.has(&sent.from))))
}

fn has_waiting(sql: &Connection, tenant: i64, to: &AtSign) -> rusqlite::Result<bool> {
    let mut query = sql.prepare_cached(
        "SELECT 1 FROM notification WHERE tenant = ?1 AND recipient = ?2 AND waiting = 1 LIMIT 1",
    )?;
    query.exists(params![tenant, to.as_str()])
}

/// Drops what waits for the same recipient from the same notifier, but for the newest `latest_n` - 1.
fn supersede(sql: &Connection, tenant: i64, sent: &Notification) -> rusqlite::Result<()> {
    let mut query = sql.prepare_cached(
        "DELETE FROM notification WHERE rowid IN (
             SELECT rowid FROM notification
             WHERE tenant = ?1 AND recipient = ?2 AND waiting = 1 AND latest = 1 AND notifier = ?3
             ORDER BY created DESC LIMIT -1 OFFSET ?4)",
    )?;
    query.execute(params![tenant, sent.to.as_str(), sent.notifier, sent.latest_n.saturating_sub(1)])?;
    Ok(())
}

macro_rules! insert {
    ($or_replace:literal, $on_conflict:literal) => {
        concat!(
            "INSERT ",
            $or_replace,
            " INTO notification (received, id, sender, recipient, key, value, operation, message_type, priority,
                 latest, latest_n, notifier, ttln, is_encrypted, metadata, created, expires, sum, tenant, status,
                 attempts, waiting, removed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
                 ?21, ?22, 0) ",
            $on_conflict
        )
    };
}

/// Keeps a new one. An id that is used once only is known again, any other takes the place of the older one.
fn insert(sql: &Connection, tenant: i64, new: &Notification) -> rusqlite::Result<Taken> {
    let text = if is_unique(&new.id) {
        insert!("", "ON CONFLICT (tenant, sender, id) DO NOTHING")
    } else {
        insert!("OR REPLACE", "")
    };
    let mut insert = sql.prepare_cached(text)?;
    let said: [&dyn ToSql; 18] = [
        &SUMMED,
        &kind_number(new.kind),
        &new.id,
        &new.from.as_str(),
        &new.to.as_str(),
        &new.key,
        &new.value,
        &new.operation.to_string(),
        &new.message_type.to_string(),
        &priority_number(new.priority),
        &(new.strategy == Strategy::Latest),
        &new.latest_n,
        &new.notifier,
        &i64::try_from(new.ttln).unwrap_or(i64::MAX),
        &new.is_encrypted,
        &metadata_text(&new.metadata),
        &new.created.as_millis(),
        &new.expires.as_millis(),
    ];
    let fares: [&dyn ToSql; 5] = [
        &sums::of(&said)?,
        &tenant,
        &status_number(new.status),
        &new.attempts,
        &(new.status == Status::Queued),
    ];
    let inserted = insert.execute(params_from_iter(said.into_iter().skip(1).chain(fares)))?;
    Ok(if inserted == 0 { Taken::Repeated } else { Taken::New })
}

/// The newest notification with this id that was not removed.
pub(super) fn get(sql: &Connection, tenant: i64, id: &str) -> rusqlite::Result<Option<Notification>> {
    let text = format!(
        "SELECT {COLUMNS} FROM notification WHERE tenant = ?1 AND id = ?2 AND removed = 0
         ORDER BY created DESC LIMIT 1"
    );
    sql.prepare_cached(&text)?.query_row(params![tenant, id], notification).optional()
}

/// Forgets a notification; of a unique id there stays a tombstone.
pub(super) fn remove(sql: &Connection, tenant: i64, id: &str) -> rusqlite::Result<()> {
    let text = if is_unique(id) {
        "UPDATE notification SET removed = 1, waiting = 0, value = NULL, metadata = '{}'
         WHERE tenant = ?1 AND id = ?2"
    } else {
        "DELETE FROM notification WHERE tenant = ?1 AND id = ?2"
    };
    sql.prepare_cached(text)?.execute(params![tenant, id])?;
    Ok(())
}

/// What was received after a moment, or told by the tenant to itself, oldest first.
pub(super) fn received_after(
    sql: &Connection,
    tenant: i64,
    after: i64,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<Vec<Notification>> {
    let text = format!(
        "SELECT {COLUMNS} FROM notification
         WHERE tenant = ?1 AND (received > 0) = 1 AND created > ?2 AND removed = 0 AND expires > ?3
         ORDER BY created LIMIT ?4"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut query = sql.prepare_cached(&text)?;
    let found = query.query_map(params![tenant, after, now.as_millis(), limit], notification)?;
    records::bounded(found, |notification| notification.value.as_ref().map_or(0, String::len))
}

/// Counts by kind, status, operation and type.
pub(super) fn tallies(sql: &Connection, tenant: i64) -> rusqlite::Result<Vec<Tally>> {
    let mut query = sql.prepare_cached(
        "SELECT received, status, operation, message_type = 'text', count(*) FROM notification
         WHERE tenant = ?1 AND removed = 0 GROUP BY 1, 2, 3, 4",
    )?;
    query
        .query_map([tenant], |row| {
            Ok(Tally {
                kind: kind(row.get(0)?),
                status: status(row.get(1)?),
                operation: word(row, 2)?,
                is_text: row.get(3)?,
                count: row.get::<_, i64>(4)?.unsigned_abs(),
            })
        })?
        .collect()
}

/// Between whom something waits.
pub(super) fn waiting_pairs(sql: &Connection) -> rusqlite::Result<Vec<(AtSign, AtSign)>> {
    let mut query =
        sql.prepare_cached("SELECT DISTINCT sender, recipient FROM notification WHERE waiting = 1")?;
    query.query_map([], |row| Ok((parsed(row, 0)?, parsed(row, 1)?)))?.collect()
}

/// What goes next: by priority, then by age.
pub(super) fn waiting(
    sql: &Connection,
    tenant: i64,
    to: &AtSign,
    reached: Reached,
    limit: usize,
) -> rusqlite::Result<Vec<Notification>> {
    let text = format!(
        "SELECT {COLUMNS} FROM notification
         WHERE tenant = ?1 AND recipient = ?2 AND waiting = 1 AND priority = ?3 AND created > ?4
         ORDER BY created LIMIT ?5"
    );
    let mut query = sql.prepare_cached(&text)?;
    let mut found: Vec<Notification> = Vec::new();
    for (priority, after) in reached.moments().into_iter().enumerate().rev() {
        if found.len() >= limit {
            break;
        }
        let (priority, left) = (i64::try_from(priority), i64::try_from(limit - found.len()));
        let (priority, left) = (priority.unwrap_or(0), left.unwrap_or(i64::MAX));
        let more = query.query_map(params![tenant, to.as_str(), priority, after, left], notification)?;
        found.extend(records::bounded(more, |one| one.value.as_ref().map_or(0, String::len))?);
    }
    Ok(found)
}

/// Notes how a delivery went, unless another notification has taken this one's place.
pub(super) fn settle(
    sql: &Connection,
    (tenant, from): (i64, &AtSign),
    settled: &Settled,
) -> rusqlite::Result<()> {
    let (status, failed) = match settled.outcome {
        Outcome::Delivered => (Status::Delivered, 0),
        Outcome::Retrying => (Status::Retrying, 1),
        Outcome::Errored => (Status::Errored, 1),
        Outcome::Expired => (Status::Expired, 0),
    };
    let mut update = sql.prepare_cached(
        "UPDATE notification SET status = ?4, attempts = attempts + ?5, waiting = ?6
         WHERE tenant = ?1 AND sender = ?2 AND id = ?3 AND created = ?7 AND waiting = 1",
    )?;
    update.execute(params![
        tenant,
        from.as_str(),
        settled.id,
        status_number(status),
        failed,
        settled.outcome == Outcome::Retrying,
        settled.created.as_millis(),
    ])?;
    Ok(())
}

/// Removes up to `limit` notifications whose time is over.
pub(super) fn expire(sql: &Connection, now: Timestamp, limit: i64) -> rusqlite::Result<usize> {
    let mut delete = sql.prepare_cached(
        "DELETE FROM notification WHERE rowid IN (
             SELECT rowid FROM notification
             WHERE expires <= ?1 AND (received > 0 OR expires <= ?2) LIMIT ?3)",
    )?;
    delete.execute(params![now.as_millis(), now.as_millis().saturating_sub(KEEP_SENT), limit])
}
