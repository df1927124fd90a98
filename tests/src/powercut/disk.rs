//! A disk that remembers what was written to it and what was synced, under SQLite as a file system of its
//! own; and what is left of it when the power is cut.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlite_vfs::{DatabaseHandle, LockKind, OpenOptions, Vfs, WalDisabled};

use crate::random::Random;

/// What happened to the disk, in order.
#[derive(Debug, Clone)]
pub(super) enum Event<N> {
    /// Bytes were written to a file at an offset.
    Write(String, usize, Vec<u8>),
    /// A file was cut or extended.
    Resize(String, usize),
    /// A file was removed.
    Delete(String),
    /// All that was done to a file must survive from now on.
    Sync(String),
    /// The user of the disk was told something.
    Note(N),
}

/// The disk. Clones are the same disk.
pub(super) struct Disk<N>(Arc<Mutex<State<N>>>);

struct State<N> {
    files: BTreeMap<String, Vec<u8>>,
    events: Vec<Event<N>>,
    random: Random,
}

impl<N> Clone for Disk<N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<N: Send + 'static> Disk<N> {
    /// An empty disk, which SQLite finds under `name`.
    pub(super) fn register(name: &str, seed: u64) -> anyhow::Result<Self> {
        let state = State { files: BTreeMap::new(), events: Vec::new(), random: Random::new(seed) };
        let disk = Self(Arc::new(Mutex::new(state)));
        sqlite_vfs::register(name, disk.clone(), false)?;
        Ok(disk)
    }

    /// Remembers that its user was told something now.
    pub(super) fn note(&self, note: N) {
        self.state().events.push(Event::Note(note));
    }

    /// All that happened.
    pub(super) fn take_events(&self) -> Vec<Event<N>> {
        std::mem::take(&mut self.state().events)
    }

    fn state(&self) -> MutexGuard<'_, State<N>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open file.
pub(super) struct File<N> {
    disk: Disk<N>,
    name: String,
    lock: LockKind,
}

impl<N: Send + 'static> Vfs for Disk<N> {
    type Handle = File<N>;

    fn open(&self, name: &str, _: OpenOptions) -> io::Result<File<N>> {
        self.state().files.entry(name.to_owned()).or_default();
        Ok(File { disk: self.clone(), name: name.to_owned(), lock: LockKind::None })
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.events.push(Event::Delete(name.to_owned()));
        Ok(())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.state().files.contains_key(name))
    }

    fn temporary_name(&self) -> String {
        format!("temporary-{:016x}", self.state().random.number())
    }

    fn random(&self, buffer: &mut [i8]) {
        let mut state = self.state();
        buffer.fill_with(|| state.random.byte().cast_signed());
    }

    fn sleep(&self, duration: Duration) -> Duration {
        duration
    }
}

impl<N: Send + 'static> DatabaseHandle for File<N> {
    type WalIndex = WalDisabled;

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().files.get(&self.name).map_or(0, |bytes| bytes.len() as u64))
    }

    fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.state();
        let bytes = state.files.get(&self.name).map_or(&[][..], Vec::as_slice);
        let there = bytes.get(place(offset)?..).unwrap_or_default();
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        // SQLite wants zeros in place of what is not there, and to be told.
        buffer[length..].fill(0);
        if length < buffer.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let offset = place(offset)?;
        write(state.files.entry(self.name.clone()).or_default(), offset, bytes);
        state.events.push(Event::Write(self.name.clone(), offset, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self, _data_only: bool) -> io::Result<()> {
        self.disk.state().events.push(Event::Sync(self.name.clone()));
        Ok(())
    }

    fn set_len(&mut self, size: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let size = place(size)?;
        state.files.entry(self.name.clone()).or_default().resize(size, 0);
        state.events.push(Event::Resize(self.name.clone(), size));
        Ok(())
    }

    fn lock(&mut self, lock: LockKind) -> io::Result<bool> {
        self.lock = lock;
        Ok(true)
    }

    fn reserved(&mut self) -> io::Result<bool> {
        Ok(self.lock >= LockKind::Reserved)
    }

    fn current_lock(&self) -> io::Result<LockKind> {
        Ok(self.lock)
    }

    fn wal_index(&self, _readonly: bool) -> io::Result<WalDisabled> {
        Ok(WalDisabled)
    }
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(io::Error::other)
}

fn write(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// What the power cut does to writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// None of them is on the disk.
    Drop,
    /// All of them are.
    Keep,
    /// Each piece of so many bytes is as it was at some moment since the last sync, whatever its
    /// neighbours are: writes are dropped, reordered and torn.
    Tear(usize),
}

/// The platter: what survives, and what may.
#[derive(Debug, Default)]
pub(super) struct Platter(BTreeMap<String, Sectors>);

/// A file on it.
#[derive(Debug, Default)]
struct Sectors {
    /// Synced content; `None` if the file does not exist for sure.
    synced: Option<Vec<u8>>,
    since: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Resize(usize),
    Delete,
}

impl Platter {
    /// The next thing that happened.
    pub(super) fn apply<N>(&mut self, event: &Event<N>) {
        match event {
            Event::Write(name, offset, bytes) => self.change(name, Change::Write(*offset, bytes.clone())),
            Event::Resize(name, size) => self.change(name, Change::Resize(*size)),
            Event::Delete(name) => self.change(name, Change::Delete),
            Event::Sync(name) => {
                // A journalling file system commits removals before anything that came after them.
                for (other, file) in &mut self.0 {
                    let removed = file.since.iter().rposition(|change| matches!(change, Change::Delete));
                    let settled =
                        if other == name { file.since.len() } else { removed.map_or(0, |at| at + 1) };
                    for change in file.since.drain(..settled) {
                        change.happen(&mut file.synced);
                    }
                }
            }
            Event::Note(_) => {}
        }
    }

    fn change(&mut self, name: &str, change: Change) {
        self.0.entry(name.to_owned()).or_default().since.push(change);
    }

    /// The files that are found after the power was cut now.
    pub(super) fn cut(&self, how: Cut, random: &mut Random) -> BTreeMap<&str, Vec<u8>> {
        let left = self.0.iter().filter_map(|(name, file)| Some((name.as_str(), file.cut(how, random)?)));
        left.collect()
    }
}

impl Change {
    fn happen(self, file: &mut Option<Vec<u8>>) {
        match self {
            Self::Write(offset, bytes) => write(file.get_or_insert_default(), offset, &bytes),
            Self::Resize(size) => file.get_or_insert_default().resize(size, 0),
            Self::Delete => *file = None,
        }
    }
}

impl Sectors {
    fn cut(&self, how: Cut, random: &mut Random) -> Option<Vec<u8>> {
        let sector = match how {
            Cut::Drop => return self.synced.clone(),
            Cut::Keep => {
                let mut file = self.synced.clone();
                self.since.iter().cloned().for_each(|change| change.happen(&mut file));
                return file;
            }
            Cut::Tear(sector) => sector,
        };
        let removals = self.since.iter().filter(|change| matches!(change, Change::Delete)).count();
        let happened = random.place(removals + 1);
        // What came before the last removal that happened is gone; what comes after the next is not there.
        let mut lives = self.since.split(|change| matches!(change, Change::Delete)).skip(happened);
        let (base, changes) =
            (self.synced.clone().filter(|_| happened == 0), lives.next().unwrap_or_default());
        if base.is_none() && changes.is_empty() {
            return None;
        }
        Some(tear(base.unwrap_or_default(), changes, sector, random))
    }
}

/// The file with each sector as it was after some of `changes`, and a size that it had.
fn tear(mut file: Vec<u8>, changes: &[Change], sector: usize, random: &mut Random) -> Vec<u8> {
    let mut sizes = vec![file.len()];
    let mut moments: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, change) in changes.iter().enumerate() {
        let size = *sizes.last().unwrap_or(&0);
        match change {
            Change::Write(offset, bytes) => {
                sizes.push(size.max(offset + bytes.len()));
                let mut at = *offset;
                while at < offset + bytes.len() {
                    let end = ((at / sector + 1) * sector).min(offset + bytes.len());
                    let moment = *moments.entry(at / sector).or_insert_with(|| match random.below(3) {
                        0 => 0,
                        1 => changes.len(),
                        _ => random.place(changes.len() + 1),
                    });
                    if index < moment {
                        write(&mut file, at, &bytes[at - offset..end - offset]);
                    }
                    at = end;
                }
            }
            Change::Resize(size) => sizes.push(*size),
            Change::Delete => {}
        }
    }
    let size = sizes[random.place(sizes.len())];
    file.resize(size, 0);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_stays_and_what_was_not_may_not() {
        let name = || "db".to_owned();
        let events = [
            Event::<()>::Write(name(), 0, vec![1; 1024]),
            Event::Sync(name()),
            Event::Write(name(), 512, vec![2; 1024]),
        ];
        let mut platter = Platter::default();
        events.iter().for_each(|event| platter.apply(event));
        let mut random = Random::new(1);
        assert_eq!(platter.cut(Cut::Drop, &mut random)["db"], [1; 1024]);
        let kept = [vec![1; 512], vec![2; 1024]].concat();
        assert_eq!(platter.cut(Cut::Keep, &mut random)["db"], kept);
        let torn: std::collections::BTreeSet<Vec<u8>> =
            (0..200).map(|_| platter.cut(Cut::Tear(512), &mut random).remove("db").unwrap()).collect();
        assert!(torn.iter().all(|file| file[..512] == [1; 512]), "the synced half stays");
        assert!(torn.contains(&[vec![1; 1024], vec![2; 512]].concat()), "the later half alone");
        assert!(
            torn.contains(&[vec![1; 512], vec![2; 512], vec![0; 512]].concat()),
            "the size without the bytes"
        );
        platter.apply(&Event::<()>::Delete(name()));
        assert!(platter.cut(Cut::Drop, &mut random).contains_key("db"), "the removal may not have happened");
        platter.apply(&Event::<()>::Sync("other".to_owned()));
        assert!(platter.cut(Cut::Drop, &mut random).is_empty(), "a removal is settled with what follows it");
    }
}
