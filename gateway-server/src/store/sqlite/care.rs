//! What an operator does to the files, while a server runs on them or not: copying them, and looking for
//! damage.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atedge_service::files;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode};

use super::OpenError;
use super::file::{ShardFile, Unopened};
use super::layout;

/// Pages that are copied between two reports.
const PAGES: std::ffi::c_int = 4096;
/// Steps of SQLite's machine after which a look at a file asks whether it shall go on.
const STEPS: std::ffi::c_int = 1000;
/// How many faults of one file are told.
const FAULTS: u32 = 20;

/// Why a store was not copied.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to be copied.
    #[error("there is no store at {}", .0.display())]
    NoStore(PathBuf),
    /// The store's files are not as they should be.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file was not copied.
    #[error("cannot copy {}: {source}", file.display())]
    Database {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        source: rusqlite::Error,
    },
    /// The copy cannot be written; an older one is never overwritten.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// Which.
        file: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

/// How far the copying of one file is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The file that is copied.
    pub file: &'a Path,
    /// Pages that are still to come; 0 when the copy is whole and on disk.
    pub remaining: u32,
    /// All pages.
    pub pages: u32,
}

/// Whether there is a store at `path`; nothing is made.
///
/// # Errors
/// The files that are there make no store.
pub fn exists(path: &Path) -> Result<bool, OpenError> {
    Ok(layout::existing(path)?.is_some())
}

/// Copies each file of the store at `path` into the folder `to`, as it is at one moment of its own, while a
/// server goes on with it. Copies appear under their names when they are whole and on disk.
///
/// # Errors
/// See [`BackupError`]; copies of other files may have been made by then.
pub fn back_up(path: &Path, to: &Path, mut report: impl FnMut(Progress<'_>)) -> Result<(), BackupError> {
    files::make_private_folder(to).map_err(|source| BackupError::Write { file: to.to_owned(), source })?;
    for file in layout::existing(path)?.ok_or_else(|| BackupError::NoStore(path.to_owned()))? {
        let file = file.path();
        let copy = to.join(file.file_name().unwrap_or_default());
        let failed = |source| BackupError::Database { file: file.to_owned(), source };
        let unwritten = |source| BackupError::Write { file: copy.clone(), source };
        if copy.exists() {
            return Err(unwritten(io::ErrorKind::AlreadyExists.into()));
        }
        let mut draft = copy.clone().into_os_string();
        draft.push(".part");
        let draft = PathBuf::from(draft);
        // It holds keys: nobody else may read it.
        OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .map_err(unwritten)?;
        let pages = copy_pages(file, &draft, &mut report).map_err(failed)?;
        File::open(&draft).and_then(|draft| draft.sync_all()).map_err(unwritten)?;
        fs::rename(&draft, &copy).map_err(unwritten)?;
        File::open(to).and_then(|folder| folder.sync_all()).map_err(unwritten)?;
        report(Progress { file, remaining: 0, pages });
    }
    Ok(())
}

fn copy_pages(from: &Path, to: &Path, report: &mut impl FnMut(Progress<'_>)) -> rusqlite::Result<u32> {
    let source = layout::look(from)?;
    // A snapshot that is held, so that the server's writes do not make the copy begin again.
    let snapshot = source.unchecked_transaction()?;
    snapshot.query_row("SELECT count(*) FROM shard", [], |_| Ok(()))?;
    let mut target = Connection::open(to)?;
    let mut pages = 0;
    let backup = Backup::new(&snapshot, &mut target)?;
    loop {
        let step = backup.step(PAGES)?;
        let progress = backup.progress();
        pages = u32::try_from(progress.pagecount).unwrap_or(pages);
        match step {
            StepResult::Done => break,
            StepResult::More | StepResult::Busy | StepResult::Locked | _ => {
                // The last report is for the whole copy on disk.
                let remaining = u32::try_from(progress.remaining).unwrap_or(0).max(1);
                report(Progress { file: from, remaining, pages });
            }
        }
    }
    drop(backup);
    target.close().map_err(|(_, error)| error)?;
    Ok(pages)
}

/// What a look at one file has found.
#[derive(Debug)]
pub struct Checked {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, the first twenty at most; nothing if it is good.
    pub faults: Vec<String>,
}

/// Looks at all pages of all files of the store at `path`; `None` if there is no store.
///
/// # Errors
/// It cannot be said which files these are.
pub fn check(path: &Path) -> Result<Option<Vec<Checked>>, OpenError> {
    let Some(files) = layout::existing(path)? else { return Ok(None) };
    let checked = files.iter().map(|file| {
        let found = match file.look() {
            Ok(connection) => faults(&connection).unwrap_or_else(|error| vec![error.to_string()]),
            Err(unopened) => vec![unopened.to_string()],
        };
        Checked { file: file.path().to_owned(), faults: found }
    });
    Ok(Some(checked.collect()))
}

/// Looks at all pages of the files, one after the other, and takes those that are damaged out of service.
/// Ends early once `stop` is set.
pub(super) fn look_for_damage(files: &[Arc<ShardFile>], stop: &Arc<AtomicBool>) {
    for file in files {
        let stop = Arc::clone(stop);
        let found = file.look().and_then(|mut connection| {
            connection.progress_handler(STEPS, Some(move || stop.load(Ordering::Relaxed)))?;
            Ok(faults(&connection)?)
        });
        match found {
            Ok(faults) => {
                if let Some(fault) = faults.first() {
                    file.condemn(fault);
                }
            }
            Err(Unopened::Sqlite(error))
                if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) =>
            {
                return;
            }
            Err(Unopened::Sqlite(error)) => {
                // What is no damage is told to who asks for something.
                file.judge(&error);
            }
            // Known since the file was opened.
            Err(Unopened::Damaged(_) | Unopened::Newer(_)) => {}
        }
    }
    tracing::info!("all files of the store have been looked at");
}

/// What SQLite finds wrong: damaged pages, and tables that do not agree with their indexes.
pub(super) fn faults(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut query = connection.prepare(&format!("PRAGMA integrity_check({FAULTS})"))?;
    let found: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(found.into_iter().filter(|found| found != "ok").collect())
}
