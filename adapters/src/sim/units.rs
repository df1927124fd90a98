//! Modbus units, over TCP and on a pseudo-terminal.
//!
//! All have the same registers: input register 0 is a temperature in tenths that swings with the time, 1 a
//! counter, 2 and 3 the same temperature as a float; holding registers and coils keep what is written to them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::task::JoinSet;
use tokio_serial::{SerialPort as _, SerialStream};
use tokio_util::sync::CancellationToken;

use super::ScaleError;
use crate::modbus::{mbap, rtu};

/// Registers and coils of a unit that can be written.
const SIZE: u16 = 100;
/// The most connections at a time.
const CONNECTIONS: usize = 16;
/// Exceptions of the specification (§7).
const ILLEGAL_FUNCTION: u8 = 1;
const ILLEGAL_ADDRESS: u8 = 2;
const ILLEGAL_VALUE: u8 = 3;

/// Units that answer.
#[derive(Debug)]
pub struct Units {
    /// The numbers that there are: from the first to the last.
    first: u8,
    units: Vec<Registers>,
    began: Instant,
}

#[derive(Debug, Clone)]
struct Registers {
    holding: Vec<u16>,
    coils: Vec<bool>,
    asked: u16,
}

impl Units {
    /// Units of these numbers.
    #[must_use]
    pub fn new(first: u8, last: u8) -> Self {
        let size = usize::from(SIZE);
        let unit = Registers { holding: vec![0; size], coils: vec![false; size], asked: 0 };
        let units = vec![unit; usize::from(last.saturating_sub(first)) + 1];
        Self { first, units, began: Instant::now() }
    }

    /// What `unit` answers to a request; nothing where there is no such unit.
    pub fn answer(&mut self, unit: u8, request: &[u8]) -> Option<Vec<u8>> {
        let seconds = self.began.elapsed().as_secs_f64();
        let unit = self.units.get_mut(usize::from(unit.checked_sub(self.first)?))?;
        unit.asked = unit.asked.wrapping_add(1);
        let function = *request.first()?;
        Some(unit.answer(request, seconds).unwrap_or_else(|code| vec![function | 0x80, code]))
    }
}

impl Registers {
    fn answer(&mut self, request: &[u8], seconds: f64) -> Result<Vec<u8>, u8> {
        let [function, a0, a1, b0, b1, rest @ ..] = request else { return Err(ILLEGAL_VALUE) };
        let (address, word) = (u16::from_be_bytes([*a0, *a1]), u16::from_be_bytes([*b0, *b1]));
        let confirmed = request[..5].to_vec();
        match function {
            1 => bits(*function, part(&self.coils, address, word, 2000)?),
            // Every second discrete input is on.
            2 => bits(*function, part(&[false, true].repeat(usize::from(SIZE) / 2), address, word, 2000)?),
            3 => Ok(words(*function, part(&self.holding, address, word, 125)?)),
            4 => Ok(words(*function, part(&self.inputs(seconds), address, word, 125)?)),
            5 => {
                *self.coils.get_mut(usize::from(address)).ok_or(ILLEGAL_ADDRESS)? = word == 0xFF00;
                Ok(confirmed)
            }
            6 => {
                *self.holding.get_mut(usize::from(address)).ok_or(ILLEGAL_ADDRESS)? = word;
                Ok(confirmed)
            }
            15 => {
                let to = span(self.coils.len(), address, word, 1968)?;
                let [bytes, data @ ..] = rest else { return Err(ILLEGAL_VALUE) };
                if usize::from(*bytes) != data.len() || data.len() != to.len().div_ceil(8) {
                    return Err(ILLEGAL_VALUE);
                }
                for (n, coil) in self.coils[to].iter_mut().enumerate() {
                    *coil = data[n / 8] >> (n % 8) & 1 == 1;
                }
                Ok(confirmed)
            }
            16 => {
                let to = span(self.holding.len(), address, word, 123)?;
                let [bytes, data @ ..] = rest else { return Err(ILLEGAL_VALUE) };
                if usize::from(*bytes) != data.len() || data.len() != 2 * to.len() {
                    return Err(ILLEGAL_VALUE);
                }
                for (register, pair) in self.holding[to].iter_mut().zip(data.chunks_exact(2)) {
                    *register = u16::from_be_bytes([pair[0], pair[1]]);
                }
                Ok(confirmed)
            }
            _ => Err(ILLEGAL_FUNCTION),
        }
    }

    fn inputs(&self, seconds: f64) -> Vec<u16> {
        let temperature = 20.0 + 5.0 * (seconds / 10.0).sin();
        let float = (temperature as f32).to_bits().to_be_bytes();
        let mut inputs = vec![0; usize::from(SIZE)];
        inputs[0] = (temperature * 10.0).round() as u16;
        inputs[1] = self.asked;
        inputs[2] = u16::from_be_bytes([float[0], float[1]]);
        inputs[3] = u16::from_be_bytes([float[2], float[3]]);
        inputs
    }
}

fn span(size: usize, address: u16, count: u16, most: u16) -> Result<std::ops::Range<usize>, u8> {
    if !(1..=most).contains(&count) {
        return Err(ILLEGAL_VALUE);
    }
    let span = usize::from(address)..usize::from(address) + usize::from(count);
    if span.end <= size { Ok(span) } else { Err(ILLEGAL_ADDRESS) }
}

fn part<T>(all: &[T], address: u16, count: u16, most: u16) -> Result<&[T], u8> {
    span(all.len(), address, count, most).map(|span| &all[span])
}

fn bits(function: u8, bits: &[bool]) -> Result<Vec<u8>, u8> {
    let bytes =
        bits.chunks(8).map(|eight| eight.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
    let bytes: Vec<u8> = bytes.collect();
    let mut answer = vec![function, u8::try_from(bytes.len()).map_err(|_| ILLEGAL_VALUE)?];
    answer.extend(bytes);
    Ok(answer)
}

fn words(function: u8, words: &[u16]) -> Vec<u8> {
    let bytes = words.iter().flat_map(|word| word.to_be_bytes());
    // There are 125 at most.
    let mut answer = vec![function, u8::try_from(2 * words.len()).unwrap_or(u8::MAX)];
    answer.extend(bytes);
    answer
}

/// The length of a request's frame on a serial line, as far as its beginning says it.
fn frame_length(heard: &[u8]) -> Option<usize> {
    match heard {
        [_, 15 | 16, _, _, _, _, bytes, ..] => Some(9 + usize::from(*bytes)),
        [_, 15 | 16, ..] | [] | [_] => None,
        [..] => Some(8),
    }
}

/// Cuts what masters say on a serial line into requests: unit and PDU. What is none is passed over byte by
/// byte.
#[derive(Debug, Default)]
pub struct Questions {
    heard: Vec<u8>,
}

impl Questions {
    /// Takes what was read; calls `found` for every request that is whole.
    pub fn hear(&mut self, bytes: &[u8], mut found: impl FnMut(u8, &[u8])) {
        self.heard.extend(bytes);
        while let Some(length) = frame_length(&self.heard) {
            let Some(frame) = self.heard.get(..length) else { break };
            let (content, sum) = frame.split_at(length - 2);
            if sum == rtu::crc(content).to_le_bytes() {
                found(content[0], &content[1..]);
                self.heard.drain(..length);
            } else {
                self.heard.remove(0);
            }
        }
    }
}

/// Units on a pseudo-terminal that a master opens by its path.
pub struct SerialUnits {
    units: Units,
    line: SerialStream,
    /// The masters' end, held open so that the line lives without them.
    _far: File,
    path: PathBuf,
}

impl SerialUnits {
    /// Makes the line. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system has no pseudo-terminal to give.
    pub fn new(units: Units) -> Result<Self, ScaleError> {
        let (line, mut far) = SerialStream::pair().map_err(ScaleError::Make)?;
        far.set_exclusive(false).map_err(ScaleError::Make)?;
        let path = far.name().map(PathBuf::from).ok_or(ScaleError::Nameless)?;
        Ok(Self { units, line, _far: File::open(&path)?, path })
    }

    /// The path that a master opens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers until `stop`.
    ///
    /// # Errors
    /// The line failed.
    pub async fn run(mut self, stop: CancellationToken) -> io::Result<()> {
        let (mut questions, mut buffer) = (Questions::default(), [0; 256]);
        loop {
            let count = select! {
                read = self.line.read(&mut buffer) => read?,
                () = stop.cancelled() => return Ok(()),
            };
            let mut answers = Vec::new();
            questions.hear(&buffer[..count], |unit, request| {
                if let Some(answer) = self.units.answer(unit, request) {
                    let mut frame = vec![unit];
                    frame.extend(answer);
                    frame.extend(rtu::crc(&frame).to_le_bytes());
                    answers.extend(frame);
                }
            });
            self.line.write_all(&answers).await?;
        }
    }
}

/// Answers over TCP until `stop`. Each connection has units of its own, as new ones are.
///
/// # Errors
/// No connection can be taken.
pub async fn serve_units(
    listener: TcpListener,
    units: impl Fn() -> Units,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => {
                let (stream, _) = accepted?;
                connections.spawn(converse(stream, units()));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn converse(mut stream: TcpStream, mut units: Units) -> io::Result<()> {
    let (mut reader, mut buffer) = (mbap::Reader::default(), [0; 512]);
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        reader.hear(&buffer[..count]);
        while let Some(frame) = reader.take().map_err(io::Error::other)? {
            let Some(answer) = units.answer(frame.unit, &frame.pdu) else { continue };
            stream.write_all(&mbap::answer(&frame, &answer)).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modbus::pdu::{Request, Response, Table};

    fn ask(units: &mut Units, request: &Request) -> Result<Response, crate::modbus::pdu::WrongResponse> {
        request.read(&units.answer(2, &request.encode()).unwrap())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut units = Units::new(1, 3);
        for write in [
            Request::WriteRegister { address: 0, word: 7 },
            Request::WriteRegisters { address: 1, words: vec![8, 9] },
            Request::WriteCoil { address: 3, on: true },
            Request::WriteCoils { address: 4, on: true },
        ] {
            assert_eq!(ask(&mut units, &write), Ok(Response::Written));
        }
        let holding = Request::Read { table: Table::Holding, address: 0, count: 4 };
        assert_eq!(ask(&mut units, &holding), Ok(Response::Registers(vec![7, 8, 9, 0])));
        let coils = Request::Read { table: Table::Coil, address: 2, count: 4 };
        assert_eq!(ask(&mut units, &coils), Ok(Response::Bits(vec![false, true, true, false])));
        let discrete = Request::Read { table: Table::Discrete, address: 0, count: 3 };
        assert_eq!(ask(&mut units, &discrete), Ok(Response::Bits(vec![false, true, false])));
        let temperature = Request::Read { table: Table::Input, address: 0, count: 1 };
        let read = ask(&mut units, &temperature);
        assert!(
            matches!(&read, Ok(Response::Registers(words)) if (150..=250).contains(&words[0])),
            "{read:?}"
        );
        assert_eq!(units.answer(9, &holding.encode()), None);
    }

    #[test]
    fn what_there_is_not_is_refused() {
        let mut units = Units::new(2, 2);
        let mut refused = |request: &[u8]| units.answer(2, request).unwrap();
        assert_eq!(refused(&[3, 0, 99, 0, 2]), [0x83, ILLEGAL_ADDRESS]);
        assert_eq!(refused(&[3, 0, 0, 0, 0]), [0x83, ILLEGAL_VALUE]);
        assert_eq!(refused(&[3]), [0x83, ILLEGAL_VALUE]);
        assert_eq!(refused(&[99, 0, 0, 0, 0]), [0x80 | 99, ILLEGAL_FUNCTION]);
        assert_eq!(refused(&[16, 0, 0, 0, 2, 4, 0]), [0x90, ILLEGAL_VALUE]);
        assert_eq!(refused(&[15, 0, 0, 0, 9, 1, 0]), [0x8F, ILLEGAL_VALUE]);
    }

    #[test]
    fn questions_are_found_among_noise() {
        let request = Request::WriteRegisters { address: 1, words: vec![8, 9] };
        let frame = rtu::frame(2, &request);
        let said = [&[0xFF, 2, 16][..], &frame, b"noise", &frame].concat();
        for size in 1..said.len() {
            let (mut questions, mut found) = (Questions::default(), 0);
            for chunk in said.chunks(size) {
                questions.hear(chunk, |unit, pdu| {
                    assert_eq!((unit, pdu), (2, request.encode().as_slice()));
                    found += 1;
                });
            }
            assert!(found >= 1 && questions.heard.len() < 300, "{found} in chunks of {size}");
        }
    }
}
