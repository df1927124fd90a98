//! One thing that is wrong: what serde says turned into our words, and how it is shown.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

use super::closest::closest;

/// At most so many alternatives are listed.
const MOST_NAMES: usize = 8;

/// A message, its place, and what was expected there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) title: String,
    pub(super) label: String,
    pub(super) place: Option<Place>,
}

/// A place in a file, or the file as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: String,
    spot: Option<Spot>,
    order: usize,
}

/// A piece of a line.
#[derive(Debug, PartialEq, Eq)]
struct Spot {
    /// Counted from 1.
    line: usize,
    /// In characters, counted from 1.
    column: usize,
    /// In characters.
    width: usize,
    text: String,
}

/// A problem, for machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told<'a> {
    /// What is wrong.
    pub error: &'a str,
    /// What to write instead, or why; may be empty.
    pub expected: &'a str,
    /// In which file.
    pub file: Option<&'a str>,
    /// In which line, from 1.
    pub line: Option<usize>,
    /// At which character, from 1.
    pub column: Option<usize>,
}

impl Problem {
    pub(super) fn told(&self) -> Told<'_> {
        let place = self.place.as_ref();
        let spot = place.and_then(|place| place.spot.as_ref());
        Told {
            error: &self.title,
            expected: &self.label,
            file: place.map(|place| place.file.as_str()),
            line: spot.map(|spot| spot.line),
            column: spot.map(|spot| spot.column),
        }
    }

    /// A problem at `span` of `source`, which is the file's text from `start` on.
    pub(super) fn at(
        file: &str,
        source: &str,
        start: usize,
        span: Range<usize>,
        title: String,
        label: String,
    ) -> Self {
        let text = &source[start..];
        let from = text.floor_char_boundary(span.start.saturating_sub(start));
        let to = text.floor_char_boundary(span.end.saturating_sub(start)).max(from);
        let line_start = text[..from].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let line_end = line_start + line.len();
        let spot = Spot {
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..from].chars().count() + 1,
            width: text[from..to.min(line_end).max(from)].chars().count().max(1),
            text: line.to_owned(),
        };
        // A whole document that is empty or misses something has no line to show.
        let spot = (!span.is_empty() || span.start > start).then_some(spot);
        Self { title, label, place: Some(Place { file: file.to_owned(), spot, order: span.start }) }
    }

    /// A file that cannot be read.
    pub(super) fn in_file(file: String, why: String) -> Self {
        let place = Place { file, spot: None, order: 0 };
        Self { title: "cannot read this configuration".to_owned(), label: why, place: Some(place) }
    }

    /// The order in which problems are shown: as written.
    pub(super) fn place(&self) -> usize {
        self.place.as_ref().map_or(0, |place| place.order)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { title, label, place } = self;
        write!(out, "error: {title}")?;
        let Some(Place { file, spot, .. }) = place else {
            return if label.is_empty() { Ok(()) } else { write!(out, "\n  = {label}") };
        };
        let Some(Spot { line, column, width, text }) = spot else {
            write!(out, "\n  --> {file}")?;
            return if label.is_empty() { Ok(()) } else { write!(out, "\n   = {label}") };
        };
        let number = line.to_string();
        let gutter = " ".repeat(number.len() + 1);
        // Tabs before the carets keep them under what they mean.
        let indent: String =
            text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(*width);
        write!(out, "\n{gutter}--> {file}:{line}:{column}")?;
        write!(out, "\n{gutter} |\n {number} | {text}\n{gutter} | {indent}{carets}")?;
        if label.is_empty() { Ok(()) } else { write!(out, " {label}") }
    }
}

/// What serde found, taken from its message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Unknown { name: String, known: Vec<String> },
    Variant { value: String, known: Vec<String> },
    Missing(String),
    Type { found: String, expected: String },
    Other(String),
}

impl Finding {
    /// Reads a message of `serde::de::Error`. Its wording is fixed by serde's documentation.
    pub(super) fn of(message: &str) -> Self {
        let names =
            |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
        let parts = message.split_once(", expected ");
        if let Some(rest) = message.strip_prefix("unknown field `") {
            let name = rest.split('`').next().unwrap_or_default().to_owned();
            return Self::Unknown { name, known: parts.map(|(_, known)| names(known)).unwrap_or_default() };
        }
        if let Some(rest) = message.strip_prefix("unknown variant `") {
            let value = rest.split('`').next().unwrap_or_default().to_owned();
            return Self::Variant { value, known: parts.map(|(_, known)| names(known)).unwrap_or_default() };
        }
        if let Some(rest) = message.strip_prefix("missing field `") {
            return Self::Missing(rest.trim_end_matches('`').to_owned());
        }
        let mismatch = message.strip_prefix("invalid ").and_then(|rest| rest.split_once(": "));
        if let (Some((_, rest)), Some((_, expected))) = (mismatch, parts) {
            let found = rest.strip_suffix(&format!(", expected {expected}")).unwrap_or(rest);
            return Self::Type { found: plain_value(found), expected: plain_type(expected) };
        }
        Self::Other(message.to_owned())
    }

    /// Whether the key is wrong, and not its value.
    pub(super) fn is_about_key(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    /// For an unknown name, the one that was probably meant.
    pub(super) fn meant(&self) -> Option<String> {
        let (Self::Unknown { name: word, known } | Self::Variant { value: word, known }) = self else {
            return None;
        };
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        closest(word, &known).map(str::to_owned)
    }

    /// What is wrong; `key` is the entry it is about.
    pub(super) fn title(&self, key: Option<&str>) -> String {
        match (self, key) {
            (Self::Unknown { name, .. }, _) => format!("unknown setting `{name}`"),
            (Self::Variant { value, .. }, Some(key)) => format!("`{key}` cannot be `{value}`"),
            (Self::Variant { value, .. }, None) => format!("unknown value `{value}`"),
            (Self::Missing(name), _) => format!("missing setting `{name}`"),
            (Self::Type { .. }, Some(key)) => format!("wrong type for `{key}`"),
            (Self::Other(_), Some(key)) => format!("wrong value for `{key}`"),
            (Self::Type { .. } | Self::Other(_), None) => "wrong value".to_owned(),
        }
    }

    /// What was expected.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Unknown { known, .. } | Self::Variant { known, .. } => match self.meant() {
                Some(name) => format!("expected `{name}`"),
                None => one_of(known),
            },
            Self::Missing(name) => format!("expected `{name}`"),
            Self::Type { found, expected } => format!("expected {expected}, found {found}"),
            Self::Other(message) => message.clone(),
        }
    }
}

fn one_of(names: &[String]) -> String {
    let listed: Vec<String> = names.iter().take(MOST_NAMES).map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "no setting is expected here".to_owned(),
        1 => format!("expected {}", listed.concat()),
        2..=MOST_NAMES => format!("expected one of {}", listed.join(", ")),
        _ => format!("expected one of {} …", listed.join(", ")),
    }
}

/// Serde's names of Rust types in words that a person who writes TOML uses.
fn plain_type(expected: &str) -> String {
    let words = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, not negative",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        "a string" => "text in quotes",
        "a duration" => "a time with its unit, like \"10s\"",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    words.to_owned()
}

/// Serde's names of what it found, likewise.
fn plain_value(found: &str) -> String {
    for (serde, plain) in
        [("string ", "the text "), ("integer ", ""), ("floating point ", ""), ("boolean ", "")]
    {
        if let Some(value) = found.strip_prefix(serde) {
            return format!("{plain}{}", value.trim_matches('`'));
        }
    }
    match found {
        "sequence" => "a list".to_owned(),
        "map" => "a table".to_owned(),
        other => other.to_owned(),
    }
}
