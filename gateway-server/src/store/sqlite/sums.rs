//! A sum over what a row says, by which a flipped bit on the disk is known from what was written. SQLite
//! itself notices damage to its structure, not to values.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Row, ToSql, ffi};
use sha2::{Digest, Sha256};

/// The sum of these values, in this order.
pub(super) fn of(values: &[&dyn ToSql]) -> rusqlite::Result<i64> {
    let mut hash = Sha256::new();
    for value in values {
        match value.to_sql()? {
            ToSqlOutput::Borrowed(value) => add(&mut hash, value),
            ToSqlOutput::Owned(value) => add(&mut hash, ValueRef::from(&value)),
            // Rows have neither; a sum over less than they say would be no sum of them.
            ToSqlOutput::ZeroBlob(_) | _ => return Err(rusqlite::Error::InvalidQuery),
        }
    }
    Ok(first(hash))
}

/// Compares a row's columns `from` to `to`, behind a first value, with the sum in the column after them. A
/// row from before there were sums has none.
pub(super) fn check(row: &Row<'_>, name: &str, from: usize, to: usize, sum: usize) -> rusqlite::Result<()> {
    let ValueRef::Integer(sum) = row.get_ref(sum)? else { return Ok(()) };
    let mut hash = Sha256::new();
    add(&mut hash, ValueRef::Text(name.as_bytes()));
    for column in from..to {
        add(&mut hash, row.get_ref(column)?);
    }
    if first(hash) == sum {
        return Ok(());
    }
    let what = "a row does not say what was written".to_owned();
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(what)))
}

fn add(hash: &mut Sha256, value: ValueRef<'_>) {
    let (kind, bytes): (u8, &[u8]) = match value {
        ValueRef::Null => (0, &[]),
        ValueRef::Integer(number) => {
            hash.update([1]);
            return hash.update(number.to_le_bytes());
        }
        ValueRef::Real(number) => {
            hash.update([2]);
            return hash.update(number.to_bits().to_le_bytes());
        }
        ValueRef::Text(bytes) => (3, bytes),
        ValueRef::Blob(bytes) => (4, bytes),
    };
    hash.update([kind]);
    hash.update(bytes.len().to_le_bytes());
    hash.update(bytes);
}

fn first(hash: Sha256) -> i64 {
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_le_bytes(first)
}
