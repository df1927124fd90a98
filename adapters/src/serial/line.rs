//! Lines out of a stream of bytes, bounded, and in step again after noise.

use serde::Deserialize;

/// How frames are told apart on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Framing {
    /// Lines of text.
    Line {
        /// What ends a line: `"crlf"`, `"lf"` or `"cr"`.
        ending: Ending,
        /// The most bytes a line may have without its ending. A longer one is refused and counted,
        /// and reading is in step again after the next ending.
        #[serde(default = "default_max")]
        max: usize,
    },
}

fn default_max() -> usize {
    1024
}

/// What ends a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Carriage return and line feed.
    Crlf,
    /// Line feed.
    Lf,
    /// Carriage return.
    Cr,
}

impl Ending {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Crlf => b"\r\n",
            Self::Lf => b"\n",
            Self::Cr => b"\r",
        }
    }
}

/// A line was longer than allowed; what there was of it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Cuts bytes into lines. It holds at most `max` bytes and an ending.
#[derive(Debug)]
pub(crate) struct LineReader {
    ending: &'static [u8],
    max: usize,
    line: Vec<u8>,
    /// The line is already too long and its rest is passed over.
    skipping: bool,
}

impl LineReader {
    pub(crate) fn new(ending: Ending, max: usize) -> Self {
        Self { ending: ending.bytes(), max, line: Vec::new(), skipping: false }
    }

    /// Takes what was read, and calls `found` for every line that ends in it. Empty lines are none.
    pub(crate) fn read(&mut self, bytes: &[u8], mut found: impl FnMut(Result<&[u8], TooLong>)) {
        for byte in bytes {
            self.line.push(*byte);
            if self.line.ends_with(self.ending) {
                let line = &self.line[..self.line.len() - self.ending.len()];
                if !self.skipping && !line.is_empty() {
                    found(Ok(line));
                }
                self.skipping = false;
                self.line.clear();
            } else if self.line.len() == self.max + self.ending.len() {
                if !self.skipping {
                    found(Err(TooLong));
                }
                self.skipping = true;
                // Only the beginning of an ending is still of use.
                self.line.drain(..=self.max);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(reader: &mut LineReader, bytes: &[u8]) -> Vec<Result<String, TooLong>> {
        let mut lines = Vec::new();
        reader.read(bytes, |line| lines.push(line.map(|line| String::from_utf8_lossy(line).into_owned())));
        lines
    }

    fn ok(text: &str) -> Result<String, TooLong> {
        Ok(text.to_owned())
    }

    #[test]
    fn lines_come_out_however_they_are_cut() {
        let text = b"one\r\ntwo\r\n\r\nthree\r\n";
        for size in 1..text.len() {
            let mut reader = LineReader::new(Ending::Crlf, 10);
            let found: Vec<_> = text.chunks(size).flat_map(|chunk| lines(&mut reader, chunk)).collect();
            assert_eq!(found, [ok("one"), ok("two"), ok("three")], "in chunks of {size}");
        }
    }

    #[test]
    fn a_lone_part_of_the_ending_belongs_to_the_line() {
        let mut reader = LineReader::new(Ending::Crlf, 10);
        assert_eq!(lines(&mut reader, b"a\rb\nc\r\n"), [ok("a\rb\nc")]);
        let mut reader = LineReader::new(Ending::Cr, 10);
        assert_eq!(lines(&mut reader, b"a\nb\rc"), [ok("a\nb")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        for ending in [Ending::Lf, Ending::Cr, Ending::Crlf] {
            let mut reader = LineReader::new(ending, 4);
            let mut text = b"1234".to_vec();
            text.extend(ending.bytes());
            text.extend(b"12345678901234567890");
            text.extend(ending.bytes());
            text.extend(b"next");
            text.extend(ending.bytes());
            assert_eq!(lines(&mut reader, &text), [ok("1234"), Err(TooLong), ok("next")], "{ending:?}");
        }
    }

    #[test]
    fn memory_stays_bounded_without_an_ending() {
        let mut reader = LineReader::new(Ending::Crlf, 100);
        let found = lines(&mut reader, &vec![b'x'; 1_000_000]);
        assert_eq!(found, [Err(TooLong)]);
        assert!(reader.line.capacity() < 1000);
    }
}
