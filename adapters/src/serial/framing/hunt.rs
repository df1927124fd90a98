use super::{Endian, FrameError};
use crate::serial::check::CheckKind;

/// Cuts frames whose length is known, or stands in them. Where a frame cannot be one, the next is looked
/// for from its second byte on: it may have begun within.
///
/// It holds less than a frame and the bytes read at once.
#[derive(Debug)]
pub(super) struct Hunt {
    /// What every frame begins with; may be empty.
    sync: Box<[u8]>,
    shape: Shape,
    check: CheckKind,
    held: Vec<u8>,
    /// What is before this place in `held` is done with.
    front: usize,
    /// So many bytes from `front` on were in a frame that was refused: nothing of them is refused again.
    refused: usize,
    /// Bytes outside of frames have been told since the last frame.
    noisy: bool,
}

/// What says how long a frame is, from its first byte to its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Fixed { size: usize },
    Length { at: usize, size: usize, endian: Endian, adds: usize, least: usize, max: usize },
}

impl Shape {
    /// How many bytes say the length.
    fn header(self) -> usize {
        match self {
            Self::Fixed { .. } => 0,
            Self::Length { at, size, .. } => at + size,
        }
    }

    /// The length of the frame that begins with these bytes, as soon as they say it.
    fn length(self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        match self {
            Self::Fixed { size } => Ok(Some(size)),
            Self::Length { at, size, endian, adds, least, max } => {
                let Some(field) = bytes.get(at..at + size) else { return Ok(None) };
                let number = match endian {
                    Endian::Big => field.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
                    Endian::Little => field.iter().rfold(0, |number, byte| number << 8 | u64::from(*byte)),
                };
                let length = usize::try_from(number).unwrap_or(usize::MAX).saturating_add(adds);
                if (least..=max).contains(&length) {
                    Ok(Some(length))
                } else {
                    Err(FrameError::Length { found: length, least, max })
                }
            }
        }
    }
}

/// So many bytes are taken at once, which bounds what is held.
const CHUNK: usize = 1024;

impl Hunt {
    pub(super) fn new(sync: &[u8], shape: Shape, check: CheckKind) -> Self {
        Self { sync: sync.into(), shape, check, held: Vec::new(), front: 0, refused: 0, noisy: false }
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes what was read, and calls `found` for every frame that ends in it, without its check.
    pub(super) fn read(&mut self, bytes: &[u8], mut found: impl FnMut(Result<&[u8], FrameError>)) {
        for chunk in bytes.chunks(CHUNK) {
            self.held.extend(chunk);
            self.hunt(&mut found);
            self.forget();
        }
    }

    /// Nothing follows for now: what has begun was cut off, and frames may be within.
    pub(super) fn silence(&mut self, mut found: impl FnMut(Result<&[u8], FrameError>)) {
        while self.front < self.held.len() {
            self.refuse(FrameError::CutOff, self.held.len() - self.front, &mut found);
            self.hunt(&mut found);
        }
        self.forget();
    }

    fn hunt(&mut self, found: &mut impl FnMut(Result<&[u8], FrameError>)) {
        loop {
            self.seek(found);
            let rest = &self.held[self.front..];
            if rest.is_empty() || rest.len() < self.sync.len() {
                return;
            }
            match self.shape.length(rest) {
                Ok(Some(length)) if length <= rest.len() => match self.check.verified(&rest[..length]) {
                    Ok(frame) => {
                        found(Ok(frame));
                        self.front += length;
                        self.refused = 0;
                        self.noisy = false;
                    }
                    Err(error) => self.refuse(error, length, found),
                },
                Ok(_) => return,
                Err(error) => self.refuse(error, self.shape.header(), found),
            }
        }
    }

    /// Goes on to where a frame may begin.
    fn seek(&mut self, found: &mut impl FnMut(Result<&[u8], FrameError>)) {
        let rest = &self.held[self.front..];
        let may_begin = |at: &usize| rest[*at..].iter().zip(&self.sync).all(|(byte, sync)| byte == sync);
        let passed = (0..rest.len()).find(may_begin).unwrap_or(rest.len());
        if passed > self.refused && !self.noisy {
            found(Err(FrameError::Noise));
            self.noisy = true;
        }
        self.pass(passed);
    }

    /// The frame of this length that seemed to begin here does not.
    fn refuse(
        &mut self,
        error: FrameError,
        length: usize,
        found: &mut impl FnMut(Result<&[u8], FrameError>),
    ) {
        if self.refused == 0 {
            found(Err(error));
            self.refused = length;
        }
        self.pass(1);
    }

    fn pass(&mut self, bytes: usize) {
        self.front += bytes;
        self.refused = self.refused.saturating_sub(bytes);
    }

    fn forget(&mut self) {
        self.held.drain(..self.front);
        self.front = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRC: CheckKind = CheckKind::Crc16Modbus;
    const FIXED: Shape = Shape::Fixed { size: 8 };
    /// The length of all that follows stands behind two bytes of sync.
    const LENGTH: Shape = Shape::Length { at: 2, size: 2, endian: Endian::Big, adds: 4, least: 6, max: 40 };
    const SYNC: &[u8] = b"\xaa\x55";

    fn frames(hunt: &mut Hunt, bytes: &[u8]) -> Vec<Result<Vec<u8>, FrameError>> {
        let mut frames = Vec::new();
        hunt.read(bytes, |frame| frames.push(frame.map(<[u8]>::to_vec)));
        frames
    }

    fn ended(hunt: &mut Hunt) -> Vec<Result<Vec<u8>, FrameError>> {
        let mut frames = Vec::new();
        hunt.silence(|frame| frames.push(frame.map(<[u8]>::to_vec)));
        assert_eq!(hunt.held(), 0);
        frames
    }

    fn with_length(body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len() + 2).unwrap();
        CRC.sealed(&[SYNC, &length.to_be_bytes(), body].concat())
    }

    #[test]
    fn frames_come_out_however_they_are_cut() {
        let frames_of_length = [with_length(b"one"), with_length(b""), with_length(b"three")].concat();
        let fixed = [CRC.sealed(b"\xaa\x55abcd"), CRC.sealed(b"\xaa\x55efgh"), CRC.sealed(b"\xaa\x55ijkl")];
        for (shape, text) in [(LENGTH, frames_of_length), (FIXED, fixed.concat())] {
            let text = [b"no\xaaise".to_vec(), text].concat();
            let whole = frames(&mut Hunt::new(SYNC, shape, CRC), &text);
            assert_eq!(whole[0], Err(FrameError::Noise));
            assert_eq!(whole.iter().filter(|frame| frame.is_ok()).count(), 3);
            assert_eq!(whole.len(), 4);
            for at in 0..=text.len() {
                let mut hunt = Hunt::new(SYNC, shape, CRC);
                let mut found = frames(&mut hunt, &text[..at]);
                found.extend(frames(&mut hunt, &text[at..]));
                assert_eq!(found, whole, "cut at {at}");
            }
            let mut hunt = Hunt::new(SYNC, shape, CRC);
            let found: Vec<_> = text.chunks(1).flat_map(|byte| frames(&mut hunt, byte)).collect();
            assert_eq!(found, whole, "byte by byte");
        }
    }

    #[test]
    fn a_frame_within_a_refused_one_is_found() {
        let good = with_length(b"good");
        // A sync and a length that reach over all of the next frame.
        let mut hunt = Hunt::new(SYNC, LENGTH, CRC);
        let text = [&b"\xaa\x55\x00\x10cut"[..], &good, &good].concat();
        let found = frames(&mut hunt, &text);
        assert!(matches!(found[0], Err(FrameError::Check { .. })), "{found:?}");
        assert_eq!(found[1..], [Ok(good[..8].to_vec()), Ok(good[..8].to_vec())]);
        // A length that no frame has.
        let text = [&b"\xaa\x55\xff\xff"[..], &good].concat();
        let impossible = FrameError::Length { found: 0xffff + 4, least: 6, max: 40 };
        assert_eq!(frames(&mut hunt, &text), [Err(impossible), Ok(good[..8].to_vec())]);
        // A sync that begins in a sync.
        let text = [b"\xaa", &good[..]].concat();
        assert_eq!(frames(&mut hunt, &text), [Err(FrameError::Noise), Ok(good[..8].to_vec())]);
    }

    #[test]
    fn a_frame_that_stands_still_was_cut_off() {
        let good = with_length(b"good");
        let mut hunt = Hunt::new(SYNC, LENGTH, CRC);
        let text = [&b"\xaa\x55\x00\x20cut"[..], &good, &good[..5]].concat();
        assert_eq!(frames(&mut hunt, &text), []);
        assert_eq!(
            ended(&mut hunt),
            [Err(FrameError::CutOff), Ok(good[..8].to_vec()), Err(FrameError::CutOff)]
        );
        assert_eq!(frames(&mut hunt, &good), [Ok(good[..8].to_vec())]);
        assert_eq!(ended(&mut hunt), []);
    }

    #[test]
    fn without_a_sync_the_check_alone_finds_the_step() {
        let mut hunt = Hunt::new(b"", FIXED, CRC);
        let text = [&b"xyz"[..], &CRC.sealed(b"abcdef"), &CRC.sealed(b"ghijkl")].concat();
        let found = frames(&mut hunt, &text);
        assert!(matches!(found[0], Err(FrameError::Check { .. })));
        assert_eq!(found[1..], [Ok(b"abcdef".to_vec()), Ok(b"ghijkl".to_vec())]);
        // And without that, silence does.
        let mut hunt = Hunt::new(b"", Shape::Fixed { size: 3 }, CheckKind::None);
        assert_eq!(frames(&mut hunt, b"abcd"), [Ok(b"abc".to_vec())]);
        assert_eq!(ended(&mut hunt), [Err(FrameError::CutOff)]);
        assert_eq!(frames(&mut hunt, b"def"), [Ok(b"def".to_vec())]);
    }

    #[test]
    fn the_length_is_read_as_it_is_written() {
        let length = |size, endian, bytes: &[u8]| {
            Shape::Length { at: 1, size, endian, adds: 2, least: 3, max: 70_000 }.length(bytes)
        };
        assert_eq!(length(1, Endian::Big, b"x\x05"), Ok(Some(7)));
        assert_eq!(length(2, Endian::Big, b"x\x01\x02"), Ok(Some(0x104)));
        assert_eq!(length(2, Endian::Little, b"x\x01\x02"), Ok(Some(0x203)));
        assert_eq!(length(4, Endian::Little, b"x\x01\x02\0\0"), Ok(Some(0x203)));
        assert_eq!(length(4, Endian::Big, b"x\x01\x02\0"), Ok(None));
        assert!(length(4, Endian::Big, b"x\xff\xff\xff\xff").is_err());
        assert!(length(1, Endian::Big, b"x\0").is_err());
    }
}
