//! The thread that owns the database.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::store::{Grown, Store, is_damage, is_disk_failure};

/// Most requests that share one COMMIT.
const GROUP: usize = 512;

/// How long the sabotaged build waits between its answer and the COMMIT.
const SABOTAGE: std::time::Duration = std::time::Duration::from_millis(50);

/// Tells the caller. Only ever run after the COMMIT.
pub(super) type Answer = Box<dyn FnOnce() + Send>;
/// What is to be done to the database; dropped undone, its caller learns that it was not stored.
pub(super) type Work = Box<dyn FnOnce(&mut Store) -> rusqlite::Result<Answer> + Send>;

/// What callers send.
pub(super) enum Request {
    /// Takes room, so it waits while there is none.
    Append(Work),
    /// Anything else.
    Call(Work),
}

/// The lanes that grew, for the one who sends them on.
#[derive(Default)]
pub(super) struct Fresh {
    lanes: Mutex<Grown>,
    wake: Notify,
}

impl Fresh {
    /// What grew since the last call; waits until there is something.
    pub(super) async fn take(&self) -> Grown {
        loop {
            let lanes = std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner));
            if !lanes.is_empty() {
                return lanes;
            }
            self.wake.notified().await;
        }
    }

    fn put(&self, grown: Grown) {
        if !grown.is_empty() {
            self.lanes.lock().unwrap_or_else(PoisonError::into_inner).extend(grown);
            self.wake.notify_one();
        }
    }
}

/// The thread. It ends when the last [`Outbox`](super::Outbox) is dropped.
pub struct Thread(JoinHandle<()>);

impl Thread {
    /// Waits until everything is written and the file is closed. Blocks; drop all handles first.
    pub fn join(self) {
        if self.0.join().is_err() {
            error!("the outbox's thread panicked");
        }
    }
}

/// Starts the thread over `store`; `failed` is cancelled if it ends because the file is damaged.
pub(super) fn start(
    store: Store,
    requests: Receiver<Request>,
    fresh: Arc<Fresh>,
    failed: CancellationToken,
    lock: std::fs::File,
) -> std::io::Result<Thread> {
    let path = store.options.folder.join(super::FILE);
    let worker = Worker { store, path, requests, fresh, blocked: VecDeque::new() };
    let thread = std::thread::Builder::new().name("outbox".into()).spawn(move || {
        worker.run(&failed);
        drop(lock);
    })?;
    Ok(Thread(thread))
}

struct Worker {
    store: Store,
    path: PathBuf,
    requests: Receiver<Request>,
    fresh: Arc<Fresh>,
    /// Appends that wait for room; at most as many as callers may have on their way.
    blocked: VecDeque<Work>,
}

impl Worker {
    fn run(mut self, failed: &CancellationToken) {
        while let Ok(first) = self.requests.recv() {
            let mut calls = Vec::new();
            let mut next = Some(first);
            let mut taken = 0;
            while let Some(request) = next {
                match request {
                    Request::Append(work) => self.blocked.push_back(work),
                    Request::Call(work) => calls.push(work),
                }
                taken += 1;
                next = if taken < GROUP { self.requests.try_recv().ok() } else { None };
            }
            if let Err(cause) = self.commit(calls)
                && self.is_beyond_repair(&cause)
            {
                failed.cancel();
                return;
            }
        }
    }

    /// One group: calls first, they may make room; then as many appends as fit.
    fn commit(&mut self, calls: Vec<Work>) -> rusqlite::Result<()> {
        let blocked = &mut self.blocked;
        let answers = self.store.group(|store| {
            let mut answers = Vec::with_capacity(calls.len() + blocked.len());
            for work in calls {
                answers.push(work(store)?);
            }
            let mut room = 0;
            while !blocked.is_empty() {
                // The size is asked for now and then: a few records over it do no harm.
                if room == 0 && !store.has_room()? {
                    break;
                }
                room = (room + 1) % 64;
                if let Some(work) = blocked.pop_front() {
                    answers.push(work(store)?);
                }
            }
            if cfg!(feature = "sabotage") {
                // The sabotaged build answers before the COMMIT, and gives a crash time to fall in between.
                answers.drain(..).for_each(|answer| answer());
                std::thread::sleep(SABOTAGE);
            }
            Ok(answers)
        })?;
        for answer in answers {
            answer();
        }
        self.fresh.put(self.store.take_grown());
        Ok(())
    }

    /// After an error: `true` if the thread must end.
    fn is_beyond_repair(&mut self, cause: &rusqlite::Error) -> bool {
        if is_damage(cause) {
            error!(%cause, "the outbox is damaged; the next start moves it away and saves what still reads");
            super::open::mark_damaged(&self.path);
            return true;
        }
        warn!(%cause, "the outbox could not store what was asked; it will be asked again");
        if is_disk_failure(cause)
            && let Err(cause) = self.store.reopen(&self.path)
        {
            error!(%cause, "the outbox cannot be opened again after the disk failed");
            return true;
        }
        false
    }
}
