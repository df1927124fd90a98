use serde::Deserialize;

use super::DecodeError;
use crate::{PointName, Value};

/// What a piece of text stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScalarType {
    /// A number with a fraction.
    F64,
    /// A whole number.
    I64,
    /// `true`, `false`, `1` or `0`.
    Bool,
    /// Text.
    #[default]
    Text,
}

impl ScalarType {
    /// Reads `text` as the value of `point`.
    pub(super) fn read(self, point: &PointName, text: &str) -> Result<Value, DecodeError> {
        let wrong = |expected| DecodeError::WrongType { point: point.to_string(), expected };
        match self {
            Self::F64 => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Value::Float(number)),
                _ => Err(wrong("a finite number")),
            },
            Self::I64 => text.parse().map(Value::Integer).map_err(|_| wrong("a whole number of 64 bits")),
            Self::Bool => match text {
                "true" | "1" => Ok(Value::Bool(true)),
                "false" | "0" => Ok(Value::Bool(false)),
                _ => Err(wrong("true, false, 1 or 0")),
            },
            Self::Text => Ok(Value::Text(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_their_type_says() {
        let point: PointName = "p".parse().unwrap();
        let read = |kind: ScalarType, text: &str| kind.read(&point, text).ok();
        assert_eq!(read(ScalarType::F64, "+1.50"), Some(Value::Float(1.5)));
        assert_eq!(read(ScalarType::F64, "nan"), None);
        assert_eq!(read(ScalarType::F64, "1e999"), None);
        assert_eq!(read(ScalarType::I64, "-7"), Some(Value::Integer(-7)));
        assert_eq!(read(ScalarType::I64, "7.0"), None);
        assert_eq!(read(ScalarType::I64, "9223372036854775808"), None);
        assert_eq!(read(ScalarType::Bool, "1"), Some(Value::Bool(true)));
        assert_eq!(read(ScalarType::Bool, "yes"), None);
    }
}
