use csv_core::{ReadRecordResult, ReaderBuilder};
use serde::Deserialize;

use super::{DecodeError, ScalarType, named_once, point};
use crate::{Point, PointName};

/// The columns that are points: at least one, each name once.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Vec<CsvColumn>")]
pub struct Columns(Vec<CsvColumn>);

/// One column.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvColumn {
    /// The point's name.
    pub name: PointName,
    /// Its position, from 0.
    pub at: usize,
    /// The point's type: `"f64"`, `"i64"`, `"bool"` or `"text"`, which is the default. White space around
    /// all but text is no part of it. An empty column gives no point.
    #[serde(default, rename = "type")]
    pub kind: ScalarType,
}

/// What stands between columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "char")]
pub struct Separator(u8);

impl Default for Separator {
    fn default() -> Self {
        Self(b',')
    }
}

impl TryFrom<char> for Separator {
    type Error = &'static str;

    fn try_from(separator: char) -> Result<Self, Self::Error> {
        match u8::try_from(separator) {
            Ok(byte) if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(Self(byte)),
            _ => Err("separator: expected one ASCII character, and neither a quote nor a line's end"),
        }
    }
}

impl TryFrom<Vec<CsvColumn>> for Columns {
    type Error = String;

    fn try_from(columns: Vec<CsvColumn>) -> Result<Self, Self::Error> {
        named_once(columns.iter().map(|column| &column.name)).map_err(|what| format!("columns: {what}"))?;
        match columns.iter().find(|column| column.at >= MOST) {
            Some(column) => Err(format!("at of {}: expected 0 to {}", column.name, MOST - 1)),
            None => Ok(Self(columns)),
        }
    }
}

/// The most columns of a record.
const MOST: usize = 1024;

impl Columns {
    pub(super) fn points(&self, text: &str, separator: Separator) -> Result<Vec<Point>, DecodeError> {
        let found = record(text, separator)?;
        let mut points = Vec::with_capacity(self.0.len());
        for CsvColumn { name, at, kind } in &self.0 {
            let column = found.get(*at).ok_or_else(|| DecodeError::NoColumn {
                point: name.to_string(),
                at: *at,
                columns: found.len(),
            })?;
            let column = if *kind == ScalarType::Text { column } else { column.trim() };
            if !column.is_empty() {
                points.push(point(name.clone(), kind.read(name, column)?));
            }
        }
        Ok(points)
    }
}

/// The columns of the only record.
fn record(text: &str, Separator(separator): Separator) -> Result<Vec<String>, DecodeError> {
    let mut reader = ReaderBuilder::new().delimiter(separator).build();
    // What is unquoted is never longer than it was.
    let (mut unquoted, mut ends) = (vec![0; text.len()], vec![0; MOST]);
    let (mut used, mut columns) = (0, 0);
    let mut rest = text.as_bytes();
    loop {
        let (result, read, written, ended) =
            reader.read_record(rest, &mut unquoted[used..], &mut ends[columns..]);
        rest = &rest[read..];
        used += written;
        columns += ended;
        match result {
            // Once more, with nothing: the text is over.
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull => unreachable!("unquoted text fits where quoted text did"),
            ReadRecordResult::OutputEndsFull => return Err(DecodeError::TooManyColumns { max: MOST }),
            ReadRecordResult::Record | ReadRecordResult::End => break,
        }
    }
    if rest.iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
        return Err(DecodeError::NotOneRecord);
    }
    let mut from = 0;
    let column = |end: &usize| {
        let column = &unquoted[from..*end];
        from = *end;
        std::str::from_utf8(column).map(str::to_owned).map_err(|_| DecodeError::NotText)
    };
    ends[..columns].iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    fn columns(text: &str) -> Result<Vec<String>, DecodeError> {
        record(text, Separator::default())
    }

    #[test]
    fn a_record_is_read_as_the_rfc_says() {
        for (text, expected) in [
            ("aaa,bbb,ccc", &["aaa", "bbb", "ccc"][..]),
            ("aaa,bbb,ccc\r\n", &["aaa", "bbb", "ccc"]),
            ("\"aaa\",\"b\r\nbb\",\"c,\"\"c\"", &["aaa", "b\r\nbb", "c,\"c"]),
            ("a, b ,,", &["a", " b ", "", ""]),
            ("µ,\"°C\"", &["µ", "°C"]),
            ("one", &["one"]),
            ("", &[]),
        ] {
            assert_eq!(columns(text).unwrap(), expected, "{text:?}");
        }
        assert_eq!(columns("a,b\nc,d"), Err(DecodeError::NotOneRecord));
        assert_eq!(columns(&",".repeat(MOST - 1)).unwrap().len(), MOST);
        assert_eq!(columns(&",".repeat(MOST)), Err(DecodeError::TooManyColumns { max: MOST }));
        assert_eq!(record("1,5;2", ';'.try_into().unwrap()).unwrap(), ["1,5", "2"]);
    }

    #[test]
    fn columns_are_points_by_their_position() {
        let columns = "[{ name = \"id\", at = 0 }, { name = \"t\", at = 2, type = \"f64\" }, \
                       { name = \"n\", at = 3, type = \"i64\" }]";
        #[derive(Deserialize)]
        struct Table {
            columns: Columns,
        }
        let Table { columns } = toml::from_str(&format!("columns = {columns}")).unwrap();
        let points = |text: &str| columns.points(text, Separator::default());
        let values =
            |text: &str| points(text).unwrap().into_iter().map(|point| point.value).collect::<Vec<_>>();
        assert_eq!(
            values("\"a, b\",x, 21.5 ,7\n"),
            [Value::Text("a, b".into()), Value::Float(21.5), Value::Integer(7)]
        );
        assert_eq!(values("a,x,,8"), [Value::Text("a".into()), Value::Integer(8)]);
        let missing = DecodeError::NoColumn { point: "n".into(), at: 3, columns: 3 };
        assert_eq!(points("a,x,1.0"), Err(missing));
        assert!(matches!(points("a,x,warm,1"), Err(DecodeError::WrongType { .. })));
    }

    #[test]
    fn columns_that_cannot_be_meant_are_refused() {
        for (settings, says) in [
            ("columns = []", "at least one"),
            ("columns = [{ name = \"a\", at = 0 }, { name = \"a\", at = 1 }]", "a is there twice"),
            ("columns = [{ name = \"a\", at = 1024 }]", "at of a: expected 0 to 1023"),
            ("columns = [{ name = \"a\", at = 0, scale = 2 }]", "unknown field `scale`"),
            ("columns = [{ name = \"a\", at = 0 }]\nseparator = \"::\"", "character"),
            ("columns = [{ name = \"a\", at = 0 }]\nseparator = '\"'", "neither a quote"),
            ("columns = [{ name = \"a\", at = 0 }]\nquote = \"x\"", "unknown field `quote`"),
        ] {
            let settings = format!("as = \"csv\"\n{settings}");
            let error = toml::from_str::<crate::decode::Decode>(&settings).unwrap_err().to_string();
            assert!(error.contains(says), "{settings}\n{error}");
        }
    }
}
