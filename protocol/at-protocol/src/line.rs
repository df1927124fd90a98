//! From bytes to lines, with a cap.

/// Longest line of somebody who has not proved who he is, in bytes (our own bound).
pub const MAX_ANONYMOUS: usize = 64 * 1024;
/// Longest line of an authenticated connection, in bytes (wire reference §2.2).
pub const MAX_AUTHENTICATED: usize = 10_240_000;

/// One line of input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A command, trimmed at both ends, never empty.
    Text(String),
    /// A read that held nothing but line ends: the C client sends one and waits for the answer. Blank
    /// lines beside a command are dropped, since the Rust client ends its commands twice (§2.2).
    Blank,
    /// A line that is not UTF-8.
    NotText,
}

/// The sender exceeded the longest line allowed, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line exceeds {0} bytes")]
pub struct LineTooLong(pub usize);

/// Cuts a stream of reads into lines. Holds at most one limit of unfinished line plus one read.
#[derive(Debug)]
pub struct LineSplitter {
    buffer: Vec<u8>,
    /// Where the unfinished line begins: what lies before was given out, and goes with the last whole line.
    taken: usize,
    /// Where the search for the next line end goes on: from `taken` to here there is none.
    searched: usize,
    /// Whether the read at hand held only line ends, on an empty buffer.
    blank: bool,
    limit: usize,
}

impl LineSplitter {
    /// A splitter whose lines have at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), taken: 0, searched: 0, blank: false, limit }
    }

    /// Changes the longest line allowed, as authentication does.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes in one read. Drain [`LineSplitter::next_line`] before the next.
    pub fn feed(&mut self, read: &[u8]) {
        self.blank =
            self.pending().is_empty() && read.contains(&b'\n') && read.iter().all(u8::is_ascii_whitespace);
        self.buffer.extend_from_slice(read);
    }

    /// The next whole line, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// The line at hand is longer than the limit; the connection cannot go on.
    pub fn next_line(&mut self) -> Result<Option<Line>, LineTooLong> {
        if std::mem::take(&mut self.blank) {
            self.clear_pending();
            return Ok(Some(Line::Blank));
        }
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.buffer.drain(..self.taken);
                (self.taken, self.searched) = (0, self.buffer.len());
                if self.buffer.len() > self.limit {
                    return Err(LineTooLong(self.limit));
                }
                if self.buffer.is_empty() {
                    self.buffer = Vec::new();
                }
                return Ok(None);
            };
            let (start, end) = (self.taken, self.searched + end);
            if end - start > self.limit {
                return Err(LineTooLong(self.limit));
            }
            (self.taken, self.searched) = (end + 1, end + 1);
            match std::str::from_utf8(&self.buffer[start..end]).map(str::trim) {
                Ok("") => {}
                Ok(text) => return Ok(Some(Line::Text(text.to_owned()))),
                Err(_) => return Ok(Some(Line::NotText)),
            }
        }
    }

    /// What has arrived of an unfinished line. A prompt that waits for no line end stands here.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    /// Forgets what has arrived of an unfinished line.
    pub fn clear_pending(&mut self) {
        self.buffer.clear();
        (self.taken, self.searched) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(reads: &[&[u8]]) -> Vec<Line> {
        let mut splitter = LineSplitter::new(20);
        let mut lines = Vec::new();
        for read in reads {
            splitter.feed(read);
            while let Some(line) = splitter.next_line().unwrap() {
                lines.push(line);
            }
        }
        lines
    }

    fn text(line: &str) -> Line {
        Line::Text(line.to_owned())
    }

    #[test]
    fn lines_are_cut_trimmed_and_joined_over_reads() {
        assert_eq!(
            lines(&[b"from:@alice\r\npk", b"am:x\nsc", b"an\n"]),
            [text("from:@alice"), text("pkam:x"), text("scan")]
        );
    }

    #[test]
    fn a_blank_line_counts_only_when_it_comes_alone() {
        assert_eq!(lines(&[b"\r\n"]), [Line::Blank]);
        assert_eq!(lines(&[b"\n\n\r\n"]), [Line::Blank]);
        assert_eq!(lines(&[b"from:alice\n\n", b"\n"]), [text("from:alice"), Line::Blank]);
        assert_eq!(lines(&[b"\nscan\n\n"]), [text("scan")]);
        assert_eq!(lines(&[b" ", b"\n"]), []);
    }

    #[test]
    fn what_is_not_utf8_is_said_and_survived() {
        assert_eq!(lines(&[b"a\xff\nscan\n"]), [Line::NotText, text("scan")]);
    }

    #[test]
    fn the_limit_holds_for_ended_and_unended_lines() {
        let mut splitter = LineSplitter::new(4);
        splitter.feed(b"12345");
        assert_eq!(splitter.next_line(), Err(LineTooLong(4)));
        let mut splitter = LineSplitter::new(4);
        splitter.feed(b"1234\n12345\n");
        assert_eq!(splitter.next_line(), Ok(Some(text("1234"))));
        assert_eq!(splitter.next_line(), Err(LineTooLong(4)));
    }
}
