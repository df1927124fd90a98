//! The thread that owns the database.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atedge_adapters::StreamName;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::room::Room;
use super::share::Fresh;
use super::store::{Grown, Store, is_damage, is_disk_failure, is_passing};
use super::{Appended, Capture, Trouble};
use crate::failpoint::{Failpoint, is_sabotaged};

/// Most requests that share one COMMIT.
const GROUP: usize = 256;
/// So many are many: a COMMIT costs about as much for a few.
const MANY: usize = 16;
/// After such a group more are waited for, as long as some come in each of these pauses, and no longer than for all
/// of them: where it is quiet, nobody waits.
const PAUSE: Duration = Duration::from_micros(500);
const PAUSES: u32 = 8;

/// After so many records of a stream it is asked again whether there is room: a few over it do no harm.
const ASK: u32 = 64;
/// How long a sabotaged agent waits between its answer and the COMMIT.
const SABOTAGE: Duration = Duration::from_millis(50);

/// Pause before what the disk would not take is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// After so long without a request there is time for what was put off.
const QUIET: Duration = Duration::from_millis(20);
/// How often it is said again that the disk takes nothing.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Something to be done to the database in the next group. Dropped unanswered, its caller learns that it was not
/// stored.
pub(super) trait Call: Send {
    /// Does it. May be done again, when the group was not committed.
    fn run(&mut self, store: &mut Store) -> rusqlite::Result<()>;
    /// Tells the caller. Only ever called after the COMMIT.
    fn answer(self: Box<Self>);
}

/// A record that wants in.
pub(super) struct Append {
    /// What is to be kept.
    pub(super) capture: Arc<Capture>,
    /// When it came here: while it waits for room, what is in its way grows old.
    pub(super) since: Instant,
    /// Who waits.
    pub(super) answer: oneshot::Sender<Appended>,
    /// Its place among those that may wait.
    #[expect(dead_code, reason = "held until it is answered")]
    pub(super) place: OwnedSemaphorePermit,
}

/// What callers send.
pub(super) enum Request {
    /// Takes room, so it may have to wait.
    Append(Append),
    /// Anything else.
    Call(Box<dyn Call>),
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

/// What the thread tells without being asked.
pub(super) struct Told {
    /// The lanes that grew.
    pub(super) fresh: Arc<Fresh>,
    /// Why nothing is stored, while that is so.
    pub(super) trouble: Trouble,
    /// Cancelled if it ends because the file is damaged, or panics.
    pub(super) failed: CancellationToken,
}

/// Starts the thread over `store`.
pub(super) fn start(
    store: Store,
    requests: Receiver<Request>,
    told: Told,
    lock: std::fs::File,
) -> std::io::Result<Thread> {
    let path = store.options.folder.join(super::FILE);
    let worker = Worker {
        store,
        path,
        requests,
        told,
        appends: VecDeque::new(),
        calls: Vec::new(),
        said: None,
        lost_its_file: false,
        doubt: None,
    };
    let (path, failed) = (worker.path.clone(), worker.told.failed.clone());
    let thread = std::thread::Builder::new().name("outbox".into()).spawn(move || {
        let ended = catch_unwind(AssertUnwindSafe(|| worker.run()));
        if let Err(panic) = ended {
            // Whatever in the file has led it astray would do so again.
            super::salvage::mark(&path);
            failed.cancel();
            drop(lock);
            resume_unwind(panic);
        }
    })?;
    Ok(Thread(thread))
}

/// A group whose COMMIT failed with the disk: it may be there all the same.
struct Doubt {
    /// How many of the calls that wait were in it; they are the first.
    calls: usize,
    /// What became of the first appends that wait.
    appended: VecDeque<Option<Appended>>,
    grown: Grown,
}

struct Worker {
    store: Store,
    path: PathBuf,
    requests: Receiver<Request>,
    told: Told,
    /// Records that wait for room, or for the disk; at most as many as callers may have on their way.
    appends: VecDeque<Append>,
    /// Calls that wait for the disk, likewise.
    calls: Vec<Box<dyn Call>>,
    /// When it was last said that the disk takes nothing.
    said: Option<Instant>,
    /// The disk failed: what SQLite believes to be on it must be read anew.
    lost_its_file: bool,
    /// What was being written when it failed.
    doubt: Option<Doubt>,
}

impl Worker {
    fn run(mut self) {
        while let Some(open) = self.gather() {
            if let Err(cause) = self.commit() {
                if !self.mend(&cause) {
                    self.told.failed.cancel();
                    return;
                }
                if !open {
                    return;
                }
                std::thread::sleep(RETRY);
            }
        }
    }

    /// Waits for requests, and takes what there is. `None` at the end, `Some(false)` if nothing more will come.
    fn gather(&mut self) -> Option<bool> {
        let waiting = !self.appends.is_empty() || !self.calls.is_empty();
        let first = match (waiting, self.store.spent.is_empty()) {
            // Room may come from outside: others may free the disk, or records may grow too old.
            (true, _) => self.requests.recv_timeout(RETRY),
            (false, true) => self.requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            (false, false) => self.requests.recv_timeout(QUIET),
        };
        let mut next = match first {
            Ok(first) => Some(first),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return (!self.calls.is_empty()).then_some(false),
        };
        let linger = self.store.options.linger;
        let end = Instant::now() + linger;
        let mut pauses = if self.store.is_busy { PAUSES } else { 0 };
        let mut taken = 0;
        while let Some(request) = next {
            match request {
                Request::Append(append) => self.appends.push_back(append),
                Request::Call(call) => self.calls.push(call),
            }
            taken += 1;
            if taken == GROUP {
                break;
            }
            next = match linger.is_zero() {
                true => self.requests.try_recv().ok(),
                false => self.requests.recv_timeout(end.saturating_duration_since(Instant::now())).ok(),
            };
            if next.is_none() && pauses > 0 && linger.is_zero() {
                pauses -= 1;
                std::thread::sleep(PAUSE);
                next = self.requests.try_recv().ok();
            }
        }
        self.store.is_busy = taken >= MANY;
        Some(true)
    }

    /// One group: calls first, they may make room; then the appends that there is room for.
    fn commit(&mut self) -> rusqlite::Result<()> {
        if self.lost_its_file {
            self.store.reopen(&self.path)?;
            self.lost_its_file = false;
            self.resolve()?;
        }
        let Self { store, calls, appends, doubt, .. } = self;
        let mut whole = None;
        let committed = store.group(|store| {
            calls.iter_mut().try_for_each(|call| call.run(store))?;
            let mut appended = append_some(store, appends)?;
            if is_sabotaged() {
                // Acknowledges before the COMMIT, and gives a crash time to fall in between.
                tell(&mut Vec::new(), appends, std::mem::take(&mut appended));
                std::thread::sleep(SABOTAGE);
            }
            whole = Some(appended);
            Ok(())
        });
        let appended = whole.unwrap_or_default();
        if let Err(cause) = committed {
            if is_disk_failure(&cause) {
                *doubt = Some(Doubt { calls: calls.len(), appended, grown: store.take_ungrown() });
            }
            return Err(cause);
        }
        tell(calls, appends, appended);
        Failpoint::Answered.pass();
        if self.said.take().is_some() {
            info!("the outbox stores again");
            self.told.trouble.set(None);
        }
        self.told.fresh.put(self.store.take_grown());
        Ok(())
    }

    /// Answers those whose group is on the disk although its COMMIT failed: stored again, it would be there twice.
    fn resolve(&mut self) -> rusqlite::Result<()> {
        let Some(doubt) = &self.doubt else { return Ok(()) };
        let is_there = self.store.has(&doubt.grown)?;
        if let Some(Doubt { calls, appended, grown }) = self.doubt.take()
            && is_there
        {
            info!("the last commit is on the disk after all");
            let mut calls = self.calls.drain(..calls).collect();
            tell(&mut calls, &mut self.appends, appended);
            self.told.fresh.put(grown);
        }
        Ok(())
    }

    /// After an error: `false` if the thread must end.
    fn mend(&mut self, cause: &rusqlite::Error) -> bool {
        if is_damage(cause) {
            error!(%cause, "the outbox is damaged; the next start moves it away and saves what still reads");
            super::salvage::mark(&self.path);
            return false;
        }
        if !is_passing(cause) {
            error!(%cause, "the outbox could not do what was asked; whoever asked is told");
            self.calls.clear();
            self.appends.clear();
            return true;
        }
        self.lost_its_file |= is_disk_failure(cause);
        if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            let waiting = self.appends.len();
            error!(%cause, waiting, "the disk takes nothing; free it or mend it. Nothing is acknowledged meanwhile");
            self.said = Some(Instant::now());
            self.told.trouble.set(Some(cause.to_string()));
        }
        true
    }
}

/// Takes in those that there is room for, in order; what waits, and all of its stream behind it, gets `None`.
fn append_some(
    store: &mut Store,
    appends: &VecDeque<Append>,
) -> rusqlite::Result<VecDeque<Option<Appended>>> {
    let mut rooms: HashMap<&StreamName, (Room, u32)> = HashMap::new();
    let mut appended = VecDeque::with_capacity(appends.len());
    for Append { capture, since, .. } in appends {
        let room = match rooms.get_mut(&capture.stream) {
            Some((Room::Blocked, _)) => Room::Blocked,
            Some((room, asked)) if *asked < ASK => {
                *asked += 1;
                *room
            }
            _ => {
                let room = store.room_for(&capture.stream, capture.taken.plus(since.elapsed()))?;
                rooms.insert(&capture.stream, (room, 0));
                room
            }
        };
        appended.push_back(match room {
            Room::Blocked => None,
            Room::Free | Room::None => Some(store.append(capture, room == Room::Free)?),
        });
    }
    Ok(appended)
}

/// Answers the calls, and those appends that something became of.
fn tell(
    calls: &mut Vec<Box<dyn Call>>,
    appends: &mut VecDeque<Append>,
    mut appended: VecDeque<Option<Appended>>,
) {
    for call in calls.drain(..) {
        call.answer();
    }
    // The last first: whoever waits for them in their order is woken once, by the first.
    appended.resize_with(appends.len(), || None);
    let mut left = VecDeque::new();
    while let (Some(append), Some(appended)) = (appends.pop_back(), appended.pop_back()) {
        match appended {
            // Whoever asked may have gone; what it asked for is done all the same.
            Some(appended) => drop(append.answer.send(appended)),
            None => left.push_front(append),
        }
    }
    *appends = left;
}
