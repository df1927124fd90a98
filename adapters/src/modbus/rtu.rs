//! Frames on a serial line: MODBUS over Serial Line, Specification and Implementation Guide V1.02.
//!
//! A frame has no mark at its beginning and none at its end but silence, which adapters for USB
//! swallow. So an answer is recognised by what it has to be: the unit and the function that were
//! asked, the length that follows from the question, and the checksum. Everything else on the line
//! is passed over, byte by byte, and said.

use std::collections::VecDeque;
use std::time::Duration;

use super::pdu::{Request, Response, WrongResponse};
use crate::serial::CheckKind;

/// The longest frame (§2.5.1).
const LONGEST: usize = 256;
/// The checksum's length.
const CHECKSUM: usize = 2;
/// The length of a frame that refuses: unit, function, code and checksum.
const EXCEPTION: usize = 3 + CHECKSUM;
/// Bits of a character on the line: start, eight of data, parity or a second stop, stop (§2.5.1).
const CHARACTER_BITS: u32 = 11;

/// The checksum of a frame (§6.2.2): CRC-16 with the reflected polynomial 0xA001, sent low byte first.
pub fn crc(bytes: &[u8]) -> u16 {
    CheckKind::Crc16Modbus.of(bytes)
}

/// The frame that asks `unit`.
pub fn frame(unit: u8, request: &Request) -> Vec<u8> {
    let mut frame = vec![unit];
    frame.extend(request.encode());
    frame.extend(crc(&frame).to_le_bytes());
    frame
}

/// How long `characters` take at `baud` bits per second.
pub fn time_of(characters: usize, baud: u32) -> Duration {
    let bits = u32::try_from(characters).unwrap_or(u32::MAX).saturating_mul(CHARACTER_BITS);
    Duration::from_secs_f64(f64::from(bits) / f64::from(baud.max(1)))
}

/// The silence between frames: 3.5 characters, and 1.75 ms above 19200 baud (§2.5.1.1).
pub fn silence(baud: u32) -> Duration {
    if baud > 19_200 { Duration::from_micros(1750) } else { time_of(7, baud) / 2 }
}

/// Bytes on the line that were not the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Noise {
    /// It began as the answer and has a wrong checksum.
    #[error("a wrong checksum: disturbance, two units of one number, or a wrong baud rate or parity")]
    Checksum,
    /// A whole frame of another unit.
    #[error("a frame of unit {found}")]
    OtherUnit {
        /// The unit it says it is of.
        found: u8,
    },
    /// A whole frame of this unit that answers something else.
    #[error("an answer to another request")]
    OtherAnswer,
    /// Bytes that make no frame.
    #[error("bytes that are no frame")]
    Bytes,
}

/// Finds the answer to one question among the bytes of the line. It keeps the last of them, as many as
/// the longest frame has.
#[derive(Debug)]
pub struct Listener<'q> {
    unit: u8,
    request: &'q Request,
    heard: VecDeque<u8>,
    /// How many of the last bytes are the answer.
    answered: usize,
}

impl<'q> Listener<'q> {
    /// Listens for what `unit` answers to `request`.
    pub fn new(unit: u8, request: &'q Request) -> Self {
        Self { unit, request, heard: VecDeque::with_capacity(LONGEST), answered: 0 }
    }

    /// Takes what was read; gives the answer once it is whole. Bytes behind it are passed over: who
    /// asks next waits until the line is silent.
    pub fn hear(&mut self, bytes: &[u8]) -> Option<Result<Response, WrongResponse>> {
        bytes.iter().find_map(|byte| {
            if self.heard.len() == LONGEST {
                self.heard.pop_front();
            }
            self.heard.push_back(*byte);
            self.answer()
        })
    }

    /// The answer that ends with the last byte.
    fn answer(&mut self) -> Option<Result<Response, WrongResponse>> {
        let heard = self.heard.make_contiguous();
        let function = self.request.function();
        let header = [self.unit, function];
        let exception = [self.unit, function | 0x80];
        let answer_length = 1 + self.request.response_length() + CHECKSUM;
        for (length, header) in [(answer_length, header), (EXCEPTION, exception)] {
            let Some(start) = heard.len().checked_sub(length) else { continue };
            let frame = &heard[start..];
            let fits = frame.starts_with(&header)
                && (length == EXCEPTION || self.request.byte_count().is_none_or(|bytes| frame[2] == bytes));
            if fits && is_sound(frame) {
                self.answered = length;
                return Some(self.request.read(&frame[1..length - CHECKSUM]));
            }
        }
        None
    }

    /// What else was on the line.
    pub fn noise(&self) -> Option<Noise> {
        let mut heard: Vec<u8> = self.heard.iter().copied().collect();
        heard.truncate(heard.len() - self.answered);
        let whole = (0..heard.len()).find(|start| whole_answer(&heard[*start..]));
        match (whole.map(|start| heard[start]), heard.as_slice()) {
            (Some(found), _) if found != self.unit => Some(Noise::OtherUnit { found }),
            (Some(_), _) => Some(Noise::OtherAnswer),
            (None, []) => None,
            (None, [unit, function, ..])
                if *unit == self.unit && function & 0x7F == self.request.function() =>
            {
                Some(Noise::Checksum)
            }
            (None, _) => Some(Noise::Bytes),
        }
    }
}

/// Whether the last two bytes are the checksum of the others.
fn is_sound(frame: &[u8]) -> bool {
    let (content, sum) = frame.split_at(frame.len() - CHECKSUM);
    sum == crc(content).to_le_bytes()
}

/// Whether these begin with a whole answer of some unit (§6 and §7 of the application protocol).
fn whole_answer(bytes: &[u8]) -> bool {
    let length = match bytes {
        [_, 1..=4, count, ..] => 3 + usize::from(*count) + CHECKSUM,
        [_, 5 | 6 | 15 | 16, ..] => 8,
        [_, 0x81..=0x90, ..] => EXCEPTION,
        _ => return false,
    };
    bytes.get(..length).is_some_and(is_sound)
}

#[cfg(test)]
mod tests {
    use super::super::pdu::{Exception, Table};
    use super::*;

    const QUESTION: Request = Request::Read { table: Table::Holding, address: 0x6B, count: 3 };
    const ANSWER: [u8; 8] = [3, 6, 0x02, 0x2B, 0, 0, 0, 0x64];

    fn of(unit: u8, pdu: &[u8]) -> Vec<u8> {
        let mut frame = vec![unit];
        frame.extend(pdu);
        frame.extend(crc(&frame).to_le_bytes());
        frame
    }

    fn registers() -> Result<Response, WrongResponse> {
        Ok(Response::Registers(vec![0x022B, 0, 0x64]))
    }

    #[test]
    fn the_checksum_is_the_published_one() {
        // The worked example of the guide's appendix, and the check value of CRC-16/MODBUS.
        assert_eq!(of(2, &[7]), [0x02, 0x07, 0x41, 0x12]);
        assert_eq!(crc(b"123456789"), 0x4B37);
        // Unit 17 is asked for the registers 108 to 110.
        assert_eq!(frame(0x11, &QUESTION), [0x11, 0x03, 0x00, 0x6B, 0x00, 0x03, 0x76, 0x87]);
    }

    #[test]
    fn the_silence_is_that_of_the_guide() {
        assert_eq!(silence(115_200), Duration::from_micros(1750));
        assert!((silence(9600).as_secs_f64() - 3.5 * 11.0 / 9600.0).abs() < 1e-9);
    }

    #[test]
    fn an_answer_is_found_however_it_is_cut() {
        let answer = of(17, &ANSWER);
        for size in 1..=answer.len() {
            let mut listener = Listener::new(17, &QUESTION);
            let found: Vec<_> = answer.chunks(size).filter_map(|chunk| listener.hear(chunk)).collect();
            assert_eq!(found, [registers()], "in chunks of {size}");
            assert_eq!(listener.noise(), None);
        }
    }

    #[test]
    fn the_answer_is_found_behind_anything() {
        let mut damaged = of(17, &ANSWER);
        damaged[4] ^= 1;
        let ahead: [(&[u8], Noise); 7] = [
            (&[0], Noise::Bytes),
            (&[17, 17, 3], Noise::Bytes),
            (&[17, 3, 6, 1, 2], Noise::Checksum),
            (&damaged, Noise::Checksum),
            (&of(5, &ANSWER), Noise::OtherUnit { found: 5 }),
            (&of(17, &[4, 2, 0, 1]), Noise::OtherAnswer),
            (&[0xFF; 1000], Noise::Bytes),
        ];
        for (noise, name) in ahead {
            let mut listener = Listener::new(17, &QUESTION);
            assert_eq!(listener.hear(noise), None);
            assert_eq!(listener.noise(), Some(name), "{noise:?}");
            assert_eq!(listener.hear(&of(17, &ANSWER)), Some(registers()), "behind {noise:?}");
            assert_eq!(listener.noise(), Some(name), "{noise:?}");
        }
    }

    #[test]
    fn an_exception_is_an_answer_even_where_more_was_expected() {
        let mut listener = Listener::new(17, &QUESTION);
        // Cut off after the header of a longer frame.
        assert_eq!(listener.hear(&[17, 3, 6]), None);
        let refused = listener.hear(&of(17, &[0x83, 2]));
        assert_eq!(refused, Some(Err(WrongResponse::Exception(Exception(2)))));
    }

    #[test]
    fn another_length_is_not_taken() {
        // The late answer to a question for two registers.
        let mut listener = Listener::new(17, &QUESTION);
        assert_eq!(listener.hear(&of(17, &[3, 4, 0, 1, 0, 2])), None);
        assert_eq!(listener.noise(), Some(Noise::OtherAnswer));
    }
}
