//! Signed records of where atSigns are served: kept so that a node that starts while the directory is down, or
//! lies, knows what it knew.

use at_protocol::directory::SignedRecord;
use rusqlite::{Connection, params};

/// All that are kept; one that cannot be read any more is asked for again.
pub(super) fn all(sql: &Connection) -> rusqlite::Result<Vec<SignedRecord>> {
    let mut query = sql.prepare_cached("SELECT record FROM signed_record")?;
    let texts = query.query_map([], |row| row.get::<_, String>(0))?;
    let read = texts.map(|text| text.map(|text| text.parse().ok()));
    read.filter_map(Result::transpose).collect()
}

/// Keeps one, unless a newer one of the same atSign is there.
pub(super) fn keep(sql: &Connection, record: &SignedRecord) -> rusqlite::Result<()> {
    let mut upsert = sql.prepare_cached(
        "INSERT INTO signed_record (atsign, seq, record) VALUES (?1, ?2, ?3)
         ON CONFLICT (atsign) DO UPDATE SET seq = excluded.seq, record = excluded.record
         WHERE excluded.seq >= seq",
    )?;
    let seq = i64::try_from(record.at.seq).unwrap_or(i64::MAX);
    upsert.execute(params![record.atsign.as_str(), seq, record.to_string()])?;
    Ok(())
}
