//! Files and folders in memory, and what a power cut leaves of them.
//!
//! What was synced is kept. Of what was not, anything may be kept: of a file any of its sectors, at the old length or
//! the new; of a folder the first so many of its changes, since file systems have a journal for these. Syncing a file
//! does not keep its name: that takes a sync of its folder.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use crate::random::Random;

/// What a disk writes whole.
const SECTOR: usize = 512;
/// The number of the folder that holds everything.
pub(super) const ROOT: u64 = 1;

/// Everything, by number.
pub(super) struct Tree {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// It says that it has synced, and has not.
    pub(super) lies: bool,
}

/// A file or a folder.
pub(super) struct Node {
    /// Its permissions, which are kept at once.
    pub(super) mode: u16,
    /// When it was last changed, likewise.
    pub(super) changed: SystemTime,
    /// What it holds.
    pub(super) body: Body,
}

/// What there is.
pub(super) enum Body {
    /// A file.
    File(File),
    /// A folder.
    Folder(Folder),
    /// A socket, of which only the name is here.
    Socket,
}

/// A file's content.
#[derive(Default)]
pub(super) struct File {
    /// As programs see it.
    pub(super) now: Vec<u8>,
    kept: Vec<u8>,
    /// Sectors that were written since it was synced.
    written: BTreeSet<usize>,
}

/// A folder's names.
#[derive(Default)]
pub(super) struct Folder {
    /// As programs see them.
    pub(super) now: BTreeMap<OsString, u64>,
    kept: BTreeMap<OsString, u64>,
    /// What was done to it since it was synced.
    changes: Vec<Change>,
}

enum Change {
    Enter(OsString, u64),
    Remove(OsString),
    Rename(OsString, OsString),
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no such thing.
    Absent,
    /// There is one already.
    Present,
    /// It is a folder, or none.
    WrongKind,
    /// It is a folder that holds something.
    NotEmpty,
    /// Between two folders nothing is renamed here.
    AcrossFolders,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node { mode: 0o700, changed: SystemTime::now(), body: Body::Folder(Folder::default()) };
        Self { nodes: BTreeMap::from([(ROOT, root)]), next: ROOT + 1, lies: false }
    }
}

impl Tree {
    /// What has this number.
    pub(super) fn node(&mut self, number: u64) -> Result<&mut Node, Refusal> {
        self.nodes.get_mut(&number).ok_or(Refusal::Absent)
    }

    /// The file of this number.
    pub(super) fn file(&mut self, number: u64) -> Result<&mut File, Refusal> {
        match &mut self.node(number)?.body {
            Body::File(file) => Ok(file),
            Body::Folder(_) | Body::Socket => Err(Refusal::WrongKind),
        }
    }

    /// The folder of this number.
    pub(super) fn folder(&mut self, number: u64) -> Result<&mut Folder, Refusal> {
        match &mut self.node(number)?.body {
            Body::Folder(folder) => Ok(folder),
            Body::File(_) | Body::Socket => Err(Refusal::WrongKind),
        }
    }

    /// The number of what has this name in a folder.
    pub(super) fn find(&mut self, folder: u64, name: &OsStr) -> Result<u64, Refusal> {
        self.folder(folder)?.now.get(name).copied().ok_or(Refusal::Absent)
    }

    /// Makes something new.
    pub(super) fn make(&mut self, folder: u64, name: &OsStr, mode: u16, body: Body) -> Result<u64, Refusal> {
        if self.find(folder, name).is_ok() {
            return Err(Refusal::Present);
        }
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, Node { mode, changed: SystemTime::now(), body });
        self.folder(folder)?.change(Change::Enter(name.to_owned(), number));
        Ok(number)
    }

    /// Takes a name out. Who has the file open goes on with it.
    pub(super) fn remove(&mut self, folder: u64, name: &OsStr) -> Result<(), Refusal> {
        let number = self.find(folder, name)?;
        if self.folder(number).is_ok_and(|folder| !folder.now.is_empty()) {
            return Err(Refusal::NotEmpty);
        }
        self.folder(folder)?.change(Change::Remove(name.to_owned()));
        Ok(())
    }

    /// Gives something another name, in place of what has it, where that is allowed.
    pub(super) fn rename(
        &mut self,
        (from, name): (u64, &OsStr),
        (to, new): (u64, &OsStr),
        may_replace: bool,
    ) -> Result<(), Refusal> {
        self.find(from, name)?;
        if from != to {
            return Err(Refusal::AcrossFolders);
        }
        if !may_replace && self.find(to, new).is_ok() {
            return Err(Refusal::Present);
        }
        self.folder(from)?.change(Change::Rename(name.to_owned(), new.to_owned()));
        Ok(())
    }

    /// Keeps what a file or folder is now.
    pub(super) fn sync(&mut self, number: u64) -> Result<(), Refusal> {
        if self.lies {
            return Ok(());
        }
        match &mut self.node(number)?.body {
            Body::File(file) => file.sync(),
            Body::Folder(folder) => folder.sync(),
            Body::Socket => {}
        }
        Ok(())
    }

    /// Cuts the power: what is there afterwards.
    pub(super) fn cut(&mut self, random: &mut Random) {
        for node in self.nodes.values_mut() {
            match &mut node.body {
                Body::File(file) => file.cut(random),
                Body::Folder(folder) => folder.cut(random),
                Body::Socket => {}
            }
        }
        // What has no name is gone.
        let mut reached = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(number) = open.pop() {
            let inside: Vec<u64> =
                self.folder(number).map(|folder| folder.now.values().copied().collect()).unwrap_or_default();
            open.extend(inside.into_iter().filter(|number| reached.insert(*number)));
        }
        self.nodes.retain(|number, _| reached.contains(number));
    }
}

impl File {
    /// Writes `bytes` at a place, behind zeroes where it was shorter.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if end > self.now.len() {
            self.resize(end);
        }
        self.now[at..end].copy_from_slice(bytes);
        self.note(at, end);
    }

    /// Cuts it off, or lengthens it by zeroes.
    pub(super) fn resize(&mut self, length: usize) {
        let (shorter, longer) = (length.min(self.now.len()), length.max(self.now.len()));
        self.now.resize(length, 0);
        self.note(shorter, longer);
    }

    fn note(&mut self, from: usize, to: usize) {
        self.written.extend(from / SECTOR..to.div_ceil(SECTOR));
    }

    fn sync(&mut self) {
        // Only what was written is copied: a log is synced at every commit.
        self.kept.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.written) {
            copy(sector, &self.now, &mut self.kept);
        }
    }

    fn cut(&mut self, random: &mut Random) {
        let length = if random.below(2) == 0 { self.kept.len() } else { self.now.len() };
        // All that was written may have come to the disk, or nothing, or some.
        let luck = [0, 1, 2][random.place(3)];
        self.kept.resize(length, 0);
        for sector in std::mem::take(&mut self.written) {
            if luck == 2 || luck == 1 && random.below(2) == 0 {
                copy(sector, &self.now, &mut self.kept);
            }
        }
        self.now.clone_from(&self.kept);
    }
}

/// Copies a sector, as far as both have it.
fn copy(sector: usize, from: &[u8], to: &mut [u8]) {
    let start = sector * SECTOR;
    let end = (start + SECTOR).min(from.len()).min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}

impl Folder {
    fn change(&mut self, change: Change) {
        apply(&change, &mut self.now);
        self.changes.push(change);
    }

    fn sync(&mut self) {
        self.kept.clone_from(&self.now);
        self.changes.clear();
    }

    fn cut(&mut self, random: &mut Random) {
        let done = random.place(self.changes.len() + 1);
        for change in self.changes.drain(..).take(done) {
            apply(&change, &mut self.kept);
        }
        self.now.clone_from(&self.kept);
    }
}

fn apply(change: &Change, names: &mut BTreeMap<OsString, u64>) {
    match change {
        Change::Enter(name, number) => {
            names.insert(name.clone(), *number);
        }
        Change::Remove(name) => {
            names.remove(name);
        }
        Change::Rename(name, new) => {
            if let Some(number) = names.remove(name) {
                names.insert(new.clone(), number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> &OsStr {
        OsStr::new(name)
    }

    fn write(tree: &mut Tree, called: &str, bytes: &[u8]) -> u64 {
        let number = tree
            .find(ROOT, name(called))
            .or_else(|_| tree.make(ROOT, name(called), 0o600, Body::File(File::default())))
            .unwrap();
        let file = tree.file(number).unwrap();
        file.resize(0);
        file.write(0, bytes);
        number
    }

    fn read(tree: &mut Tree, called: &str) -> Option<Vec<u8>> {
        let number = tree.find(ROOT, name(called)).ok()?;
        Some(tree.file(number).unwrap().now.clone())
    }

    #[test]
    fn what_was_synced_is_kept_and_what_was_not_may_be() {
        let mut seen = BTreeSet::new();
        for seed in 0..2000 {
            let mut tree = Tree::default();
            let number = write(&mut tree, "a", &[1; 1024]);
            tree.sync(number).unwrap();
            tree.sync(ROOT).unwrap();
            tree.file(number).unwrap().write(512, &[2; 1024]);
            write(&mut tree, "b", &[3; 100]);
            tree.cut(&mut Random::new(seed));
            let a = read(&mut tree, "a").unwrap();
            assert_eq!(a[..512], [1; 512], "synced, and not written since");
            assert!(
                a[512..].chunks(512).all(|sector| sector.windows(2).all(|pair| pair[0] == pair[1])),
                "sectors are whole"
            );
            seen.insert((a.len(), a[512], a.get(1024).copied(), read(&mut tree, "b").map(|b| b == [3; 100])));
        }
        assert!(seen.contains(&(1024, 1, None, None)), "nothing");
        assert!(seen.contains(&(1536, 2, Some(2), Some(true))), "all");
        assert!(seen.contains(&(1536, 1, Some(2), Some(true))), "the second without the first");
        assert!(seen.contains(&(1536, 1, Some(0), None)), "only the length");
        assert!(seen.contains(&(1024, 1, None, Some(false))), "a name whose content never came");
    }

    #[test]
    fn a_rename_is_done_or_not() {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let mut tree = Tree::default();
            write(&mut tree, "keys", &[1; 100]);
            let new = write(&mut tree, "keys.new", &[2; 100]);
            tree.sync(new).unwrap();
            let old = tree.find(ROOT, name("keys")).unwrap();
            tree.sync(old).unwrap();
            tree.sync(ROOT).unwrap();
            tree.rename((ROOT, name("keys.new")), (ROOT, name("keys")), true).unwrap();
            tree.cut(&mut Random::new(seed));
            seen.insert((read(&mut tree, "keys"), read(&mut tree, "keys.new")));
        }
        let done = (Some(vec![2; 100]), None);
        let undone = (Some(vec![1; 100]), Some(vec![2; 100]));
        assert_eq!(seen, BTreeSet::from([done, undone]));
    }

    #[test]
    fn a_disk_that_lies_keeps_nothing_for_sure() {
        let lost = (0..50).filter(|seed| {
            let mut tree = Tree { lies: true, ..Tree::default() };
            let number = write(&mut tree, "a", &[1; 100]);
            tree.sync(number).unwrap();
            tree.sync(ROOT).unwrap();
            tree.cut(&mut Random::new(*seed));
            read(&mut tree, "a").is_none_or(|a| a != [1; 100])
        });
        assert!(lost.count() > 10);
    }
}
