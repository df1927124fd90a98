//! What is left of many values of one point. Pure.

use serde::Deserialize;

use crate::{Point, PointName, Value};

/// What is reported of the numbers in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Summary {
    /// Their mean.
    Mean,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The one said last.
    Last,
}

/// What was said of a point.
#[derive(Debug)]
pub struct Sum {
    unit: Option<String>,
    last: Value,
    /// Of the numbers; nothing where there was none.
    numbers: Option<Numbers>,
}

#[derive(Debug, Clone, Copy)]
struct Numbers {
    count: f64,
    mean: f64,
    min: f64,
    max: f64,
}

impl Numbers {
    fn with(before: Option<Self>, number: f64) -> Self {
        let Some(Self { count, mean, min, max }) = before else {
            return Self { count: 1.0, mean: number, min: number, max: number };
        };
        let count = count + 1.0;
        // The halves keep what is between two large numbers from being too large.
        let mean = mean + 2.0 * ((number / 2.0 - mean / 2.0) / count);
        Self { count, mean, min: min.min(number), max: max.max(number) }
    }
}

impl Sum {
    /// Of one value.
    pub fn of(point: &Point) -> Self {
        let numbers = number(&point.value).map(|number| Numbers::with(None, number));
        Self { unit: point.unit.clone(), last: point.value.clone(), numbers }
    }

    /// And one more.
    pub fn add(&mut self, value: &Value) {
        self.numbers = number(value).map(|number| Numbers::with(self.numbers, number)).or(self.numbers);
        self.last.clone_from(value);
    }

    /// What `with` says of the numbers, as `NAME_mean` and so on, with the last by the name itself. Without
    /// numbers, and where the name has no room for more, it is the last value alone.
    pub fn points(self, name: &PointName, with: &[Summary]) -> Vec<Point> {
        let Self { unit, last, numbers } = self;
        let alone = Point { name: name.clone(), value: last.clone(), unit: unit.clone() };
        let Some(numbers) = numbers else { return vec![alone] };
        let of = |summary: &Summary| {
            let (suffix, value) = match summary {
                Summary::Mean => ("_mean", Value::Float(numbers.mean)),
                Summary::Min => ("_min", Value::Float(numbers.min)),
                Summary::Max => ("_max", Value::Float(numbers.max)),
                Summary::Last => ("", last.clone()),
            };
            let name = format!("{name}{suffix}").parse().ok()?;
            Some(Point { name, value, unit: unit.clone() })
        };
        with.iter().map(of).collect::<Option<_>>().unwrap_or_else(|| vec![alone])
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number).filter(|number| number.is_finite()),
        Value::Integer(number) => Some(*number as f64),
        Value::Bool(_) | Value::Text(_) | Value::Data { .. } => None,
    }
}
