use serde::Deserialize;

use super::{DecodeError, named_once, point};
use crate::scale::scaled;
use crate::{Point, PointName, Value};

/// The fields of a binary payload: at least one, each name once.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Vec<BinaryField>")]
pub struct Binary(Vec<BinaryField>);

/// One number in a binary payload.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinaryField {
    /// The point's name.
    pub name: PointName,
    /// Its first byte, from 0.
    pub at: usize,
    /// How it is written.
    #[serde(rename = "type")]
    pub kind: BinaryType,
    /// What the number is multiplied by; the point has a fraction then.
    pub scale: Option<f64>,
}

/// How a number is written: whole numbers without and with a sign, in two's complement, and binary
/// floating point (IEEE 754); `le` with the least significant byte first, `be` with the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum BinaryType {
    U8,
    I8,
    U16le,
    U16be,
    I16le,
    I16be,
    U32le,
    U32be,
    I32le,
    I32be,
    I64le,
    I64be,
    F32le,
    F32be,
    F64le,
    F64be,
}

impl TryFrom<Vec<BinaryField>> for Binary {
    type Error = String;

    fn try_from(fields: Vec<BinaryField>) -> Result<Self, Self::Error> {
        named_once(fields.iter().map(|field| &field.name)).map_err(|what| format!("fields: {what}"))?;
        for BinaryField { name, scale, .. } in &fields {
            if scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0) {
                return Err(format!("scale of {name}: expected a finite number other than 0"));
            }
        }
        Ok(Self(fields))
    }
}

impl Binary {
    pub(super) fn points(&self, payload: &[u8]) -> Result<Vec<Point>, DecodeError> {
        self.0.iter().map(|field| Ok(point(field.name.clone(), field.value(payload)?))).collect()
    }
}

impl BinaryField {
    fn value(&self, payload: &[u8]) -> Result<Value, DecodeError> {
        let number = self.kind.read(payload, self.at).ok_or_else(|| DecodeError::TooShort {
            point: self.name.to_string(),
            end: self.at.saturating_add(self.kind.size()),
            bytes: payload.len(),
        })?;
        let fraction = match (number, self.scale) {
            (Number::Whole(whole), None) => return Ok(Value::Integer(whole)),
            (Number::Whole(whole), Some(scale)) => scaled(whole as f64, scale),
            (Number::Fraction(fraction), None) => fraction,
            (Number::Fraction(fraction), Some(scale)) => scaled(fraction, scale),
        };
        if fraction.is_finite() {
            Ok(Value::Float(fraction))
        } else {
            Err(DecodeError::WrongType { point: self.name.to_string(), expected: "a finite number" })
        }
    }
}

enum Number {
    Whole(i64),
    Fraction(f64),
}

impl BinaryType {
    fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16le | Self::U16be | Self::I16le | Self::I16be => 2,
            Self::U32le | Self::U32be | Self::I32le | Self::I32be | Self::F32le | Self::F32be => 4,
            Self::I64le | Self::I64be | Self::F64le | Self::F64be => 8,
        }
    }

    /// The number that stands there, if the bytes reach so far.
    fn read(self, bytes: &[u8], at: usize) -> Option<Number> {
        fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
            bytes.get(at..)?.first_chunk().copied()
        }
        let whole = match self {
            Self::U8 => u8::from_be_bytes(part(bytes, at)?).into(),
            Self::I8 => i8::from_be_bytes(part(bytes, at)?).into(),
            Self::U16le => u16::from_le_bytes(part(bytes, at)?).into(),
            Self::U16be => u16::from_be_bytes(part(bytes, at)?).into(),
            Self::I16le => i16::from_le_bytes(part(bytes, at)?).into(),
            Self::I16be => i16::from_be_bytes(part(bytes, at)?).into(),
            Self::U32le => u32::from_le_bytes(part(bytes, at)?).into(),
            Self::U32be => u32::from_be_bytes(part(bytes, at)?).into(),
            Self::I32le => i32::from_le_bytes(part(bytes, at)?).into(),
            Self::I32be => i32::from_be_bytes(part(bytes, at)?).into(),
            Self::I64le => i64::from_le_bytes(part(bytes, at)?),
            Self::I64be => i64::from_be_bytes(part(bytes, at)?),
            Self::F32le => return Some(Number::Fraction(f32::from_le_bytes(part(bytes, at)?).into())),
            Self::F32be => return Some(Number::Fraction(f32::from_be_bytes(part(bytes, at)?).into())),
            Self::F64le => return Some(Number::Fraction(f64::from_le_bytes(part(bytes, at)?))),
            Self::F64be => return Some(Number::Fraction(f64::from_be_bytes(part(bytes, at)?))),
        };
        Some(Number::Whole(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: &str, more: &str, bytes: &[u8]) -> Result<Value, DecodeError> {
        let field = format!("name = \"p\"\nat = 1\ntype = \"{kind}\"\n{more}");
        let field: BinaryField = toml::from_str(&field).unwrap();
        assert_eq!(
            field.value(&bytes[..bytes.len() - 1]),
            Err(DecodeError::TooShort { point: "p".into(), end: bytes.len(), bytes: bytes.len() - 1 })
        );
        field.value(bytes)
    }

    #[test]
    fn numbers_are_what_their_type_says() {
        for (kind, bytes, expected) in [
            ("u8", &b"x\xff"[..], 255),
            ("i8", b"x\xff", -1),
            ("u16le", b"x\x01\xff", 0xff01),
            ("u16be", b"x\xff\x01", 0xff01),
            ("i16le", b"x\xfe\xff", -2),
            ("i16be", b"x\xff\xfe", -2),
            ("u32le", b"x\x04\x03\x02\xff", 0xff02_0304),
            ("u32be", b"x\xff\x02\x03\x04", 0xff02_0304),
            ("i32le", b"x\xfd\xff\xff\xff", -3),
            ("i32be", b"x\xff\xff\xff\xfd", -3),
            ("i64le", b"x\xfc\xff\xff\xff\xff\xff\xff\xff", -4),
            ("i64be", b"x\xff\xff\xff\xff\xff\xff\xff\xfc", -4),
        ] {
            assert_eq!(value(kind, "", bytes), Ok(Value::Integer(expected)), "{kind}");
        }
        let f32s = [1.5f32.to_le_bytes(), 1.5f32.to_be_bytes()];
        let f64s = [1.5f64.to_le_bytes(), 1.5f64.to_be_bytes()];
        for (kind, bytes) in
            [("f32le", &f32s[0][..]), ("f32be", &f32s[1]), ("f64le", &f64s[0]), ("f64be", &f64s[1])]
        {
            assert_eq!(value(kind, "", &[b"x", bytes].concat()), Ok(Value::Float(1.5)), "{kind}");
        }
        let nan = [b"x", &f32::NAN.to_le_bytes()[..]].concat();
        assert!(matches!(value("f32le", "", &nan), Err(DecodeError::WrongType { .. })));
    }

    #[test]
    fn scales_are_exact_where_they_can_be() {
        for (scale, expected) in [("0.1", 0.3), ("0.01", 0.03), ("10", 30.0), ("1", 3.0), ("0.7", 3.0 * 0.7)]
        {
            assert_eq!(value("u8", &format!("scale = {scale}"), b"x\x03"), Ok(Value::Float(expected)));
        }
        assert_eq!(value("i16be", "scale = -0.5", b"x\xff\xff"), Ok(Value::Float(0.5)));
    }

    #[test]
    fn fields_that_cannot_be_meant_are_refused() {
        #[derive(Debug, Deserialize)]
        struct Table {
            #[expect(dead_code, reason = "only whether it is read")]
            fields: Binary,
        }
        for (fields, says) in [
            ("[]", "at least one"),
            (
                "[{ name = \"a\", at = 0, type = \"u8\" }, { name = \"a\", at = 1, type = \"u8\" }]",
                "a is there twice",
            ),
            ("[{ name = \"a\", at = 0, type = \"u16\" }]", "unknown variant `u16`"),
            ("[{ name = \"a\", at = -1, type = \"u8\" }]", "invalid value"),
            ("[{ name = \"a\", at = 0, type = \"u8\", scale = 0.0 }]", "scale of a"),
            ("[{ name = \"a\", at = 0, type = \"u8\", unit = \"x\" }]", "unknown field `unit`"),
        ] {
            let error = toml::from_str::<Table>(&format!("fields = {fields}")).unwrap_err().to_string();
            assert!(error.contains(says), "{fields}\n{error}");
        }
    }
}
