use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value as Json;
use serde_json::error::Category;

use super::{DecodeError, Decoded, IdFrom, MAX_ID, TimeFrom, point};
use crate::{DeviceName, Point, PointName, Value};

/// A JSON Pointer (RFC 6901): empty for the whole document, else `/`, a member's name or an array's
/// index, and so on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pointer {
    text: String,
    /// The member of the top-level object that it names, if it leads no deeper: most do.
    top_level: Option<String>,
}

impl Pointer {
    fn find<'j>(&self, document: &'j Json) -> Option<&'j Json> {
        let found = match &self.top_level {
            Some(name) if document.is_object() => document.get(name),
            _ => document.pointer(&self.text),
        };
        found.filter(|found| !found.is_null())
    }
}

impl FromStr for Pointer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err("a JSON Pointer begins with `/`, as in \"/temp\"");
        }
        let mut after_tildes = text.split('~').skip(1);
        if !after_tildes.all(|rest| rest.starts_with(['0', '1'])) {
            return Err("in a JSON Pointer, `~` is written `~0`");
        }
        let top_level = text.strip_prefix('/').filter(|name| !name.contains('/'));
        let top_level = top_level.map(|name| name.replace("~1", "/").replace("~0", "~"));
        Ok(Self { text: text.to_owned(), top_level })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Where in a document stands what is no point.
#[derive(Default)]
pub(super) struct Places<'d> {
    pub(super) time: Option<&'d TimeFrom>,
    pub(super) id: Option<&'d IdFrom>,
    pub(super) device: Option<&'d Pointer>,
}

pub(super) fn decode(
    payload: &[u8],
    pick: &BTreeMap<PointName, Pointer>,
    Places { time, id, device }: Places<'_>,
) -> Result<Decoded, DecodeError> {
    let document: Json = serde_json::from_slice(payload).map_err(|error| not_json(&error))?;
    let points = if pick.is_empty() {
        let not_points = [time.map(|time| &time.from), id.map(|id| &id.from), device];
        top_level(&document, not_points)?
    } else {
        picked(&document, pick)?
    };
    let device = device.map(|from| device_name(from, &document)).transpose()?;
    let time = match time {
        Some(TimeFrom { from, notation }) => {
            from.find(&document).map(|value| notation.read(value)).transpose()?
        }
        None => None,
    };
    let device_id = match id {
        Some(IdFrom { from }) => from.find(&document).map(|value| device_id(from, value)).transpose()?,
        None => None,
    };
    Ok(Decoded { points, time, device_id, device })
}

fn not_json(error: &serde_json::Error) -> DecodeError {
    let category = match error.classify() {
        Category::Io => "input",
        Category::Syntax => "syntax",
        Category::Data => "data",
        Category::Eof => "unexpected end",
    };
    DecodeError::NotJson { category, line: error.line(), column: error.column() }
}

/// Every scalar member is a point, but for those that are the time, the id and the device.
fn top_level(document: &Json, not_points: [Option<&Pointer>; 3]) -> Result<Vec<Point>, DecodeError> {
    let members = document.as_object().ok_or(DecodeError::NotObject)?;
    let not_points = not_points.map(|pointer| pointer.and_then(|pointer| pointer.top_level.as_ref()));
    members
        .iter()
        .filter(|(name, _)| !not_points.iter().flatten().any(|other| other == name))
        .filter_map(|(name, value)| scalar(value).map(|value| (name, value)))
        .map(|(name, value)| Ok(point(name.parse()?, value)))
        .collect()
}

/// A pointer that leads nowhere, or to null, gives no point: devices leave out what they do not know.
fn picked(document: &Json, pick: &BTreeMap<PointName, Pointer>) -> Result<Vec<Point>, DecodeError> {
    pick.iter()
        .filter_map(|(name, pointer)| pointer.find(document).map(|value| (name, pointer, value)))
        .map(|(name, pointer, value)| {
            let value =
                scalar(value).ok_or_else(|| DecodeError::NotScalar { pointer: pointer.to_string() })?;
            Ok(point(name.clone(), value))
        })
        .collect()
}

fn scalar(value: &Json) -> Option<Value> {
    match value {
        Json::Bool(truth) => Some(Value::Bool(*truth)),
        Json::Number(number) => {
            number.as_i64().map(Value::Integer).or_else(|| number.as_f64().map(Value::Float))
        }
        Json::String(text) => Some(Value::Text(text.clone())),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

fn device_name(from: &Pointer, document: &Json) -> Result<DeviceName, DecodeError> {
    let name = from.find(document).and_then(Json::as_str);
    let name = name.ok_or_else(|| DecodeError::NoDevice { pointer: from.to_string() })?;
    name.parse().map_err(DecodeError::DeviceName)
}

fn device_id(from: &Pointer, value: &Json) -> Result<String, DecodeError> {
    let id = match value {
        Json::String(text) => text.clone(),
        Json::Number(number) => number.to_string(),
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => {
            return Err(DecodeError::WrongType {
                point: from.to_string(),
                expected: "a number or a string, which an id has to be",
            });
        }
    };
    if id.len() > MAX_ID { Err(DecodeError::IdTooLong) } else { Ok(id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{MAX_POINTS, TimeNotation};

    fn decode(
        payload: &[u8],
        pick: &BTreeMap<PointName, Pointer>,
        time: Option<&TimeFrom>,
        id: Option<&IdFrom>,
    ) -> Result<Decoded, DecodeError> {
        super::decode(payload, pick, Places { time, id, device: None })
    }

    #[test]
    fn the_device_is_a_name_and_no_point() {
        let from = "/dev".parse().unwrap();
        let of = |payload: &str| {
            let places = Places { device: Some(&from), ..Places::default() };
            super::decode(payload.as_bytes(), &BTreeMap::new(), places)
        };
        let decoded = of(r#"{"dev":"pump-1","n":1}"#).unwrap();
        assert_eq!(decoded.device.as_ref().map(DeviceName::as_str), Some("pump-1"));
        assert_eq!(values(&decoded), [("n", &Value::Integer(1))]);
        for payload in [r#"{"n":1}"#, r#"{"dev":7,"n":1}"#, r#"{"dev":null,"n":1}"#] {
            assert_eq!(of(payload), Err(DecodeError::NoDevice { pointer: "/dev".into() }), "{payload}");
        }
        assert!(matches!(of(r#"{"dev":"Pump 1","n":1}"#), Err(DecodeError::DeviceName(_))));
    }

    fn picks(pairs: &[(&str, &str)]) -> BTreeMap<PointName, Pointer> {
        pairs.iter().map(|(name, at)| (name.parse().unwrap(), at.parse().unwrap())).collect()
    }

    fn values(decoded: &Decoded) -> Vec<(&str, &Value)> {
        decoded.points.iter().map(|point| (point.name.as_str(), &point.value)).collect()
    }

    #[test]
    fn without_picks_every_top_level_scalar_is_a_point() {
        let payload = br#"{"temp":21.5,"count":3,"on":true,"state":"ok","none":null,"deep":{"x":1}}"#;
        let decoded = decode(payload, &BTreeMap::new(), None, None).unwrap();
        assert_eq!(
            values(&decoded),
            [
                ("temp", &Value::Float(21.5)),
                ("count", &Value::Integer(3)),
                ("on", &Value::Bool(true)),
                ("state", &Value::Text("ok".into())),
            ]
        );
    }

    #[test]
    fn time_and_id_are_not_points_as_well() {
        let time = TimeFrom { from: "/ts".parse().unwrap(), notation: TimeNotation::UnixMs };
        let id = IdFrom { from: "/seq".parse().unwrap() };
        let payload = br#"{"temp":1,"ts":1795350000250,"seq":42}"#;
        let decoded = decode(payload, &BTreeMap::new(), Some(&time), Some(&id)).unwrap();
        assert_eq!(values(&decoded), [("temp", &Value::Integer(1))]);
        assert_eq!(decoded.device_id.as_deref(), Some("42"));
        assert!(decoded.time.is_some());
        let without = decode(br#"{"temp":1}"#, &BTreeMap::new(), Some(&time), Some(&id)).unwrap();
        assert_eq!((without.time, without.device_id), (None, None));
        let payload = br#"{"temp":1,"ts":"noon"}"#;
        assert!(matches!(
            decode(payload, &BTreeMap::new(), Some(&time), None),
            Err(DecodeError::Time { .. })
        ));
    }

    #[test]
    fn picks_reach_deep_and_skip_what_is_absent() {
        let pick = picks(&[("a", "/x/0/y"), ("b", "/gone"), ("c", "/odd~1name")]);
        let payload = br#"{"x":[{"y":7}],"odd/name":2,"Big":1}"#;
        let decoded = decode(payload, &pick, None, None).unwrap();
        assert_eq!(values(&decoded), [("a", &Value::Integer(7)), ("c", &Value::Integer(2))]);
        assert!(matches!(
            decode(br#"{"x":[{"y":{}}]}"#, &pick, None, None),
            Err(DecodeError::NotScalar { .. })
        ));
    }

    #[test]
    fn what_is_no_document_of_points_is_refused() {
        let none = BTreeMap::new();
        assert!(matches!(decode(b"{\"a\":", &none, None, None), Err(DecodeError::NotJson { .. })));
        assert!(matches!(decode(b"\xff\xfe", &none, None, None), Err(DecodeError::NotJson { .. })));
        assert!(matches!(decode(br#"{"a":1e999}"#, &none, None, None), Err(DecodeError::NotJson { .. })));
        assert_eq!(decode(b"[1]", &none, None, None), Err(DecodeError::NotObject));
        assert!(matches!(decode(br#"{"Temp":1}"#, &none, None, None), Err(DecodeError::Name(_))));
        let deep = "[".repeat(100_000);
        assert!(matches!(decode(deep.as_bytes(), &none, None, None), Err(DecodeError::NotJson { .. })));
    }

    #[test]
    fn too_many_points_are_refused() {
        let members: Vec<_> = (0..=MAX_POINTS).map(|n| format!("\"p{n}\":{n}")).collect();
        let payload = format!("{{{}}}", members.join(","));
        let decoder = crate::decode::Decoder::plain(super::super::Decode::Json {}, BTreeMap::new());
        assert_eq!(
            decoder.decode(payload.as_bytes()),
            Err(DecodeError::TooManyPoints { count: MAX_POINTS + 1 })
        );
    }

    #[test]
    fn pointers_are_checked_when_read() {
        for text in ["temp", "/a~2", "/a~"] {
            assert!(text.parse::<Pointer>().is_err(), "{text} was taken");
        }
    }
}
