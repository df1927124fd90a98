//! Opening the outbox, whatever the last run or the disk has left.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use atedge_service::files;
use rusqlite::OptionalExtension as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::log::Reach;
use super::seal::Segments;
use super::share::Fresh;
use super::store::{Store, connect, damage, is_damage, move_log};
use super::worker::Thread;
use super::{
    APPENDS, CALLS, FILE, Outbox, OutboxError, OutboxOptions, Salvaged, Share, Trouble, salvage, schema,
    worker,
};
use crate::clock::Stamp;
use crate::seal::{Seal, SealError};

/// Keeps a second agent out; held by the thread. Holds something once there is a database.
const LOCK: &str = "outbox.lock";

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
        files::make_private_folder(&folder).map_err(in_folder)?;
        let lock = lock(&folder)?;
        let fresh = Arc::new(Fresh::new(&options.apart));
        let (store, salvaged) = open_store(options, now)?;
        let seal = store.segments.seal_key();
        let boot = store.boot;
        let (requests, received) = std::sync::mpsc::channel();
        let (failed, trouble) = (CancellationToken::new(), Trouble::default());
        let told =
            worker::Told { fresh: Arc::clone(&fresh), trouble: trouble.clone(), failed: failed.clone() };
        let thread = worker::start(store, received, told, lock).map_err(in_folder)?;
        let (appends, calls) = (Arc::new(Semaphore::new(APPENDS)), Arc::new(Semaphore::new(CALLS)));
        let outbox = Outbox { requests, appends, calls, fresh, share: Share::Rest, failed, trouble, boot };
        Ok(Opened { outbox, thread, salvaged, seal })
    }
}

pub(super) fn lock(folder: &Path) -> Result<File, OutboxError> {
    let path = folder.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|cause| OutboxError::Folder { path: path.clone(), cause })?;
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
    let without_its_key = seal.is_new() && path.exists();
    let mut salvaged = None;
    if without_its_key || salvage::is_due(&path) {
        salvaged = Some(salvage::repair(&options, seal, now)?);
    }
    loop {
        match open_whole(&path, &options, seal) {
            Ok(store) => {
                // From now on an empty file is no new one.
                let lock = options.folder.join(LOCK);
                if lock.metadata().is_ok_and(|file| file.len() == 0) {
                    std::fs::write(&lock, "made\n")
                        .map_err(|cause| OutboxError::Folder { path: lock, cause })?;
                }
                return Ok((store, salvaged));
            }
            Err(Why::Damaged(cause)) if salvaged.is_none() => {
                error!(%cause, "the outbox cannot be read");
                salvaged = Some(salvage::repair(&options, seal, now)?);
            }
            Err(Why::Damaged(cause)) => return Err(OutboxError::Open { path, cause }),
            Err(Why::Other(error)) => return Err(error),
        }
    }
}

/// Why a file does not open as it is.
enum Why {
    /// Moving it away cures it.
    Damaged(rusqlite::Error),
    /// It does not.
    Other(OutboxError),
}

/// Opens the file that is there, or a new one.
fn open_whole(path: &Path, options: &OutboxOptions, seal: &Arc<Seal>) -> Result<Store, Why> {
    let failed = |cause: rusqlite::Error| match is_damage(&cause) {
        true => Why::Damaged(cause),
        false => Why::Other(OutboxError::Open { path: path.to_owned(), cause }),
    };
    let marked = options.folder.join(LOCK).metadata().is_ok_and(|lock| lock.len() > 0);
    if marked && path.metadata().is_ok_and(|file| file.len() == 0) {
        return Err(Why::Damaged(damage("it is empty and was not")));
    }
    let reached = Reach::of(path).filter(|reached| !reached.is_of_another(path));
    let db = connect(path, options).map_err(failed)?;
    if let Some(reached) = reached
        && reached.is_cut(move_log(&db).map_err(failed)?)
    {
        return Err(Why::Damaged(damage("its log ends before it did")));
    }
    let version = schema::version(&db).map_err(failed)?;
    if version != schema::VERSION {
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
        return Err(Why::Damaged(damage("its keys do not open with this seal key")));
    }
    Store::begin(db, options.clone(), segments, 0).map_err(failed)
}
