//! Requests and responses, the same on every kind of line: the protocol data unit of the MODBUS
//! Application Protocol Specification V1.1b3.

use std::fmt;

use serde::Deserialize;

/// The most registers that one request may read (§6.3, §6.4).
pub const MOST_REGISTERS: u16 = 125;
/// The most bits that one request may read (§6.1, §6.2).
pub const MOST_BITS: u16 = 2000;

/// The four tables of a unit (§4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Bits that may be written.
    Coil,
    /// Bits that can only be read.
    Discrete,
    /// Registers of 16 bits that can only be read.
    Input,
    /// Registers of 16 bits that may be written.
    Holding,
}

impl Table {
    /// Whether its items are single bits.
    pub fn has_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// Whether its items may be written.
    pub fn is_writable(self) -> bool {
        matches!(self, Self::Coil | Self::Holding)
    }

    /// The most items that one request may read.
    pub fn most(self) -> u16 {
        if self.has_bits() { MOST_BITS } else { MOST_REGISTERS }
    }

    fn read_function(self) -> u8 {
        match self {
            Self::Coil => 1,
            Self::Discrete => 2,
            Self::Holding => 3,
            Self::Input => 4,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Coil => "coil",
            Self::Discrete => "discrete input",
            Self::Input => "input register",
            Self::Holding => "holding register",
        })
    }
}

/// What a unit is asked. Addresses count from 0, as on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Functions 1 to 4 (§6.1 to §6.4).
    Read {
        /// From where.
        table: Table,
        /// The first item.
        address: u16,
        /// How many items: 1 to [`Table::most`].
        count: u16,
    },
    /// Function 5 (§6.5).
    WriteCoil {
        /// The coil.
        address: u16,
        /// Its new state.
        on: bool,
    },
    /// Function 6 (§6.6).
    WriteRegister {
        /// The register.
        address: u16,
        /// Its new content.
        word: u16,
    },
    /// Function 15 (§6.11), here with one coil: for units that do not know function 5.
    WriteCoils {
        /// The coil.
        address: u16,
        /// Its new state.
        on: bool,
    },
    /// Function 16 (§6.12).
    WriteRegisters {
        /// The first register.
        address: u16,
        /// Their new contents: 1 to 123.
        words: Vec<u16>,
    },
}

/// What a unit answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// Bits that were read, in the order of their addresses.
    Bits(Vec<bool>),
    /// Registers that were read, in the order of their addresses.
    Registers(Vec<u16>),
    /// It is written.
    Written,
}

/// Why a response is not the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongResponse {
    /// The unit says that it will not or cannot (§7).
    #[error("{0}")]
    Exception(Exception),
    /// It answers another function.
    #[error("it answers function {found} instead of {asked}")]
    Function {
        /// The function asked for.
        asked: u8,
        /// The function answered.
        found: u8,
    },
    /// It is longer or shorter than the answer has to be.
    #[error("the answer has {found} bytes instead of {expected}")]
    Length {
        /// The bytes that the answer must have.
        expected: usize,
        /// The bytes that it has.
        found: usize,
    },
    /// The answer to a write names another address, value or quantity.
    #[error("the answer confirms something else than what was written")]
    Echo,
}

impl Request {
    /// The function code.
    pub fn function(&self) -> u8 {
        match self {
            Self::Read { table, .. } => table.read_function(),
            Self::WriteCoil { .. } => 5,
            Self::WriteRegister { .. } => 6,
            Self::WriteCoils { .. } => 15,
            Self::WriteRegisters { .. } => 16,
        }
    }

    /// The first address.
    pub fn address(&self) -> u16 {
        match self {
            Self::Read { address, .. }
            | Self::WriteCoil { address, .. }
            | Self::WriteRegister { address, .. }
            | Self::WriteCoils { address, .. }
            | Self::WriteRegisters { address, .. } => *address,
        }
    }

    /// The request as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut pdu = vec![self.function()];
        let mut word = |word: u16| pdu.extend(word.to_be_bytes());
        match self {
            Self::Read { address, count, .. } => {
                word(*address);
                word(*count);
            }
            Self::WriteCoil { address, on } => {
                word(*address);
                word(if *on { 0xFF00 } else { 0 });
            }
            Self::WriteRegister { address, word: content } => {
                word(*address);
                word(*content);
            }
            Self::WriteCoils { address, on } => {
                word(*address);
                word(1);
                pdu.extend([1, u8::from(*on)]);
            }
            Self::WriteRegisters { address, words } => {
                word(*address);
                word(count(words));
                pdu.push(u8::try_from(2 * words.len()).unwrap_or(u8::MAX));
                pdu.extend(words.iter().flat_map(|word| word.to_be_bytes()));
            }
        }
        pdu
    }

    /// The bytes of data that the response to a read announces; nothing for writes.
    pub fn byte_count(&self) -> Option<u8> {
        match self {
            Self::Read { table, count, .. } => {
                let bytes = if table.has_bits() { count.div_ceil(8) } else { count.saturating_mul(2) };
                Some(u8::try_from(bytes).unwrap_or(u8::MAX))
            }
            Self::WriteCoil { .. }
            | Self::WriteRegister { .. }
            | Self::WriteCoils { .. }
            | Self::WriteRegisters { .. } => None,
        }
    }

    /// The bytes of the response that is no exception: 5 for a write, what was asked for with a read.
    pub fn response_length(&self) -> usize {
        self.byte_count().map_or(5, |bytes| 2 + usize::from(bytes))
    }

    /// Reads the response to this request.
    ///
    /// # Errors
    /// When it is an exception, or the response to something else.
    pub fn read(&self, pdu: &[u8]) -> Result<Response, WrongResponse> {
        let asked = self.function();
        let wrong_length = |expected| WrongResponse::Length { expected, found: pdu.len() };
        let Some((function, data)) = pdu.split_first() else { return Err(wrong_length(2)) };
        if *function == asked | 0x80 {
            let [code] = data else { return Err(wrong_length(2)) };
            return Err(WrongResponse::Exception(Exception(*code)));
        }
        if *function != asked {
            return Err(WrongResponse::Function { asked, found: *function });
        }
        if pdu.len() != self.response_length() {
            return Err(wrong_length(self.response_length()));
        }
        match self {
            Self::Read { table, count, .. } => {
                let (announced, data) = data.split_first().ok_or(wrong_length(2))?;
                if usize::from(*announced) != data.len() {
                    return Err(wrong_length(2 + usize::from(*announced)));
                }
                Ok(if table.has_bits() {
                    let bit = |n: u16| data[usize::from(n / 8)] >> (n % 8) & 1 == 1;
                    Response::Bits((0..*count).map(bit).collect())
                } else {
                    let words = data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                    Response::Registers(words.collect())
                })
            }
            // Address and value of one, address and quantity of several: in each case the first four
            // bytes behind the function.
            Self::WriteCoil { .. }
            | Self::WriteRegister { .. }
            | Self::WriteCoils { .. }
            | Self::WriteRegisters { .. } => {
                if self.encode()[1..5] == *data {
                    Ok(Response::Written)
                } else {
                    Err(WrongResponse::Echo)
                }
            }
        }
    }
}

fn count(words: &[u16]) -> u16 {
    u16::try_from(words.len()).unwrap_or(u16::MAX)
}

/// The code by which a unit refuses a request (§7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception(pub u8);

impl Exception {
    /// Whether the unit behind a gateway is silent: the gateway says so in its place.
    pub fn is_silence(self) -> bool {
        matches!(self.0, 0x0A | 0x0B)
    }

    /// Whether a write may have been done in spite of it: a device that failed, takes long or is
    /// silent may have begun.
    pub fn is_in_doubt(self) -> bool {
        matches!(self.0, 0x04 | 0x05 | 0x0B)
    }

    /// What it means, in plain words.
    fn meaning(self) -> &'static str {
        match self.0 {
            0x01 => "illegal function: the device does not know this kind of request",
            0x02 => {
                "illegal data address: the device has nothing at this address, or at one that was read along \
                 with it; see `addressing`, and `gap = 0` for devices that want no gaps read"
            }
            0x03 => "illegal data value: the device does not take this value or this many at once",
            0x04 => "server device failure: the device failed while it did it",
            0x05 => "acknowledge: the device has begun and takes long",
            0x06 => "server device busy: the device is busy; try again later",
            0x08 => "memory parity error: the device found its memory damaged",
            0x0A => "gateway path unavailable: the Modbus gateway is misconfigured or overloaded",
            0x0B => {
                "gateway target device failed to respond: no such unit behind the Modbus gateway, or it is off"
            }
            _ => "an exception of the vendor's own; see the device's manual",
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "exception {:02X}, {}", self.0, self.meaning())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(table: Table, address: u16, count: u16) -> Request {
        Request::Read { table, address, count }
    }

    /// The examples of the specification, section by section.
    #[test]
    fn the_published_examples() {
        let bits = |bytes: &[u8], count: usize| {
            let bits = bytes.iter().flat_map(|byte| (0..8).map(move |n| byte >> n & 1 == 1));
            Response::Bits(bits.take(count).collect())
        };
        let examples: [(Request, &[u8], &[u8], Response); 8] = [
            // §6.1: coils 20 to 38.
            (
                read(Table::Coil, 0x13, 0x13),
                &[0x01, 0x00, 0x13, 0x00, 0x13],
                &[0x01, 0x03, 0xCD, 0x6B, 0x05],
                bits(&[0xCD, 0x6B, 0x05], 19),
            ),
            // §6.2: discrete inputs 197 to 218.
            (
                read(Table::Discrete, 0xC4, 0x16),
                &[0x02, 0x00, 0xC4, 0x00, 0x16],
                &[0x02, 0x03, 0xAC, 0xDB, 0x35],
                bits(&[0xAC, 0xDB, 0x35], 22),
            ),
            // §6.3: registers 108 to 110.
            (
                read(Table::Holding, 0x6B, 3),
                &[0x03, 0x00, 0x6B, 0x00, 0x03],
                &[0x03, 0x06, 0x02, 0x2B, 0x00, 0x00, 0x00, 0x64],
                Response::Registers(vec![0x022B, 0, 0x64]),
            ),
            // §6.4: input register 9.
            (
                read(Table::Input, 8, 1),
                &[0x04, 0x00, 0x08, 0x00, 0x01],
                &[0x04, 0x02, 0x00, 0x0A],
                Response::Registers(vec![10]),
            ),
            // §6.5: coil 173 on.
            (
                Request::WriteCoil { address: 0xAC, on: true },
                &[0x05, 0x00, 0xAC, 0xFF, 0x00],
                &[0x05, 0x00, 0xAC, 0xFF, 0x00],
                Response::Written,
            ),
            // §6.6: register 2 to 3.
            (
                Request::WriteRegister { address: 1, word: 3 },
                &[0x06, 0x00, 0x01, 0x00, 0x03],
                &[0x06, 0x00, 0x01, 0x00, 0x03],
                Response::Written,
            ),
            // §6.11, with one coil instead of ten.
            (
                Request::WriteCoils { address: 0x13, on: true },
                &[0x0F, 0x00, 0x13, 0x00, 0x01, 0x01, 0x01],
                &[0x0F, 0x00, 0x13, 0x00, 0x01],
                Response::Written,
            ),
            // §6.12: two registers from 2.
            (
                Request::WriteRegisters { address: 1, words: vec![0x000A, 0x0102] },
                &[0x10, 0x00, 0x01, 0x00, 0x02, 0x04, 0x00, 0x0A, 0x01, 0x02],
                &[0x10, 0x00, 0x01, 0x00, 0x02],
                Response::Written,
            ),
        ];
        for (request, sent, answer, response) in examples {
            assert_eq!(request.encode(), sent, "{request:?}");
            assert_eq!(request.response_length(), answer.len(), "{request:?}");
            assert_eq!(request.read(answer), Ok(response), "{request:?}");
        }
    }

    #[test]
    fn exceptions_are_explained() {
        // §7's example: function 1, illegal data address.
        let request = read(Table::Coil, 0x04A1, 1);
        let exception = request.read(&[0x81, 0x02]).unwrap_err();
        assert_eq!(exception, WrongResponse::Exception(Exception(2)));
        assert!(exception.to_string().contains("illegal data address"), "{exception}");
        assert!(Exception(0x0B).is_silence() && !Exception(2).is_silence());
        assert!(Exception(0x77).to_string().starts_with("exception 77, "));
    }

    #[test]
    fn what_does_not_answer_the_question_is_refused() {
        let request = read(Table::Holding, 0, 2);
        let wrong = |pdu: &[u8]| request.read(pdu).unwrap_err();
        assert_eq!(wrong(&[4, 4, 0, 0, 0, 0]), WrongResponse::Function { asked: 3, found: 4 });
        assert_eq!(wrong(&[3, 2, 0, 0]), WrongResponse::Length { expected: 6, found: 4 });
        assert_eq!(wrong(&[3, 2, 0, 0, 0, 0]), WrongResponse::Length { expected: 4, found: 6 });
        assert_eq!(wrong(&[]), WrongResponse::Length { expected: 2, found: 0 });
        assert_eq!(wrong(&[0x83]), WrongResponse::Length { expected: 2, found: 1 });
        let write = Request::WriteRegister { address: 1, word: 3 };
        assert_eq!(write.read(&[6, 0, 1, 0, 4]), Err(WrongResponse::Echo));
        let coil = Request::WriteCoil { address: 1, on: false };
        assert_eq!(coil.read(&[5, 0, 1, 0, 0]), Ok(Response::Written));
    }
}
