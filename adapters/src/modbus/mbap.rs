//! Frames over TCP: MODBUS Messaging on TCP/IP Implementation Guide V1.0b, §3.1.
//!
//! Each has a transaction number that the answer repeats, so a late answer is known as one. A stream
//! whose header makes no sense has no next frame to be found: the connection has to begin again.

use super::pdu::Request;

/// Transaction, protocol and length, two bytes each, and the unit.
const HEADER: usize = 7;
/// The longest PDU (§4.1 of the application protocol).
const LONGEST_PDU: usize = 253;

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The number of the question.
    pub transaction: u16,
    /// The unit that answers.
    pub unit: u8,
    /// What it says.
    pub pdu: Vec<u8>,
}

/// The stream is not Modbus, or no longer in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenStream {
    /// The protocol identifier is not that of Modbus, which is 0.
    #[error("the protocol is {found}, and Modbus has 0")]
    Protocol {
        /// What it is.
        found: u16,
    },
    /// No frame has this length.
    #[error("a frame cannot have a length of {found}")]
    Length {
        /// What the header says.
        found: u16,
    },
}

/// The frame that asks `unit`.
pub fn frame(transaction: u16, unit: u8, request: &Request) -> Vec<u8> {
    answer(&Frame { transaction, unit, pdu: Vec::new() }, &request.encode())
}

/// The frame that answers `question` with `pdu`.
pub fn answer(question: &Frame, pdu: &[u8]) -> Vec<u8> {
    let length = u16::try_from(1 + pdu.len()).unwrap_or(u16::MAX);
    let mut frame = Vec::with_capacity(HEADER + pdu.len());
    frame.extend(question.transaction.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(length.to_be_bytes());
    frame.push(question.unit);
    frame.extend(pdu);
    frame
}

/// Cuts the stream into frames. It holds at most what it was given last and one frame.
#[derive(Debug, Default)]
pub struct Reader {
    heard: Vec<u8>,
}

impl Reader {
    /// Takes what was read. Ask for [`take`](Self::take) until there is none.
    pub fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend(bytes);
    }

    /// The next frame, once it is whole.
    ///
    /// # Errors
    /// When no frame can be found any more.
    pub fn take(&mut self) -> Result<Option<Frame>, BrokenStream> {
        let [t0, t1, p0, p1, l0, l1, ..] = *self.heard.as_slice() else { return Ok(None) };
        let protocol = u16::from_be_bytes([p0, p1]);
        if protocol != 0 {
            return Err(BrokenStream::Protocol { found: protocol });
        }
        let found = u16::from_be_bytes([l0, l1]);
        let length = usize::from(found);
        // The unit and at least a function.
        if !(2..=1 + LONGEST_PDU).contains(&length) {
            return Err(BrokenStream::Length { found });
        }
        let end = HEADER - 1 + length;
        if self.heard.len() < end {
            return Ok(None);
        }
        let frame = Frame {
            transaction: u16::from_be_bytes([t0, t1]),
            unit: self.heard[HEADER - 1],
            pdu: self.heard[HEADER..end].to_vec(),
        };
        self.heard.drain(..end);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::super::pdu::Table;
    use super::*;

    #[test]
    fn the_published_example() {
        // The guide's request for one word at address 5.
        let question = Request::Read { table: Table::Holding, address: 4, count: 1 };
        let sent = [0x15, 0x01, 0x00, 0x00, 0x00, 0x06, 0xFF, 0x03, 0x00, 0x04, 0x00, 0x01];
        assert_eq!(frame(0x1501, 0xFF, &question), sent);
    }

    #[test]
    fn frames_come_out_however_they_are_cut() {
        let stream = [0, 1, 0, 0, 0, 3, 7, 0x83, 2, 0, 2, 0, 0, 0, 5, 7, 4, 2, 0, 10];
        for size in 1..=stream.len() {
            let mut reader = Reader::default();
            let mut found = Vec::new();
            for chunk in stream.chunks(size) {
                reader.hear(chunk);
                while let Some(frame) = reader.take().unwrap() {
                    found.push(frame);
                }
            }
            let expected = [
                Frame { transaction: 1, unit: 7, pdu: vec![0x83, 2] },
                Frame { transaction: 2, unit: 7, pdu: vec![4, 2, 0, 10] },
            ];
            assert_eq!(found, expected, "in chunks of {size}");
        }
    }

    #[test]
    fn what_is_not_modbus_is_told() {
        let broken = |bytes: &[u8]| {
            let mut reader = Reader::default();
            reader.hear(bytes);
            reader.take().unwrap_err()
        };
        assert_eq!(broken(b"HTTP/1.1 400"), BrokenStream::Protocol { found: 0x5450 });
        assert_eq!(broken(&[0, 1, 0, 0, 0, 1, 7]), BrokenStream::Length { found: 1 });
        assert_eq!(broken(&[0, 1, 0, 0, 1, 0, 7]), BrokenStream::Length { found: 256 });
    }
}
