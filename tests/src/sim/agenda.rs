//! What is to happen when, and a mark of all that has happened.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt::{self, Write};
use std::time::Duration;

/// Time since the world began.
pub(super) type Time = Duration;

/// How many of the last happenings are kept for whoever asks how it came to this.
const KEPT: usize = 400;

/// Events in the order of their times, and those of one time in the order in which they were planned.
pub(super) struct Agenda<E> {
    due: BinaryHeap<Reverse<Entry<E>>>,
    planned: u64,
}

struct Entry<E> {
    at: Time,
    number: u64,
    event: E,
}

impl<E> Agenda<E> {
    pub(super) fn new() -> Self {
        Self { due: BinaryHeap::new(), planned: 0 }
    }

    pub(super) fn plan(&mut self, at: Time, event: E) {
        self.planned += 1;
        self.due.push(Reverse(Entry { at, number: self.planned, event }));
    }

    pub(super) fn next(&mut self) -> Option<(Time, E)> {
        self.due.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What has happened, as one number (FNV-1a) and its last lines.
pub(super) struct Trace {
    mark: u64,
    last: VecDeque<String>,
    line: String,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self { mark: 0xcbf2_9ce4_8422_2325, last: VecDeque::new(), line: String::new() }
    }

    pub(super) fn note(&mut self, at: Time, what: fmt::Arguments<'_>) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        write!(line, "{:9.3} {what}", at.as_secs_f64()).expect("a string takes all that is written");
        for byte in line.bytes() {
            self.mark = (self.mark ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.last.push_back(line);
        if self.last.len() > KEPT {
            self.line = self.last.pop_front().unwrap_or_default();
        }
    }

    /// Two runs of which nothing differed have the same.
    pub(super) fn mark(&self) -> u64 {
        self.mark
    }

    pub(super) fn last_lines(&self) -> String {
        self.last.iter().map(|line| format!("{line}\n")).collect()
    }
}
