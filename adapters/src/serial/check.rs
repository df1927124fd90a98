//! Check bytes at the end of a frame.

use crc::{CRC_16_IBM_3740, CRC_16_MODBUS, Crc, Table};
use serde::Deserialize;

use super::framing::FrameError;

/// What stands at the end of each frame to prove that it came whole. It covers all of the frame that is
/// before it, and is cut off before the frame is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Which: `"none"`, `"crc16-modbus"`, `"crc16-ccitt"`, `"sum8"` or `"xor8"`.
    pub kind: CheckKind,
}

/// A kind of check. The parameters of the CRCs are those of the catalogue of Greg Cook,
/// <https://reveng.sourceforge.io/crc-catalogue/16.htm>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// There is none.
    #[default]
    None,
    /// CRC-16/MODBUS, low byte first (MODBUS over Serial Line V1.02, 2.5.1.2).
    Crc16Modbus,
    /// CRC-16/IBM-3740, also called CRC-16/CCITT-FALSE: polynomial 0x1021 from 0xffff. High byte first.
    Crc16Ccitt,
    /// The sum of all bytes, modulo 256. It misses one in 256 of random errors, bytes that changed places,
    /// and a line that says nothing but zeros.
    Sum8,
    /// The exclusive or of all bytes. It misses what the sum misses.
    Xor8,
}

static MODBUS: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_MODBUS);
static CCITT: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_IBM_3740);

impl CheckKind {
    /// How many bytes it has.
    pub(super) fn size(self) -> usize {
        match self {
            Self::None => 0,
            Self::Sum8 | Self::Xor8 => 1,
            Self::Crc16Modbus | Self::Crc16Ccitt => 2,
        }
    }

    /// The check of these bytes; one of a single byte stands in the low one.
    pub(crate) fn of(self, bytes: &[u8]) -> u16 {
        match self {
            Self::None => 0,
            Self::Crc16Modbus => MODBUS.checksum(bytes),
            Self::Crc16Ccitt => CCITT.checksum(bytes),
            Self::Sum8 => bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)).into(),
            Self::Xor8 => bytes.iter().fold(0, |xor, byte| xor ^ byte).into(),
        }
    }

    /// The frame without its check, if that is right.
    pub(super) fn verified(self, frame: &[u8]) -> Result<&[u8], FrameError> {
        let short = FrameError::TooShort { bytes: frame.len(), least: self.size() };
        let length = frame.len().checked_sub(self.size()).ok_or(short)?;
        let (covered, check) = frame.split_at(length);
        let found = match (self, check) {
            (Self::Crc16Modbus, [low, high]) => u16::from_le_bytes([*low, *high]),
            (_, [high, low]) => u16::from_be_bytes([*high, *low]),
            (_, [only]) => u16::from(*only),
            _ => return Ok(covered),
        };
        let expected = self.of(covered);
        if found == expected { Ok(covered) } else { Err(FrameError::Check { expected, found }) }
    }

    /// The bytes with their check behind them.
    #[cfg(test)]
    pub(super) fn sealed(self, bytes: &[u8]) -> Vec<u8> {
        let check = self.of(bytes);
        let check = match self {
            Self::None => vec![],
            Self::Crc16Modbus => check.to_le_bytes().to_vec(),
            Self::Crc16Ccitt => check.to_be_bytes().to_vec(),
            Self::Sum8 | Self::Xor8 => vec![check.to_le_bytes()[0]],
        };
        [bytes, &check].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [CheckKind; 5] =
        [CheckKind::None, CheckKind::Crc16Modbus, CheckKind::Crc16Ccitt, CheckKind::Sum8, CheckKind::Xor8];

    #[test]
    fn checks_are_those_of_the_standards() {
        // The catalogue's check values are of these nine digits.
        assert_eq!(CheckKind::Crc16Modbus.verified(b"123456789\x37\x4b").unwrap(), b"123456789");
        assert_eq!(CheckKind::Crc16Ccitt.verified(b"123456789\x29\xb1").unwrap(), b"123456789");
        // A request of the Modbus specification's kind: read two holding registers of unit 1.
        let request = [0x01, 0x03, 0x00, 0x00, 0x00, 0x02, 0xc4, 0x0b];
        assert_eq!(CheckKind::Crc16Modbus.verified(&request).unwrap(), &request[..6]);
        assert_eq!(CheckKind::Sum8.verified(b"\xff\x02\x01").unwrap(), b"\xff\x02");
        assert_eq!(CheckKind::Xor8.verified(b"\xff\x02\xfd").unwrap(), b"\xff\x02");
        assert_eq!(CheckKind::None.verified(b"\xff\x02").unwrap(), b"\xff\x02");
    }

    #[test]
    fn one_wrong_bit_is_noticed() {
        for kind in &ALL[1..] {
            let good = kind.sealed(b"what a device says");
            assert_eq!(kind.verified(&good).unwrap(), b"what a device says");
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(matches!(kind.verified(&bad), Err(FrameError::Check { .. })), "{kind:?}, bit {bit}");
            }
            let short = FrameError::TooShort { bytes: kind.size() - 1, least: kind.size() };
            assert_eq!(kind.verified(&good[..kind.size() - 1]), Err(short));
        }
    }

    #[test]
    fn kinds_have_their_names() {
        let names = ["none", "crc16-modbus", "crc16-ccitt", "sum8", "xor8"];
        for (name, kind) in names.iter().zip(ALL) {
            let check: Check = toml::from_str(&format!("kind = \"{name}\"")).unwrap();
            assert_eq!(check.kind, kind);
        }
        for wrong in ["kind = \"crc32\"", "kind = \"none\"\nfrom = 2", ""] {
            assert!(toml::from_str::<Check>(wrong).is_err(), "{wrong} was taken");
        }
    }
}
