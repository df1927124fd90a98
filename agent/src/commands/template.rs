//! Text with places for arguments: `SP {value}`.

use std::collections::BTreeMap;

/// Text in which `{name}` stands for an argument. Braces around anything but a name are themselves, so that
/// JSON needs no escapes: `{"setpoint": {value}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Place(String),
}

impl Template {
    pub(super) fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            let (before, after) = rest.split_at(at);
            literal.push_str(before);
            let name = after[1..].split_once('}').map(|(name, _)| name).filter(|name| is_name(name));
            match name {
                Some(name) => {
                    pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    pieces.push(Piece::Place(name.to_owned()));
                    rest = &after[name.len() + 2..];
                }
                None => {
                    literal.push('{');
                    rest = &after[1..];
                }
            }
        }
        literal.push_str(rest);
        pieces.push(Piece::Text(literal));
        Self(pieces)
    }

    /// The arguments it has places for.
    pub(super) fn places(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Place(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text with `values` in their places; a place without value stays empty.
    pub(super) fn fill(&self, values: &BTreeMap<String, String>) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::Place(name) => values.get(name).map_or("", String::as_str),
        });
        pieces.collect()
    }
}

/// What an argument can be called: `a` to `z`, `0` to `9` and `_`.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_in_braces_are_places() {
        let filled = |text: &str| {
            let values = BTreeMap::from([("value".to_owned(), "62".to_owned())]);
            Template::parse(text).fill(&values)
        };
        assert_eq!(filled("SP {value}\r\n"), "SP 62\r\n");
        assert_eq!(filled(r#"{"setpoint":{value}}"#), r#"{"setpoint":62}"#);
        assert_eq!(filled("{value}{value}"), "6262");
        assert_eq!(filled("{} { {Value} {value"), "{} { {Value} {value");
        assert_eq!(filled("{other}"), "");
        assert_eq!(Template::parse("{a}-{b}").places().collect::<Vec<_>>(), ["a", "b"]);
    }
}
