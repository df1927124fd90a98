//! Registers to values and back.

use std::fmt;

use serde::Deserialize;

use crate::Value;
use crate::scale::scaled;

/// How a value is kept in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One bit.
    Bool,
    /// A register, from 0 to 65535.
    U16,
    /// A register, from -32768 to 32767.
    I16,
    /// Two registers without a sign.
    U32,
    /// Two registers with a sign.
    I32,
    /// Four registers without a sign. What does not fit into 63 bits becomes the nearest float.
    U64,
    /// Four registers with a sign.
    I64,
    /// Two registers: IEEE 754 binary32.
    F32,
    /// Four registers: IEEE 754 binary64.
    F64,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Bool => "bool",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        })
    }
}

impl Kind {
    /// How many items of its table it takes.
    pub fn items(self) -> u16 {
        match self {
            Self::Bool | Self::U16 | Self::I16 => 1,
            Self::U32 | Self::I32 | Self::F32 => 2,
            Self::U64 | Self::I64 | Self::F64 => 4,
        }
    }

    /// The least and the most of a whole number.
    fn range(self) -> Option<(i128, i128)> {
        match self {
            Self::U16 => Some((0, u16::MAX.into())),
            Self::I16 => Some((i16::MIN.into(), i16::MAX.into())),
            Self::U32 => Some((0, u32::MAX.into())),
            Self::I32 => Some((i32::MIN.into(), i32::MAX.into())),
            Self::U64 => Some((0, u64::MAX.into())),
            Self::I64 => Some((i64::MIN.into(), i64::MAX.into())),
            Self::Bool | Self::F32 | Self::F64 => None,
        }
    }
}

/// In which order a value's bytes stand in its registers, `A` being the most significant of four. With
/// four registers it is alike: `CDAB` and `DCBA` turn the order of the registers, `BADC` and `DCBA` that
/// of the bytes in each, also of a single one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ByteOrder {
    /// As the protocol numbers bytes: big endian.
    #[default]
    Abcd,
    /// The lower register first.
    Cdab,
    /// The lower byte first in each register.
    Badc,
    /// Little endian.
    Dcba,
}

impl fmt::Display for ByteOrder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Abcd => "ABCD",
            Self::Cdab => "CDAB",
            Self::Badc => "BADC",
            Self::Dcba => "DCBA",
        })
    }
}

/// One way to take registers.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// The first register, counted from the first of all.
    pub at: usize,
    /// As what.
    pub kind: Kind,
    /// In which order.
    pub order: ByteOrder,
    /// What it is then; nothing where that is a float that is no number.
    pub value: Option<Value>,
}

/// All ways to take registers: those for one, for each pair and for each four, in every order in which they
/// differ.
pub fn views(words: &[u16]) -> Vec<View> {
    const ONE: [Kind; 2] = [Kind::U16, Kind::I16];
    const TWO: [Kind; 3] = [Kind::U32, Kind::I32, Kind::F32];
    const FOUR: [Kind; 3] = [Kind::U64, Kind::I64, Kind::F64];
    const OF_ONE: [ByteOrder; 2] = [ByteOrder::Abcd, ByteOrder::Badc];
    let mut views = Vec::new();
    let mut look = |size: usize, kinds: &[Kind], orders: &[ByteOrder]| {
        for (n, part) in words.chunks_exact(size).enumerate() {
            for kind in kinds.iter().copied() {
                for order in orders.iter().copied() {
                    let value = Conversion { kind, order, scale: None }.read(part);
                    views.push(View { at: n * size, kind, order, value });
                }
            }
        }
    };
    look(1, &ONE, &OF_ONE);
    look(2, &TWO, &ByteOrder::ALL);
    look(4, &FOUR, &ByteOrder::ALL);
    views
}

impl ByteOrder {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Abcd, Self::Cdab, Self::Badc, Self::Dcba];

    /// Brings registers from this order into `ABCD`, or from `ABCD` into this order.
    fn turn(self, words: &mut [u16]) {
        if matches!(self, Self::Cdab | Self::Dcba) {
            words.reverse();
        }
        if matches!(self, Self::Badc | Self::Dcba) {
            words.iter_mut().for_each(|word| *word = word.swap_bytes());
        }
    }
}

/// A number as registers have it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Raw {
    Whole(i128),
    Real(f64),
}

/// How a point's registers and its value belong together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conversion {
    /// How it is kept; not [`Kind::Bool`].
    pub kind: Kind,
    /// In which order.
    pub order: ByteOrder,
    /// What the registers' number is multiplied by.
    pub scale: Option<f64>,
}

/// Why a value cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is not a number.
    #[error("it is not a number")]
    NotANumber,
    /// The registers cannot hold it.
    #[error("it does not fit into the registers")]
    TooLarge,
}

impl Conversion {
    /// The value of these registers; nothing where they hold a float that is no number.
    pub fn read(&self, words: &[u16]) -> Option<Value> {
        let mut words = words.to_vec();
        self.order.turn(&mut words);
        let bits = words.iter().fold(0, |bits: u64, word| bits << 16 | u64::from(*word));
        let bytes = bits.to_be_bytes();
        let [.., a, b, c, d] = bytes;
        let raw = match self.kind {
            Kind::Bool | Kind::U16 | Kind::U32 | Kind::U64 => Raw::Whole(bits.into()),
            Kind::I16 => Raw::Whole(i16::from_be_bytes([c, d]).into()),
            Kind::I32 => Raw::Whole(i32::from_be_bytes([a, b, c, d]).into()),
            Kind::I64 => Raw::Whole(i64::from_be_bytes(bytes).into()),
            Kind::F32 => Raw::Real(f32::from_be_bytes([a, b, c, d]).into()),
            Kind::F64 => Raw::Real(f64::from_bits(bits)),
        };
        let value = match (raw, self.scale) {
            (Raw::Whole(number), None) => {
                i64::try_from(number).map_or(Value::Float(number as f64), Value::Integer)
            }
            (Raw::Whole(number), Some(scale)) => Value::Float(scaled(number as f64, scale)),
            (Raw::Real(number), scale) => Value::Float(scale.map_or(number, |scale| scaled(number, scale))),
        };
        match value {
            Value::Float(number) if !number.is_finite() => None,
            Value::Float(_) | Value::Integer(_) | Value::Bool(_) | Value::Text(_) | Value::Data { .. } => {
                Some(value)
            }
        }
    }

    /// The registers for a value in decimal. A whole number takes the nearest that its registers can
    /// hold, so with a scale of 0.1 the value 21.46 is written as 215.
    ///
    /// # Errors
    /// When it is no number, or too large.
    pub fn write(&self, text: &str) -> Result<Vec<u16>, Unfit> {
        let raw = self.raw(text)?;
        let bytes: [u8; 8] = match (self.kind.range(), raw) {
            (Some((least, most)), raw) => {
                let number = match raw {
                    Raw::Whole(number) => number,
                    Raw::Real(number) => number.round() as i128,
                };
                if !(least..=most).contains(&number) {
                    return Err(Unfit::TooLarge);
                }
                (number as u64).to_be_bytes()
            }
            (None, Raw::Whole(number)) => self.real(number as f64)?,
            (None, Raw::Real(number)) => self.real(number)?,
        };
        let all = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        let mut words: Vec<u16> = all.skip(4 - usize::from(self.kind.items())).collect();
        self.order.turn(&mut words);
        Ok(words)
    }

    /// The number for the registers, before it is made to fit.
    fn raw(&self, text: &str) -> Result<Raw, Unfit> {
        if self.scale.is_none()
            && let Ok(whole) = text.parse()
        {
            return Ok(Raw::Whole(whole));
        }
        let number: f64 = text.parse().map_err(|_| Unfit::NotANumber)?;
        let number = self.scale.map_or(number, |scale| number / scale);
        if number.is_finite() { Ok(Raw::Real(number)) } else { Err(Unfit::NotANumber) }
    }

    fn real(&self, number: f64) -> Result<[u8; 8], Unfit> {
        if self.kind == Kind::F64 {
            return Ok(number.to_be_bytes());
        }
        let narrow = number as f32;
        if narrow.is_finite() { Ok(u64::from(narrow.to_bits()).to_be_bytes()) } else { Err(Unfit::TooLarge) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORDERS: [ByteOrder; 4] = ByteOrder::ALL;

    fn conversion(kind: Kind, order: ByteOrder) -> Conversion {
        Conversion { kind, order, scale: None }
    }

    #[test]
    fn the_orders_are_what_they_are_called() {
        let words = |order, kind, text: &str| conversion(kind, order).write(text).unwrap();
        let number = 0x0A0B_0C0D_u32.to_string();
        assert_eq!(words(ByteOrder::Abcd, Kind::U32, &number), [0x0A0B, 0x0C0D]);
        assert_eq!(words(ByteOrder::Cdab, Kind::U32, &number), [0x0C0D, 0x0A0B]);
        assert_eq!(words(ByteOrder::Badc, Kind::U32, &number), [0x0B0A, 0x0D0C]);
        assert_eq!(words(ByteOrder::Dcba, Kind::U32, &number), [0x0D0C, 0x0B0A]);
        let long = 0x0102_0304_0506_0708_u64.to_string();
        assert_eq!(words(ByteOrder::Cdab, Kind::U64, &long), [0x0708, 0x0506, 0x0304, 0x0102]);
        assert_eq!(words(ByteOrder::Dcba, Kind::U64, &long), [0x0807, 0x0605, 0x0403, 0x0201]);
        // Of one register there is nothing to turn but its bytes.
        assert_eq!(words(ByteOrder::Cdab, Kind::U16, "258"), [0x0102]);
        assert_eq!(words(ByteOrder::Dcba, Kind::U16, "258"), [0x0201]);
        // 123.456 in binary32 is 0x42F6E979.
        assert_eq!(words(ByteOrder::Cdab, Kind::F32, "123.456"), [0xE979, 0x42F6]);
    }

    #[test]
    fn registers_are_seen_in_every_way() {
        // 123.456 in binary32 is 0x42F6E979, here with its registers turned.
        let views = views(&[0xE979, 0x42F6]);
        let is = |kind, order| views.iter().find(|view| view.kind == kind && view.order == order).unwrap();
        let Some(Value::Float(number)) = is(Kind::F32, ByteOrder::Cdab).value else { panic!("{views:?}") };
        assert!((number - 123.456).abs() < 1e-5);
        assert_eq!(is(Kind::U16, ByteOrder::Badc).value, Some(Value::Integer(0x79E9)));
        assert_eq!(views.len(), 2 * 2 * 2 + 3 * 4);
        assert!(!views.iter().any(|view| view.kind == Kind::F64));
    }

    #[test]
    fn the_scale_works_both_ways() {
        let tenths = Conversion { kind: Kind::I16, order: ByteOrder::Abcd, scale: Some(0.1) };
        assert_eq!(tenths.read(&[3]), Some(Value::Float(0.3)));
        assert_eq!(tenths.read(&[0xFFFF]), Some(Value::Float(-0.1)));
        assert_eq!(tenths.write("21.46"), Ok(vec![215]));
        assert_eq!(tenths.write("-0.1"), Ok(vec![0xFFFF]));
        assert_eq!(tenths.write("3276.8"), Err(Unfit::TooLarge));
        let tens = Conversion { kind: Kind::U16, order: ByteOrder::Abcd, scale: Some(10.0) };
        assert_eq!(tens.read(&[7]), Some(Value::Float(70.0)));
        assert_eq!(tens.write("70"), Ok(vec![7]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let of = |kind| conversion(kind, ByteOrder::Abcd);
        for (kind, text) in [
            (Kind::U16, "65536"),
            (Kind::U16, "-1"),
            (Kind::I16, "-32769"),
            (Kind::U64, "18446744073709551616"),
            (Kind::F32, "1e39"),
        ] {
            assert_eq!(of(kind).write(text), Err(Unfit::TooLarge), "{kind:?} {text}");
        }
        for text in ["", "warm", "NaN", "inf", "1e999"] {
            assert_eq!(of(Kind::F64).write(text), Err(Unfit::NotANumber), "{text}");
        }
        assert_eq!(of(Kind::F32).read(&[0x7FC0, 0]), None);
        assert_eq!(of(Kind::U64).read(&[0xFFFF; 4]), Some(Value::Float(u64::MAX as f64)));
    }

    /// Writes `text` in every order and gives what is read again.
    fn again(kind: Kind, text: &str) -> Vec<Option<Value>> {
        ORDERS
            .iter()
            .map(|order| conversion(kind, *order).read(&conversion(kind, *order).write(text).unwrap()))
            .collect()
    }

    proptest! {
        #[test]
        fn whole_numbers_come_back_in_every_order(number: i64) {
            let of = |kind, number: i64| (kind, number.to_string(), Value::Integer(number));
            for (kind, text, value) in [
                of(Kind::U16, i64::from(number as u16)),
                of(Kind::I16, i64::from(number as i16)),
                of(Kind::U32, i64::from(number as u32)),
                of(Kind::I32, i64::from(number as i32)),
                of(Kind::U64, number & i64::MAX),
                of(Kind::I64, number),
            ] {
                prop_assert!(again(kind, &text).iter().all(|read| *read == Some(value.clone())), "{:?} {}", kind, text);
            }
        }

        #[test]
        fn floats_come_back_in_every_order(bits: u64) {
            let (wide, narrow) = (f64::from_bits(bits), f32::from_bits(bits as u32));
            if wide.is_finite() {
                let read = again(Kind::F64, &wide.to_string());
                prop_assert!(read.iter().all(|read| *read == Some(Value::Float(wide))), "{}", wide);
            }
            if narrow.is_finite() {
                let read = again(Kind::F32, &narrow.to_string());
                prop_assert!(read.iter().all(|read| *read == Some(Value::Float(narrow.into()))), "{}", narrow);
            }
        }

        #[test]
        fn registers_are_read_without_panic_and_written_back(words: [u16; 4], scale in prop::option::of(-1e3..1e3)) {
            for kind in [Kind::U16, Kind::I16, Kind::U32, Kind::I32, Kind::I64, Kind::F32, Kind::F64] {
                for order in ORDERS {
                    let words = &words[..usize::from(kind.items())];
                    let conversion = Conversion { kind, order, scale };
                    let read = conversion.read(words);
                    if let (None, Some(Value::Integer(number))) = (scale, read) {
                        prop_assert_eq!(conversion.write(&number.to_string()).unwrap(), words);
                    }
                }
            }
        }
    }
}
