//! A tenant in lines of text: how it moves from one store to another, in a file or otherwise.
//!
//! The lines are JSON. The first says what it is, `{"format": "atedge-tenant", "version": 1,
//! "atsign": …, "listen": …}`; each further one is a row of the store, `{"table": …, "columns": {…}}`:
//! records with their keys and metadata, the newest commit of each key with its id, notifications with their
//! queue. The last one, `{"rows": …}`, says how many there were, so that a file that was cut is known for one.
//! Enrollments are records like others. The signing key and the activation secret are among them: whoever
//! reads the file can speak for the atSign.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use at_protocol::{AtSign, Timestamp};
use serde::{Deserialize, Serialize};

use crate::store::{Row, Rows, Store, StoreError, Tenant};

/// What the first line says.
const FORMAT: &str = "atedge-tenant";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    atsign: AtSign,
    listen: Option<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Row(Row),
    End { rows: u64 },
}

/// Why a tenant was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The file cannot be read or written; one that is there is never overwritten.
    #[error("{}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// The file is no tenant's.
    #[error("{} is no exported atSign: {what}", file.display())]
    Format {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// There is no such tenant.
    #[error("{0} is not hosted here")]
    NotHosted(AtSign),
    /// It is here already.
    #[error("{0} is hosted here already; nothing was changed")]
    Exists(AtSign),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes all that a tenant has into a new file that only its owner can read; gives the number of rows.
pub(crate) async fn export(store: &dyn Store, atsign: &AtSign, path: &Path) -> Result<u64, MoveError> {
    let tenants = store.tenants().await?;
    let tenant = tenants.into_iter().find(|tenant| tenant.atsign == *atsign);
    let tenant = tenant.ok_or_else(|| MoveError::NotHosted(atsign.clone()))?;
    let failed = |source| MoveError::File { file: path.to_owned(), source };
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(failed)?;
    let head =
        Head { format: FORMAT.to_owned(), version: VERSION, atsign: atsign.clone(), listen: tenant.listen };
    let sheet = Arc::new(Mutex::new(Sheet { file: BufWriter::new(file), rows: 0, written: Ok(()) }));
    sheet.lock().unwrap_or_else(PoisonError::into_inner).write(&head);
    let taking = Arc::clone(&sheet);
    let take = move |row: Row| {
        let mut sheet = taking.lock().unwrap_or_else(PoisonError::into_inner);
        sheet.rows += 1;
        sheet.write(&row)
    };
    let exported = store.export(atsign, Box::new(take)).await;
    let mut sheet = sheet.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = sheet.rows;
    sheet.write(&serde_json::json!({ "rows": rows }));
    let done = exported.map_err(MoveError::from).and_then(|()| sheet.finish().map_err(failed));
    if done.is_err() {
        // Half of it helps nobody.
        std::fs::remove_file(path).ok();
    }
    done.map(|()| rows)
}

struct Sheet {
    file: BufWriter<File>,
    rows: u64,
    written: io::Result<()>,
}

impl Sheet {
    /// Adds a line; `false` once that does not work any more.
    fn write(&mut self, line: &impl Serialize) -> bool {
        if self.written.is_ok() {
            let text = serde_json::to_string(line).map_err(io::Error::from);
            self.written = text.and_then(|text| writeln!(self.file, "{text}"));
        }
        self.written.is_ok()
    }

    fn finish(&mut self) -> io::Result<()> {
        std::mem::replace(&mut self.written, Ok(()))?;
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }
}

/// Hosts the tenant of a file here, on its address or another; gives who it is.
pub(crate) async fn import(
    store: &dyn Store,
    path: &Path,
    listen: Option<SocketAddr>,
    now: Timestamp,
) -> Result<Tenant, MoveError> {
    let failed = |source| MoveError::File { file: path.to_owned(), source };
    let wrong = |what: String| MoveError::Format { file: path.to_owned(), what };
    let mut lines = BufReader::new(File::open(path).map_err(failed)?).lines();
    let first = lines.next().transpose().map_err(failed)?.unwrap_or_default();
    let (tenant, reading) = Reading::begin(&first).map_err(wrong)?;
    let tenant = Tenant { listen: listen.or(tenant.listen), ..tenant };
    if store.import(tenant.clone(), rows(lines, reading), now).await? {
        Ok(tenant)
    } else {
        Err(MoveError::Exists(tenant.atsign))
    }
}

/// Takes a tenant's lines one after the other.
pub(super) struct Reading {
    rows: u64,
}

/// What a line behind the first one is.
pub(super) enum Counted {
    /// A row.
    Row(Row),
    /// The end, after so many rows.
    End(u64),
}

impl Reading {
    /// Begins with the first line; gives whose lines they are.
    pub(super) fn begin(line: &str) -> Result<(Tenant, Self), String> {
        let Head { format, version, atsign, listen } =
            serde_json::from_str(line).map_err(|error| error.to_string())?;
        if (format.as_str(), version) != (FORMAT, VERSION) {
            return Err(format!("it says {format} {version}, expected {FORMAT} {VERSION}"));
        }
        Ok((Tenant { atsign, listen }, Self { rows: 0 }))
    }

    /// Takes another line.
    pub(super) fn read(&mut self, line: &str) -> Result<Counted, String> {
        match serde_json::from_str(line) {
            Ok(Line::Row(row)) => {
                self.rows += 1;
                Ok(Counted::Row(row))
            }
            Ok(Line::End { rows }) if rows == self.rows => Ok(Counted::End(rows)),
            Ok(Line::End { rows }) => Err(format!("it has {} rows, not {rows}", self.rows)),
            Err(error) => Err(format!("line {}: {error}", self.rows + 2)),
        }
    }
}

/// The rows, and behind the last one an error if they are not as many as the file says.
fn rows(lines: impl Iterator<Item = io::Result<String>> + Send + 'static, mut reading: Reading) -> Rows {
    let mut ended = false;
    let mut lines = lines.fuse();
    Box::new(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        match lines.next() {
            Some(Ok(line)) => match reading.read(&line) {
                Ok(Counted::Row(row)) => return Some(Ok(row)),
                Ok(Counted::End(_)) => ended = true,
                Err(what) => return Some(Err(what)),
            },
            Some(Err(error)) => return Some(Err(error.to_string())),
            None => return Some(Err(format!("line {}: the end is missing", reading.rows + 2))),
        }
        None
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Vec<Result<String, String>> {
        let lines: Vec<_> = lines.iter().map(|line| Ok((*line).to_owned())).collect();
        rows(lines.into_iter(), Reading { rows: 0 }).take(5).map(|row| row.map(|row| row.table)).collect()
    }

    #[test]
    fn a_file_that_was_cut_or_damaged_is_known_for_it() {
        let row = r#"{"table":"record","columns":{"key":"a"}}"#;
        assert_eq!(read(&[row, r#"{"rows":1}"#]), [Ok("record".to_owned())]);
        assert_eq!(read(&[row, r#"{"rows":2}"#])[1], Err("it has 1 rows, not 2".to_owned()));
        assert_eq!(read(&[row])[1], Err("line 3: the end is missing".to_owned()));
        assert!(read(&[row, "{\"table\":1}"])[1].is_err());
    }
}
