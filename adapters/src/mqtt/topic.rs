//! Topics, the filters that match them, and what a route captures of them (MQTT 5.0 §4.7).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// Why a text is no topic filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    /// It is empty, or longer than MQTT can carry.
    #[error("a topic has 1 to 65535 bytes")]
    Length,
    /// It has a NUL in it.
    #[error("a topic cannot have a NUL in it")]
    Nul,
    /// `#` stands before the end, or `+` or `#` is only a part of a level.
    #[error("`+` and `#` stand for whole levels, and `#` only for the last: {level:?}")]
    Wildcard {
        /// The level it stands in.
        level: String,
    },
    /// A name in braces is only a part of a level, empty, or not letters, digits and `_`.
    #[error("a capture is a whole level, as in `site/{{dev}}/env`: {level:?}")]
    Capture {
        /// The level it stands in.
        level: String,
    },
    /// Two captures have one name.
    #[error("{{{name}}} stands in the topic twice")]
    Twice {
        /// The name.
        name: String,
    },
}

/// Whether `topic` is one that a message can be published to.
pub(crate) fn is_topic_name(topic: &str) -> bool {
    (1..=65_535).contains(&topic.len()) && !topic.contains(['+', '#', '\0'])
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Text(String),
    /// `+`
    One,
    /// `#`
    Rest,
}

/// A topic filter, with its wildcards `+` and `#`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFilter {
    levels: Vec<Level>,
}

impl TopicFilter {
    /// Whether messages of this topic are meant.
    pub fn matches(&self, topic: &str) -> bool {
        // Wildcards do not reach the server's own topics (MQTT 5.0 §4.7.2).
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Text(_))) {
            return false;
        }
        let mut topic = topic.split('/');
        for level in &self.levels {
            match (level, topic.next()) {
                (Level::Rest, _) => return true,
                (Level::One, Some(_)) => {}
                (Level::Text(text), Some(found)) if text == found => {}
                (Level::One | Level::Text(_), _) => return false,
            }
        }
        topic.next().is_none()
    }

    /// Whether some topic matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut pairs = (0..).map(|at| (self.levels.get(at), other.levels.get(at)));
        pairs
            .find_map(|pair| match pair {
                (Some(Level::Rest), _) | (_, Some(Level::Rest)) | (None, None) => Some(true),
                (None, Some(_)) | (Some(_), None) => Some(false),
                (Some(Level::Text(one)), Some(Level::Text(two))) => (one != two).then_some(false),
                (Some(Level::One), _) | (_, Some(Level::One)) => None,
            })
            .expect("both filters end")
    }
}

impl FromStr for TopicFilter {
    type Err = InvalidTopic;

    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        if !(1..=65_535).contains(&text.len()) {
            return Err(InvalidTopic::Length);
        }
        if text.contains('\0') {
            return Err(InvalidTopic::Nul);
        }
        let count = text.split('/').count();
        let levels = text
            .split('/')
            .enumerate()
            .map(|(at, level)| match level {
                "+" => Ok(Level::One),
                "#" if at + 1 == count => Ok(Level::Rest),
                _ if level.contains(['+', '#']) => Err(InvalidTopic::Wildcard { level: level.to_owned() }),
                _ => Ok(Level::Text(level.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { levels })
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, level) in self.levels.iter().enumerate() {
            let slash = if at == 0 { "" } else { "/" };
            let text = match level {
                Level::Text(text) => text,
                Level::One => "+",
                Level::Rest => "#",
            };
            write!(f, "{slash}{text}")?;
        }
        Ok(())
    }
}

/// A topic filter in which `{name}` stands for one level and remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern {
    filter: TopicFilter,
    /// The names, and at which level each stands.
    captures: Vec<(String, usize)>,
}

impl TopicPattern {
    /// What to subscribe to: every capture is a `+`.
    pub fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// Whether the pattern has a capture of this name.
    pub fn has(&self, name: &str) -> bool {
        self.captures.iter().any(|(capture, _)| capture == name)
    }

    /// What `name` stands for in `topic`, which matches.
    pub fn captured<'t>(&self, name: &str, topic: &'t str) -> Option<&'t str> {
        let (_, level) = self.captures.iter().find(|(capture, _)| capture == name)?;
        topic.split('/').nth(*level)
    }
}

impl FromStr for TopicPattern {
    type Err = InvalidTopic;

    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        let mut captures: Vec<(String, usize)> = Vec::new();
        let mut levels = Vec::new();
        for (at, level) in text.split('/').enumerate() {
            let Some(name) = capture_name(level)? else {
                levels.push(level);
                continue;
            };
            if captures.iter().any(|(other, _)| other == name) {
                return Err(InvalidTopic::Twice { name: name.to_owned() });
            }
            captures.push((name.to_owned(), at));
            levels.push("+");
        }
        Ok(Self { filter: levels.join("/").parse()?, captures })
    }
}

/// The name in a level that is a capture.
fn capture_name(level: &str) -> Result<Option<&str>, InvalidTopic> {
    if !level.contains(['{', '}']) {
        return Ok(None);
    }
    level
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        .map(Some)
        .ok_or_else(|| InvalidTopic::Capture { level: level.to_owned() })
}

impl<'de> Deserialize<'de> for TopicPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        text.parse().unwrap()
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        for (pattern, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/load", false),
            ("+/monitor", "$SYS/monitor", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("a", "A", false),
        ] {
            assert_eq!(filter(pattern).matches(topic), expected, "{pattern} on {topic}");
        }
    }

    #[test]
    fn wrong_filters_are_refused() {
        for text in ["", "sport/#/ranking", "sport+", "a/b#", "a\0b"] {
            assert!(text.parse::<TopicFilter>().is_err(), "{text:?} was taken");
        }
        assert!("x".repeat(65_536).parse::<TopicFilter>().is_err());
    }

    #[test]
    fn overlaps_are_found() {
        for (one, two, expected) in [
            ("a/+/c", "a/b/+", true),
            ("a/+/c", "a/b/d", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/b", "a/b/c", false),
            ("+/x", "y/+", true),
        ] {
            assert_eq!(filter(one).overlaps(&filter(two)), expected, "{one} and {two}");
            assert_eq!(filter(two).overlaps(&filter(one)), expected, "{two} and {one}");
        }
    }

    #[test]
    fn captures_remember_their_level() {
        let pattern: TopicPattern = "factory/{line}/{dev}/env".parse().unwrap();
        assert_eq!(pattern.filter().to_string(), "factory/+/+/env");
        assert_eq!(pattern.captured("dev", "factory/a/boiler/env"), Some("boiler"));
        assert!(pattern.has("line") && !pattern.has("site"));
    }

    #[test]
    fn wrong_captures_are_refused() {
        for text in ["a/{}/b", "a/x{dev}", "a/{dev", "a/{d v}", "{a}/{a}"] {
            assert!(text.parse::<TopicPattern>().is_err(), "{text:?} was taken");
        }
    }
}
