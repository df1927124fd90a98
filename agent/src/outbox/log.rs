//! Whether SQLite's log still has all that it had.
//!
//! A log that does not read ends, for SQLite, where it stops reading: that is how it looks after a power cut. But the
//! index beside it, which other processes share, says how far it went when the last process died, and is only
//! moved on after the log was synced. Layouts: <https://sqlite.org/walformat.html>, all words of the index are
//! in the byte order of the machine.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Bytes of the log's header, of the index's, of which there are two, and of both with what follows them.
const LOG_HEADER: usize = 32;
const INDEX_HEADER: usize = 48;
const INDEX: usize = 136;

/// How far a log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// Which run of the log it is.
    salts: [u32; 2],
    /// Pages that were committed in it.
    pages: u32,
    /// Of them, those that are in the database already.
    moved: u32,
}

impl Reach {
    /// What the index of the database at `path` says; nothing if there is none that can be relied on. Not while this
    /// process has the database open: closing a file lets go of all locks that the process has on it (`fcntl(2)`).
    pub(super) fn of(path: &Path) -> Option<Self> {
        let mut index = [0; INDEX];
        File::open(beside(path, "-shm")).ok()?.read_exact(&mut index).ok()?;
        let words: Vec<u32> = index
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        let (first, second) = (&words[..INDEX_HEADER / 4], &words[INDEX_HEADER / 4..INDEX_HEADER / 2]);
        let sums = sums(&first[..10]);
        if first != second || sums != [first[10], first[11]] {
            return None;
        }
        Some(Self { salts: [first[8], first[9]], pages: first[4], moved: words[INDEX_HEADER / 2] })
    }

    /// Whether the log of the database at `path`, which nobody has opened yet, is not the one that this was said of.
    pub(super) fn is_of_another(self, path: &Path) -> bool {
        let mut log = [0; LOG_HEADER];
        let read = File::open(beside(path, "-wal")).and_then(|mut file| file.read_exact(&mut log));
        let word = |at: usize| u32::from_be_bytes([log[at], log[at + 1], log[at + 2], log[at + 3]]);
        if read.is_err() {
            return false;
        }
        // The lowest bit of its first word says in which byte order it is summed up.
        let little = word(0) & 1 == 0;
        let words: Vec<u32> =
            (0..6).map(|n| if little { word(4 * n).swap_bytes() } else { word(4 * n) }).collect();
        let sums = sums(&words);
        // One that is whole and of another run is newer than what is known of it.
        sums == [word(24), word(28)] && self.salts.map(u32::from_be) != [word(16), word(20)]
    }

    /// Whether something that was committed is in neither the log nor the database, now that so many pages of the log
    /// read.
    pub(super) fn is_cut(self, pages: u32) -> bool {
        self.pages > self.moved && pages < self.pages
    }
}

/// The sum that SQLite takes of an even number of words.
fn sums(words: &[u32]) -> [u32; 2] {
    words.chunks_exact(2).fold([0, 0], |[a, b], pair| {
        let a = a.wrapping_add(pair[0]).wrapping_add(b);
        [a, b.wrapping_add(pair[1]).wrapping_add(a)]
    })
}

/// The file that SQLite keeps beside the database at `path` under this ending.
pub(super) fn beside(path: &Path, companion: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(companion);
    name.into()
}
