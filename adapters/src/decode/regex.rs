use std::collections::BTreeMap;

use regex_lite::Regex;
use serde::{Deserialize, Deserializer, de};

use super::{DecodeError, ScalarType, point};
use crate::{Point, PointName};

/// A regular expression with at least one named group, every group's name a point's name.
#[derive(Debug, Clone)]
pub struct Pattern {
    expression: Regex,
    groups: Vec<PointName>,
}

impl Pattern {
    fn new(text: &str) -> Result<Self, String> {
        let expression = Regex::new(text).map_err(|error| error.to_string())?;
        let groups = expression
            .capture_names()
            .flatten()
            .map(|name| name.parse().map_err(|error| format!("group {name:?}: {error}")))
            .collect::<Result<Vec<_>, _>>()?;
        if groups.is_empty() {
            return Err("the pattern has no named group, as in (?<weight>[0-9]+)".to_owned());
        }
        Ok(Self { expression, groups })
    }

    /// The names of the points that the pattern can give.
    pub fn groups(&self) -> &[PointName] {
        &self.groups
    }

    /// The points in `text`.
    pub(super) fn points(
        &self,
        text: &str,
        types: &BTreeMap<PointName, ScalarType>,
    ) -> Result<Vec<Point>, DecodeError> {
        let captures = self.expression.captures(text).ok_or(DecodeError::NoMatch)?;
        self.groups
            .iter()
            .filter_map(|name| captures.name(name.as_str()).map(|found| (name, found.as_str())))
            .map(|(name, found)| {
                let kind = types.get(name).copied().unwrap_or_default();
                Ok(point(name.clone(), kind.read(name, found)?))
            })
            .collect()
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;

    #[test]
    fn named_groups_are_points() {
        let pattern = Pattern::new(r"^(?<gross>[+-][0-9.]+)\s*(?<unit>kg|lb)(?<stable> S)?").unwrap();
        let types = BTreeMap::from([("gross".parse().unwrap(), ScalarType::F64)]);
        let points = pattern.points("+12.50 kg", &types).unwrap();
        assert_eq!(points.len(), 2, "a group that took no part is no point");
        assert_eq!(points[0].value, Value::Float(12.5));
        assert_eq!(points[1].value, Value::Text("kg".into()));
        assert_eq!(pattern.points("overload", &types), Err(DecodeError::NoMatch));
        assert!(matches!(pattern.points("+1.2.3 kg", &types), Err(DecodeError::WrongType { .. })));
    }

    #[test]
    fn a_pattern_that_can_give_no_points_is_refused() {
        assert!(Pattern::new("[0-9]+").unwrap_err().contains("named group"));
        assert!(Pattern::new("(?<Gross>[0-9]+)").unwrap_err().contains("Gross"));
        assert!(Pattern::new("(?<a>").is_err());
    }
}
