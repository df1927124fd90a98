//! Frames out of a stream of bytes, bounded, and in step again after noise. Pure: that the line is silent
//! is told.

mod cobs;
mod delimited;
mod hunt;
mod idle;
mod slip;
#[cfg(test)]
mod storm;

use std::time::Duration as StdDuration;

use serde::Deserialize;

use self::delimited::Delimited;
use self::hunt::{Hunt, Shape};
use self::idle::Idle;
use super::bytes::ByteText;
use super::check::CheckKind;
use crate::ConfigError;
use crate::units::Duration;

/// How frames are told apart on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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
    /// What stands between two marks, neither of which may stand in a frame or in its check.
    Delimiter {
        /// What begins a frame; absent where one begins as soon as another has ended. One that comes
        /// before the end begins the frame anew.
        start: Option<ByteText>,
        /// What ends a frame.
        end: ByteText,
        /// The most bytes a frame may have between the marks.
        #[serde(default = "default_max")]
        max: usize,
    },
    /// Frames of one size, which bounds them. One that stands still for a second was cut off.
    Fixed {
        /// Bytes of a frame, with its sync and its check.
        size: usize,
        /// What every frame begins with. It belongs to the frame: what is decoded begins with it.
        sync: Option<ByteText>,
    },
    /// A frame ends when nothing is said for a while. What is under way when the port is opened is passed
    /// over.
    Idle {
        /// How long the line is then silent, from `"1ms"`. Adapters on USB may hold bytes back for 16 ms.
        gap: Duration,
        /// The most bytes a frame may have.
        #[serde(default = "default_max")]
        max: usize,
    },
    /// Frames that say how long they are. One that stands still for a second was cut off.
    Length {
        /// Where the length stands, in bytes from the first of the frame; behind the sync.
        at: usize,
        /// How many bytes it has: 1, 2 or 4.
        size: usize,
        /// Which of them comes first: `"big"` or `"little"`.
        #[serde(default)]
        endian: Endian,
        /// What is to be added to it so that it counts the frame from its first byte to its last, with
        /// sync and check.
        #[serde(default)]
        adds: usize,
        /// What every frame begins with. It belongs to the frame: what is decoded begins with it.
        sync: Option<ByteText>,
        /// The most bytes a frame may have, counted in the same way.
        #[serde(default = "default_max")]
        max: usize,
    },
    /// Consistent Overhead Byte Stuffing, with a zero behind each frame.
    Cobs {
        /// The most bytes a frame may have when it is decoded, with its check.
        #[serde(default = "default_max")]
        max: usize,
    },
    /// SLIP (RFC 1055).
    Slip {
        /// The most bytes a frame may have when it is decoded, with its check.
        #[serde(default = "default_max")]
        max: usize,
    },
}

fn default_max() -> usize {
    1024
}

/// The longest frame that may be configured, in bytes.
const LONGEST: usize = 64 * 1024;

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

/// Which byte of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endian {
    /// The most significant.
    #[default]
    Big,
    /// The least significant.
    Little,
}

/// Why bytes are not a frame. Of bytes that overlap in several ways one cause is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame did not end in time; what there was of it is gone.
    #[error("no end of the frame within {max} bytes")]
    TooLong {
        /// The framing's limit.
        max: usize,
    },
    /// The frame is too short to have a check.
    #[error("a frame of {bytes} bytes, where the check alone has {least}")]
    TooShort {
        /// Its size.
        bytes: usize,
        /// The size of the check.
        least: usize,
    },
    /// No frame has this length.
    #[error("the frame's length would be {found} bytes, not {least} to {max}")]
    Length {
        /// What the frame says, with what is added.
        found: usize,
        /// The shortest a frame can be.
        least: usize,
        /// The framing's limit.
        max: usize,
    },
    /// The check says that the frame is damaged.
    #[error("the check is {found:#06x}, where the frame's bytes give {expected:#06x}")]
    Check {
        /// What the bytes give.
        expected: u16,
        /// What stands in the frame.
        found: u16,
    },
    /// Another frame began, or silence, before this one had ended.
    #[error("the frame was cut off")]
    CutOff,
    /// Bytes belong to no frame. Told once until there is a frame again.
    #[error("bytes outside of any frame")]
    Noise,
    /// The frame's coding is broken.
    #[error("{0}")]
    Coding(&'static str),
}

impl Framing {
    /// Checks what the form of the settings alone does not show.
    pub(super) fn check(&self, check: CheckKind) -> Result<(), ConfigError> {
        let within = |setting: &str, value: usize, least: usize| {
            if (least..=LONGEST).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::at(format!("framing.{setting}"), format!("expected {least} to {LONGEST}")))
            }
        };
        let least = check.size() + 1;
        match self {
            Self::Line { max, .. } | Self::Cobs { max } | Self::Slip { max } => within("max", *max, least),
            Self::Delimiter { start, end, max } => {
                within("max", *max, least)?;
                marks(start.as_ref(), end)
            }
            Self::Idle { gap, max } => {
                within("max", *max, least)?;
                if gap.get().is_zero() {
                    return Err(ConfigError::at("framing.gap", "expected at least \"1ms\""));
                }
                Ok(())
            }
            Self::Fixed { size, sync } => {
                let sync = sync_bytes(sync.as_ref())?;
                within("size", *size, sync.len() + least)
            }
            Self::Length { at, size, sync, max, adds, .. } => {
                let sync = sync_bytes(sync.as_ref())?;
                if !matches!(size, 1 | 2 | 4) {
                    return Err(ConfigError::at("framing.size", "expected 1, 2 or 4"));
                }
                within("at", *at, sync.len())?;
                let least = at + size + check.size();
                within("max", *max, least)?;
                if adds > max {
                    let what = format!("expected at most {max}, which is `max`");
                    return Err(ConfigError::at("framing.adds", what));
                }
                Ok(())
            }
        }
    }

    /// Whether its frames need characters of eight bits.
    pub(super) fn is_coded(&self) -> bool {
        matches!(self, Self::Cobs { .. } | Self::Slip { .. })
    }
}

fn marks(start: Option<&ByteText>, end: &ByteText) -> Result<(), ConfigError> {
    let end = end.as_bytes();
    if !(1..=MARK).contains(&end.len()) {
        return Err(ConfigError::at("framing.end", format!("expected 1 to {MARK} bytes")));
    }
    let Some(start) = start.map(ByteText::as_bytes) else { return Ok(()) };
    if !(1..=MARK).contains(&start.len()) {
        return Err(ConfigError::at("framing.start", format!("expected 1 to {MARK} bytes, or no `start`")));
    }
    let contains = |outer: &[u8], inner: &[u8]| outer.windows(inner.len()).any(|part| part == inner);
    if contains(start, end) || contains(end, start) {
        let what =
            "`start` and `end` may not stand in each other; where they are the same, leave `start` out";
        return Err(ConfigError::at("framing.start", what));
    }
    Ok(())
}

/// The most bytes of a mark or a sync.
const MARK: usize = 16;

fn sync_bytes(sync: Option<&ByteText>) -> Result<&[u8], ConfigError> {
    match sync.map(ByteText::as_bytes) {
        Some(sync) if !(1..=MARK).contains(&sync.len()) => {
            Err(ConfigError::at("framing.sync", format!("expected 1 to {MARK} bytes, or no `sync`")))
        }
        Some(sync) => Ok(sync),
        None => Ok(&[]),
    }
}

/// So long no device pauses within a frame of known length.
const STALLED: StdDuration = StdDuration::from_secs(1);

/// Bytes in, frames without their checks and refusals out.
#[derive(Debug)]
pub struct Framer {
    machine: Machine,
    check: CheckKind,
    /// The frame last decoded.
    plain: Vec<u8>,
}

#[derive(Debug)]
enum Machine {
    Delimited(Delimited),
    Coded { delimited: Delimited, decode: Decode, max: usize },
    Hunt(Hunt),
    Idle { idle: Idle, gap: StdDuration },
}

type Decode = fn(&[u8], &mut Vec<u8>) -> Result<(), FrameError>;

impl Framer {
    /// A framer at the beginning of a stream. The settings have been checked.
    pub fn new(framing: &Framing, check: CheckKind) -> Self {
        let bytes = |text: &Option<ByteText>| text.as_ref().map_or(Vec::new(), |text| text.as_bytes().into());
        let machine = match framing {
            Framing::Line { ending, max } => Machine::Delimited(Delimited::new(&[], ending.bytes(), *max)),
            Framing::Delimiter { start, end, max } => {
                Machine::Delimited(Delimited::new(&bytes(start), end.as_bytes(), *max))
            }
            Framing::Fixed { size, sync } => {
                Machine::Hunt(Hunt::new(&bytes(sync), Shape::Fixed { size: *size }, check))
            }
            Framing::Length { at, size, endian, adds, sync, max } => {
                let least = at + size + check.size();
                let shape =
                    Shape::Length { at: *at, size: *size, endian: *endian, adds: *adds, least, max: *max };
                Machine::Hunt(Hunt::new(&bytes(sync), shape, check))
            }
            Framing::Idle { gap, max } => Machine::Idle { idle: Idle::new(*max), gap: gap.get() },
            Framing::Cobs { max } => Machine::Coded {
                delimited: Delimited::new(&[], &[0], cobs::longest(*max)),
                decode: cobs::decode,
                max: *max,
            },
            Framing::Slip { max } => Machine::Coded {
                delimited: Delimited::new(&[], &[slip::END], slip::longest(*max)),
                decode: slip::decode,
                max: *max,
            },
        };
        Self { machine, check, plain: Vec::new() }
    }

    /// Takes what was read, and calls `found` for all that ends in it.
    pub fn read(&mut self, bytes: &[u8], mut found: impl FnMut(Result<&[u8], FrameError>)) {
        let check = self.check;
        match &mut self.machine {
            Machine::Delimited(delimited) => {
                delimited.read(bytes, |frame| found(frame.and_then(|frame| check.verified(frame))));
            }
            Machine::Coded { delimited, decode, max } => delimited.read(bytes, |frame| {
                let plain = frame.and_then(|frame| decode(frame, &mut self.plain));
                found(match plain {
                    Ok(()) if self.plain.len() > *max => Err(FrameError::TooLong { max: *max }),
                    Ok(()) => check.verified(&self.plain),
                    Err(FrameError::TooLong { .. }) => Err(FrameError::TooLong { max: *max }),
                    Err(error) => Err(error),
                });
            }),
            Machine::Hunt(hunt) => hunt.read(bytes, found),
            Machine::Idle { idle, .. } => idle.read(bytes, found),
        }
    }

    /// How long the line has to be silent before [`silence`](Self::silence) is to be called; `None` when
    /// silence would say nothing.
    pub fn patience(&self) -> Option<StdDuration> {
        match &self.machine {
            Machine::Delimited(_) | Machine::Coded { .. } => None,
            Machine::Hunt(hunt) => (hunt.held() > 0).then_some(STALLED),
            Machine::Idle { idle, gap } => idle.awaits_silence().then_some(*gap),
        }
    }

    /// The line was silent; calls `found` for all that ends by that.
    pub fn silence(&mut self, mut found: impl FnMut(Result<&[u8], FrameError>)) {
        let check = self.check;
        match &mut self.machine {
            Machine::Delimited(_) | Machine::Coded { .. } => {}
            Machine::Hunt(hunt) => hunt.silence(found),
            Machine::Idle { idle, .. } => {
                idle.silence(|frame| found(frame.and_then(|frame| check.verified(frame))));
            }
        }
    }

    /// How many bytes wait for the end of their frame.
    pub fn held(&self) -> usize {
        match &self.machine {
            Machine::Delimited(delimited) | Machine::Coded { delimited, .. } => delimited.held(),
            Machine::Hunt(hunt) => hunt.held(),
            Machine::Idle { idle, .. } => idle.held(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(toml: &str) -> Result<Framing, String> {
        let framing: Framing = toml::from_str(toml).map_err(|error| error.message().to_owned())?;
        framing.check(CheckKind::Crc16Modbus).map_err(|error| error.to_string())?;
        Ok(framing)
    }

    #[test]
    fn every_kind_is_read() {
        for toml in [
            "kind = \"line\"\nending = \"lf\"",
            "kind = \"delimiter\"\nstart = '\\x02'\nend = '\\x03'\nmax = 100",
            "kind = \"delimiter\"\nend = \";\"",
            "kind = \"fixed\"\nsize = 8\nsync = \"hex:aa55\"",
            "kind = \"idle\"\ngap = \"5ms\"",
            "kind = \"length\"\nat = 2\nsize = 2\nendian = \"little\"\nadds = 4\nsync = \"hex:aa55\"",
            "kind = \"cobs\"\nmax = 64",
            "kind = \"slip\"",
        ] {
            framing(toml).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_setting() {
        for (toml, says) in [
            ("kind = \"cobs\"\nsync = \"x\"", "unknown field `sync`"),
            ("kind = \"fixed\"\nsize = 8\nmax = 4", "unknown field `max`"),
            ("kind = \"token\"", "unknown variant `token`"),
            ("kind = \"delimiter\"\nend = \"\"", "`framing.end`: expected 1 to 16 bytes"),
            ("kind = \"delimiter\"\nend = '\\q'", "after a backslash"),
            ("kind = \"delimiter\"\nstart = \"\"\nend = \"x\"", "`framing.start`: expected 1 to 16"),
            ("kind = \"delimiter\"\nstart = \"~\"\nend = \"~\"", "leave `start` out"),
            ("kind = \"delimiter\"\nstart = \"\\r\"\nend = \"\\r\\n\"", "stand in each other"),
            ("kind = \"fixed\"\nsize = 4\nsync = \"hex:aa55\"", "`framing.size`: expected 5 to 65536"),
            ("kind = \"fixed\"\nsize = 65537", "`framing.size`: expected 3 to 65536"),
            ("kind = \"idle\"\ngap = \"0ms\"", "`framing.gap`: expected at least \"1ms\""),
            ("kind = \"idle\"\ngap = 5", "a duration with its unit"),
            ("kind = \"length\"\nat = 1\nsize = 3", "`framing.size`: expected 1, 2 or 4"),
            ("kind = \"length\"\nat = 1\nsize = 1\nsync = \"hex:aa55\"", "`framing.at`: expected 2 to 65536"),
            ("kind = \"length\"\nat = 70000\nsize = 1", "`framing.at`: expected 0 to 65536"),
            ("kind = \"length\"\nat = 8\nsize = 4\nmax = 13", "`framing.max`: expected 14 to 65536"),
            (
                "kind = \"length\"\nat = 1\nsize = 1\nmax = 50\nadds = 51",
                "`framing.adds`: expected at most 50",
            ),
            ("kind = \"length\"\nat = 1\nsize = 1\nsync = \"\"", "`framing.sync`: expected 1 to 16 bytes"),
            ("kind = \"slip\"\nmax = 2", "`framing.max`: expected 3 to 65536"),
        ] {
            let error = framing(toml).unwrap_err();
            assert!(error.contains(says), "{toml}\n{error}");
        }
    }

    fn frames(framer: &mut Framer, bytes: &[u8]) -> Vec<Result<Vec<u8>, FrameError>> {
        let mut frames = Vec::new();
        framer.read(bytes, |frame| frames.push(frame.map(<[u8]>::to_vec)));
        frames
    }

    #[test]
    fn coded_frames_come_out_however_they_are_cut() {
        let check = CheckKind::Crc16Ccitt;
        let said: [&[u8]; 3] = [b"one", b"\0\xc0\xdb", &[0; 300]];
        for (kind, end, encode) in
            [("cobs", 0, cobs::encode as fn(&[u8]) -> Vec<u8>), ("slip", slip::END, slip::encode)]
        {
            let framing = framing(&format!("kind = \"{kind}\"\nmax = 302")).unwrap();
            let text: Vec<u8> = said
                .iter()
                .flat_map(|frame| [encode(&check.sealed(frame)), vec![end, end]].concat())
                .collect();
            for at in 0..=text.len() {
                let mut framer = Framer::new(&framing, check);
                let mut found = frames(&mut framer, &text[..at]);
                found.extend(frames(&mut framer, &text[at..]));
                assert_eq!(found, said.map(|frame| Ok(frame.to_vec())), "{kind} cut at {at}");
            }
            let mut framer = Framer::new(&framing, check);
            let long = [encode(&[7; 303]), vec![end]].concat();
            assert_eq!(frames(&mut framer, &long), [Err(FrameError::TooLong { max: 302 })]);
            assert_eq!(frames(&mut framer, &[2, end]).len(), 1);
        }
    }

    #[test]
    fn silence_ends_a_frame() {
        let framing = framing("kind = \"idle\"\ngap = \"5ms\"\nmax = 8").unwrap();
        let mut framer = Framer::new(&framing, CheckKind::Sum8);
        let silent = |framer: &mut Framer| {
            let mut frames = Vec::new();
            framer.silence(|frame| frames.push(frame.map(<[u8]>::to_vec)));
            frames
        };
        assert_eq!(framer.patience(), Some(StdDuration::from_millis(5)));
        assert_eq!(frames(&mut framer, b"half a frame from before"), []);
        assert_eq!(silent(&mut framer), []);
        assert_eq!(framer.patience(), None, "there is no frame to end");
        for at in 0..4 {
            assert_eq!(frames(&mut framer, &b"\x01\x02\x04\x07"[..at]), []);
            assert_eq!(frames(&mut framer, &b"\x01\x02\x04\x07"[at..]), []);
            assert_eq!(silent(&mut framer), [Ok(b"\x01\x02\x04".to_vec())]);
        }
        assert_eq!(frames(&mut framer, &[1; 9]), [Err(FrameError::TooLong { max: 8 })]);
        assert_eq!(frames(&mut framer, &[1; 9]), []);
        assert_eq!(silent(&mut framer), []);
        assert_eq!(frames(&mut framer, &[1, 2]), []);
        assert_eq!(silent(&mut framer), [Err(FrameError::Check { expected: 1, found: 2 })]);
    }
}
