//! Opening the outbox, whatever the last run or the disk has left.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::OptionalExtension as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::seal::Segments;
use super::share::Fresh;
use super::store::{Store, connect, is_damage};
use super::worker::Thread;
use super::{
    APPENDS, CALLS, FILE, Outbox, OutboxError, OutboxOptions, Salvaged, Share, salvage, schema, worker,
};
use crate::clock::Stamp;
use crate::seal::{Seal, SealError};

/// Keeps a second agent out; held by the thread.
const LOCK: &str = "outbox.lock";
/// Beside the database: the last run found it damaged.
const DAMAGED: &str = "outbox.damaged";

/// An outbox at work.
pub struct Opened {
    /// The handle.
    pub outbox: Outbox,
    /// The thread behind it.
    pub thread: Thread,
    /// What was saved, if the file was damaged.
    pub salvaged: Option<Salvaged>,
    /// The seal key.
    pub seal: Arc<Seal>,
}

impl Outbox {
    /// Opens the outbox, begins a boot and starts the thread. The time taken does not depend on how much
    /// is queued. `now` gives a new file a first epoch when a damaged one no longer says its own.
    ///
    /// # Errors
    /// When another agent has it, a newer atedge made it, or the folder cannot be used. Damage is no error.
    pub fn open(options: OutboxOptions, now: Stamp) -> Result<Opened, OutboxError> {
        let folder = options.folder.clone();
        let in_folder = |cause| OutboxError::Folder { path: folder.clone(), cause };
        std::fs::create_dir_all(&folder).map_err(in_folder)?;
        let lock = lock(&folder)?;
        let fresh = Arc::new(Fresh::new(&options.apart));
        let (store, salvaged) = open_store(options, now)?;
        let seal = store.segments.seal_key();
        let boot = store.boot;
        let (requests, received) = std::sync::mpsc::channel();
        let failed = CancellationToken::new();
        let thread =
            worker::start(store, received, Arc::clone(&fresh), failed.clone(), lock).map_err(in_folder)?;
        let (appends, calls) = (Arc::new(Semaphore::new(APPENDS)), Arc::new(Semaphore::new(CALLS)));
        let outbox = Outbox { requests, appends, calls, fresh, share: Share::Rest, failed, boot };
        Ok(Opened { outbox, thread, salvaged, seal })
    }
}

pub(super) fn lock(folder: &Path) -> Result<File, OutboxError> {
    let path = folder.join(LOCK);
    let file = File::create(&path).map_err(|cause| OutboxError::Folder { path: path.clone(), cause })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OutboxError::InUse(folder.to_owned())),
        Err(std::fs::TryLockError::Error(cause)) => Err(OutboxError::Folder { path, cause }),
    }
}

/// The store; a damaged one is moved away and what still reads comes along.
pub(super) fn open_store(
    options: OutboxOptions,
    now: Stamp,
) -> Result<(Store, Option<Salvaged>), OutboxError> {
    let seal = Arc::new(Seal::open(options.seal.clone())?);
    let (mut store, salvaged) = open_or_salvage(options, &seal, now)?;
    if seal.takes_over() {
        let path = store.options.folder.join(FILE);
        store.rewrap().map_err(|cause| OutboxError::Open { path, cause })?;
    }
    Ok((store, salvaged))
}

fn open_or_salvage(
    options: OutboxOptions,
    seal: &Arc<Seal>,
    now: Stamp,
) -> Result<(Store, Option<Salvaged>), OutboxError> {
    let path = options.folder.join(FILE);
    let marker = options.folder.join(DAMAGED);
    let without_its_key = seal.is_new() && path.exists();
    if !marker.exists() && !without_its_key {
        match open_whole(&path, &options, seal) {
            Ok(store) => return Ok((store, None)),
            Err(Why::Damaged(cause)) => error!(%cause, "the outbox cannot be read"),
            Err(Why::Other(error)) => return Err(error),
        }
    }
    let in_folder = |path: &Path, cause| OutboxError::Folder { path: path.to_owned(), cause };
    let damaged = salvage::quarantine(&path).map_err(|cause| in_folder(&path, cause))?;
    error!(file = %damaged.display(), "the outbox was damaged and has been moved away");
    let opened = |cause| OutboxError::Open { path: path.clone(), cause };
    let mut db = connect(&path, &options).map_err(opened)?;
    let segments = Segments::new(Arc::clone(seal));
    let salvaged = salvage::salvage(&mut db, &damaged, &segments).map_err(opened)?;
    // Without the old epoch, the seconds since 1970: no outbox was started that often.
    let at_least = if salvaged.epoch_known { 0 } else { u64::try_from(now.wall_us / 1_000_000).unwrap_or(0) };
    let mut store = Store::begin(db, options, segments, at_least).map_err(opened)?;
    store.group(Store::count_all_holes).map_err(opened)?;
    if marker.exists() {
        std::fs::remove_file(&marker).map_err(|cause| in_folder(&marker, cause))?;
    }
    Ok((store, Some(salvaged)))
}

/// Why a file does not open as it is.
enum Why {
    /// Moving it away cures it.
    Damaged(String),
    /// It does not.
    Other(OutboxError),
}

/// Opens the file that is there, or a new one.
fn open_whole(path: &Path, options: &OutboxOptions, seal: &Arc<Seal>) -> Result<Store, Why> {
    let failed = |cause: rusqlite::Error| match is_damage(&cause) {
        true => Why::Damaged(cause.to_string()),
        false => Why::Other(OutboxError::Open { path: path.to_owned(), cause }),
    };
    let db = connect(path, options).map_err(failed)?;
    let version = schema::version(&db).map_err(failed)?;
    if version > schema::VERSION {
        return Err(Why::Other(OutboxError::Version { path: path.to_owned(), version }));
    }
    let segments = Segments::new(Arc::clone(seal));
    let newest = "SELECT id, wrapped FROM segment ORDER BY id DESC LIMIT 1";
    let newest: Option<(i64, Vec<u8>)> =
        db.query_row(newest, [], |row| Ok((row.get(0)?, row.get(1)?))).optional().map_err(failed)?;
    if newest.is_some_and(|(id, wrapped)| !segments.is_ours(id, &wrapped)) {
        if seal.is_suspect() {
            return Err(Why::Other(SealError::Another(options.folder.clone()).into()));
        }
        return Err(Why::Damaged("its keys do not open with this seal key".into()));
    }
    Store::begin(db, options.clone(), segments, 0).map_err(failed)
}

/// Leaves word for the next start that the file at `path` is damaged.
pub(super) fn mark_damaged(path: &Path) {
    let marker: PathBuf = path.with_file_name(DAMAGED);
    if let Err(cause) = std::fs::write(&marker, b"") {
        error!(%cause, file = %marker.display(), "cannot leave word that the outbox is damaged");
    }
}
