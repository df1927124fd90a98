use super::FrameError;

/// Cuts frames between a beginning, if there is one, and an end. It holds at most `max` bytes and an end.
#[derive(Debug)]
pub(super) struct Delimited {
    /// Empty when a frame begins where the one before has ended.
    start: Box<[u8]>,
    end: Box<[u8]>,
    max: usize,
    held: Vec<u8>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a frame.
    Inside,
    /// Behind an end, where the next beginning is expected.
    Between,
    /// In what belongs to no frame, which has been told.
    Lost,
}

impl Delimited {
    pub(super) fn new(start: &[u8], end: &[u8], max: usize) -> Self {
        let place = if start.is_empty() { Place::Inside } else { Place::Between };
        Self { start: start.into(), end: end.into(), max, held: Vec::new(), place }
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes what was read, and calls `found` for every frame that ends in it. Empty frames are none.
    pub(super) fn read(&mut self, bytes: &[u8], mut found: impl FnMut(Result<&[u8], FrameError>)) {
        for byte in bytes {
            self.held.push(*byte);
            if self.place == Place::Inside {
                self.inside(&mut found);
            } else {
                self.outside(&mut found);
            }
        }
    }

    fn inside(&mut self, found: &mut impl FnMut(Result<&[u8], FrameError>)) {
        if let Some(frame) = self.held.strip_suffix(&*self.end) {
            if !frame.is_empty() {
                found(Ok(frame));
            }
            self.held.clear();
            if !self.start.is_empty() {
                self.place = Place::Between;
            }
        } else if !self.start.is_empty() && self.held.ends_with(&self.start) {
            if self.held.len() > self.start.len() {
                found(Err(FrameError::CutOff));
            }
            self.held.clear();
        } else if self.held.len() == self.max + self.end.len() {
            found(Err(FrameError::TooLong { max: self.max }));
            self.place = Place::Lost;
            self.forget();
        }
    }

    fn outside(&mut self, found: &mut impl FnMut(Result<&[u8], FrameError>)) {
        let next = if self.start.is_empty() { &self.end } else { &self.start };
        if self.held.ends_with(next) {
            self.held.clear();
            self.place = Place::Inside;
        } else if self.held.len() >= next.len() {
            if self.place == Place::Between {
                found(Err(FrameError::Noise));
                self.place = Place::Lost;
            }
            self.forget();
        }
    }

    /// Only the beginning of what would bring reading into step again is still of use.
    fn forget(&mut self) {
        let next = if self.start.is_empty() { &self.end } else { &self.start };
        let useful = self.held.len().min(next.len() - 1);
        self.held.drain(..self.held.len() - useful);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(reader: &mut Delimited, bytes: &[u8]) -> Vec<Result<String, FrameError>> {
        let mut frames = Vec::new();
        reader
            .read(bytes, |frame| frames.push(frame.map(|frame| String::from_utf8_lossy(frame).into_owned())));
        frames
    }

    fn ok(text: &str) -> Result<String, FrameError> {
        Ok(text.to_owned())
    }

    #[test]
    fn lines_come_out_however_they_are_cut() {
        let text = b"one\r\ntwo\r\n\r\nthree\r\n";
        for size in 1..text.len() {
            let mut reader = Delimited::new(b"", b"\r\n", 10);
            let found: Vec<_> = text.chunks(size).flat_map(|chunk| frames(&mut reader, chunk)).collect();
            assert_eq!(found, [ok("one"), ok("two"), ok("three")], "in chunks of {size}");
        }
    }

    #[test]
    fn a_lone_part_of_the_ending_belongs_to_the_line() {
        let mut reader = Delimited::new(b"", b"\r\n", 10);
        assert_eq!(frames(&mut reader, b"a\rb\nc\r\n"), [ok("a\rb\nc")]);
        let mut reader = Delimited::new(b"", b"\r", 10);
        assert_eq!(frames(&mut reader, b"a\nb\rc"), [ok("a\nb")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        for ending in [&b"\n"[..], b"\r", b"\r\n"] {
            let mut reader = Delimited::new(b"", ending, 4);
            let text = [b"1234", ending, b"12345678901234567890", ending, b"next", ending].concat();
            let expected = [ok("1234"), Err(FrameError::TooLong { max: 4 }), ok("next")];
            assert_eq!(frames(&mut reader, &text), expected, "{ending:?}");
        }
    }

    #[test]
    fn memory_stays_bounded_without_an_ending() {
        let mut reader = Delimited::new(b"", b"\r\n", 100);
        let found = frames(&mut reader, &vec![b'x'; 1_000_000]);
        assert_eq!(found, [Err(FrameError::TooLong { max: 100 })]);
        assert!(reader.held.capacity() < 1000);
    }

    #[test]
    fn what_is_outside_of_frames_is_told_once() {
        let text = b"noise\x02one\x03\x02two\x03more noise\x02three\x03";
        let noise = Err(FrameError::Noise);
        for size in 1..text.len() {
            let mut reader = Delimited::new(b"\x02", b"\x03", 10);
            let found: Vec<_> = text.chunks(size).flat_map(|chunk| frames(&mut reader, chunk)).collect();
            assert_eq!(found, [noise.clone(), ok("one"), ok("two"), noise.clone(), ok("three")]);
        }
    }

    #[test]
    fn a_beginning_in_a_frame_begins_it_anew() {
        let mut reader = Delimited::new(b"<<", b">>", 10);
        assert_eq!(
            frames(&mut reader, b"<<on<<one>><<<<two>><<1234567890123<<four>><three<<>>"),
            [
                Err(FrameError::CutOff),
                ok("one"),
                ok("two"),
                Err(FrameError::TooLong { max: 10 }),
                ok("four"),
                Err(FrameError::Noise),
            ]
        );
    }
}
