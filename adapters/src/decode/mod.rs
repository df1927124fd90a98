//! What a device says becomes points. Pure: bytes in, points or a refusal out.

mod binary;
mod csv;
mod error;
mod json;
mod regex;
mod scalar;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::Deserialize;

pub use self::binary::{Binary, BinaryField, BinaryType};
pub use self::csv::{Columns, CsvColumn, Separator};
pub use self::error::DecodeError;
pub use self::json::Pointer;
pub use self::regex::Pattern;
pub use self::scalar::ScalarType;
pub use self::time::{TimeFrom, TimeNotation};
use crate::{DeviceName, Point, PointName, Value};

/// More points than this in one reading are refused: it is then hardly what was meant.
pub const MAX_POINTS: usize = 256;
/// A device's own id may have so many bytes.
pub const MAX_ID: usize = 128;

/// How a payload is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "as", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decode {
    /// A JSON object. Without `pick`, every number, string and truth value at its top level is a
    /// point of the member's name.
    Json {},
    /// Text that a regular expression takes apart; each named group that took part is a point.
    Regex {
        /// The expression, in the syntax of the Rust crate `regex-lite`. It may match anywhere: anchor it
        /// with `^` and `$` where that matters.
        pattern: Pattern,
        /// The types of the groups: `"f64"`, `"i64"`, `"bool"` or `"text"`, which is the default.
        #[serde(default)]
        types: BTreeMap<PointName, ScalarType>,
    },
    /// Numbers at fixed places among bytes.
    Binary {
        /// Each with its name, where it stands, its type, and what it is to be multiplied by.
        fields: Binary,
    },
    /// One record of comma-separated values (RFC 4180), quotes and all, as the crate `csv-core` reads
    /// them.
    Csv {
        /// The columns that are points, each with its name, its position and its type.
        columns: Columns,
        /// What stands between columns: one ASCII character, a comma by default.
        #[serde(default)]
        separator: Separator,
    },
    /// Text that is one point as a whole, without white space at its ends.
    Text {
        /// The point's name.
        #[serde(default = "value")]
        name: PointName,
        /// The point's type: `"f64"`, `"i64"`, `"bool"` or `"text"`, which is the default.
        #[serde(default, rename = "type")]
        kind: ScalarType,
    },
    /// Bytes that are one point as a whole, unchanged.
    Raw {
        /// The point's name.
        #[serde(default = "value")]
        name: PointName,
        /// The bytes' media type.
        #[serde(default)]
        content_type: Option<String>,
    },
}

fn value() -> PointName {
    "value".parse().expect("`value` is a name")
}

/// Where the device's own id of a reading stands.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdFrom {
    /// A JSON Pointer (RFC 6901) to a number or a string.
    pub from: Pointer,
}

/// Everything that turns one payload into points.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// How the payload is written.
    pub decode: Decode,
    /// Which parts of a JSON document are points; empty for all at its top level.
    pub pick: BTreeMap<PointName, Pointer>,
    /// Where the device's own time stands in a JSON document.
    pub time: Option<TimeFrom>,
    /// Where the device's own id stands in a JSON document.
    pub id: Option<IdFrom>,
    /// Where the name of the device stands in a JSON document, where it says it.
    pub device: Option<Pointer>,
    /// The points' units.
    pub units: BTreeMap<PointName, String>,
}

/// What a payload says.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The points; at least one.
    pub points: Vec<Point>,
    /// The device's own time.
    pub time: Option<SystemTime>,
    /// The device's own id of this reading.
    pub device_id: Option<String>,
    /// Whose it is, where the payload says so.
    pub device: Option<DeviceName>,
}

impl Decoder {
    /// A decoder without picks, times and ids.
    pub fn plain(decode: Decode, units: BTreeMap<PointName, String>) -> Self {
        Self { decode, pick: BTreeMap::new(), time: None, id: None, device: None, units }
    }

    /// Decodes one payload. The caller has limited its size.
    ///
    /// # Errors
    /// [`DecodeError`] names what is wrong with the payload; nothing of it is kept then.
    pub fn decode(&self, payload: &[u8]) -> Result<Decoded, DecodeError> {
        let mut decoded = match &self.decode {
            Decode::Json {} => {
                let Self { time, id, device, .. } = self;
                let places = json::Places { time: time.as_ref(), id: id.as_ref(), device: device.as_ref() };
                json::decode(payload, &self.pick, places)?
            }
            Decode::Regex { pattern, types } => only(pattern.points(text(payload)?, types)?),
            Decode::Binary { fields } => only(fields.points(payload)?),
            Decode::Csv { columns, separator } => only(columns.points(text(payload)?, *separator)?),
            Decode::Text { name, kind } => {
                only(vec![point(name.clone(), kind.read(name, text(payload)?.trim())?)])
            }
            Decode::Raw { name, content_type } => {
                let value = Value::Data { bytes: payload.to_vec(), content_type: content_type.clone() };
                only(vec![point(name.clone(), value)])
            }
        };
        if decoded.points.is_empty() {
            return Err(DecodeError::NoPoints);
        }
        if decoded.points.len() > MAX_POINTS {
            return Err(DecodeError::TooManyPoints { count: decoded.points.len() });
        }
        for point in &mut decoded.points {
            point.unit = self.units.get(&point.name).cloned();
        }
        Ok(decoded)
    }
}

fn only(points: Vec<Point>) -> Decoded {
    Decoded { points, time: None, device_id: None, device: None }
}

/// What a list of points may be made of, said before any payload comes.
fn named_once<'n>(names: impl Iterator<Item = &'n PointName>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(format!("{name} is there twice"));
        }
    }
    match seen.len() {
        0 => Err("expected at least one".to_owned()),
        1..=MAX_POINTS => Ok(()),
        count => Err(format!("{count} are more than {MAX_POINTS}")),
    }
}

fn point(name: PointName, value: Value) -> Point {
    Point { name, value, unit: None }
}

fn text(payload: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(payload).map_err(|_| DecodeError::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(toml: &str) -> Decoder {
        Decoder::plain(toml::from_str(toml).unwrap(), BTreeMap::new())
    }

    #[test]
    fn text_is_one_point() {
        let decoded = decoder(r#"as = "text""#).decode(b" ready \n").unwrap();
        assert_eq!(decoded.points, [point(value(), Value::Text("ready".into()))]);
        let number = decoder("as = \"text\"\nname = \"level\"\ntype = \"f64\"");
        assert_eq!(number.decode(b"21.5").unwrap().points[0].value, Value::Float(21.5));
        assert!(matches!(number.decode(b"warm"), Err(DecodeError::WrongType { .. })));
        assert_eq!(number.decode(b"\xff"), Err(DecodeError::NotText));
    }

    #[test]
    fn raw_bytes_stay_as_they_are() {
        let decoded = decoder("as = \"raw\"\ncontent_type = \"image/png\"").decode(b"\x89\0").unwrap();
        let expected = Value::Data { bytes: b"\x89\0".to_vec(), content_type: Some("image/png".into()) };
        assert_eq!(decoded.points[0].value, expected);
    }

    #[test]
    fn units_are_added() {
        let units = BTreeMap::from([("value".parse().unwrap(), "Cel".to_owned())]);
        let decoder = Decoder::plain(toml::from_str(r#"as = "text""#).unwrap(), units);
        assert_eq!(decoder.decode(b"x").unwrap().points[0].unit.as_deref(), Some("Cel"));
    }

    #[test]
    fn unknown_settings_are_refused() {
        for toml in ["as = \"json\"\npick = {}", "as = \"text\"\npattern = \"x\"", "as = \"xml\""] {
            assert!(toml::from_str::<Decode>(toml).is_err(), "{toml} was taken");
        }
    }
}
