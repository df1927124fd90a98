//! One line for each figure: what was measured, its limit, its bar.

use serde_json::{Value, json};

use crate::meter::Pair;

/// Says what is being done, while it takes long.
#[expect(clippy::print_stderr, reason = "a person waits")]
pub(crate) fn progress(what: std::fmt::Arguments<'_>) {
    eprintln!("… {what}");
}

/// What a figure has to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    /// The ratio to the limit, at most.
    RatioAtMost(f64),
    /// The ratio to the limit, at least.
    RatioAtLeast(f64),
    /// The figure itself, at most.
    AtMost(f64),
    /// Only told.
    None,
}

/// A figure.
#[derive(Debug)]
pub(crate) struct Row {
    /// What it belongs to: a number of the table of goals, or a curve.
    row: &'static str,
    what: String,
    unit: &'static str,
    measured: f64,
    limit: f64,
    ratio: f64,
    bar: Bar,
    /// Further figures, by name.
    more: Vec<(String, f64)>,
}

impl Row {
    /// A figure and the limit it was measured against.
    pub(crate) fn of(
        row: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        pair: Pair,
        bar: Bar,
    ) -> Self {
        let Pair { ours, limit, ratio } = pair;
        Self { row, what: what.into(), unit, measured: ours, limit, ratio, bar, more: Vec::new() }
    }

    /// A figure without a limit of the same kind.
    pub(crate) fn alone(
        row: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        figure: f64,
        bar: Bar,
    ) -> Self {
        Self::of(row, what, unit, Pair { ours: figure, limit: f64::NAN, ratio: f64::NAN }, bar)
    }

    /// Further figures, by name; of a curve its points, by size.
    pub(crate) fn more(&self) -> &[(String, f64)] {
        &self.more
    }

    /// A cost that grows: its last point against its first, at most `bar` times as much.
    pub(crate) fn curve(
        what: impl Into<String>,
        unit: &'static str,
        points: &[(usize, f64)],
        ratio: f64,
        bar: f64,
    ) -> Self {
        let (first, last) =
            (points.first().map_or(0.0, |first| first.1), points.last().map_or(0.0, |last| last.1));
        let pair = Pair { ours: last, limit: first, ratio };
        let mut row = Self::of("curve", what, unit, pair, Bar::RatioAtMost(bar));
        row.more = points.iter().map(|(size, cost)| (size.to_string(), *cost)).collect();
        row
    }

    /// The same, with a further figure.
    pub(crate) fn and(mut self, name: &str, figure: f64) -> Self {
        self.more.push((name.to_owned(), figure));
        self
    }

    /// Whether the bar is reached.
    pub(crate) fn passes(&self) -> bool {
        match self.bar {
            Bar::RatioAtMost(bar) => self.ratio <= bar,
            Bar::RatioAtLeast(bar) => self.ratio >= bar,
            Bar::AtMost(bar) => self.measured <= bar,
            Bar::None => true,
        }
    }

    fn bar(&self) -> String {
        match self.bar {
            Bar::RatioAtMost(bar) => format!("ratio <= {bar}"),
            Bar::RatioAtLeast(bar) => format!("ratio >= {bar}"),
            Bar::AtMost(bar) => format!("<= {bar} {}", self.unit),
            Bar::None => "none".to_owned(),
        }
    }

    /// As one JSON object.
    pub(crate) fn json(&self) -> Value {
        let mut line = json!({
            "row": self.row, "what": self.what, "unit": self.unit, "measured": short(self.measured),
            "limit": short(self.limit), "ratio": short(self.ratio), "bar": self.bar(), "pass": self.passes(),
        });
        for (name, figure) in &self.more {
            line[name] = short(*figure).into();
        }
        line
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let verdict = if self.passes() { "pass" } else { "MISS" };
        let more: String =
            self.more.iter().map(|(name, figure)| format!("  {name}: {}", short(*figure))).collect();
        format!(
            "{verdict}  {:6} {:46} {:>11} {:9} limit {:>11}  ratio {:>7}  bar {}{more}",
            self.row,
            self.what,
            short(self.measured),
            self.unit,
            short(self.limit),
            short(self.ratio),
            self.bar(),
        )
    }
}

/// Four digits that count.
fn short(figure: f64) -> f64 {
    if figure == 0.0 || !figure.is_finite() {
        return figure;
    }
    #[expect(clippy::cast_possible_truncation, reason = "an exponent")]
    let scale = 10_f64.powi(3 - figure.abs().log10().floor() as i32);
    (figure * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_for_the_ratio_or_the_figure() {
        let pair = Pair { ours: 30.0, limit: 20.0, ratio: 1.5 };
        let passes = |bar| Row::of("3", "x", "us", pair, bar).passes();
        assert!(passes(Bar::RatioAtMost(1.5)) && !passes(Bar::RatioAtMost(1.4)));
        assert!(passes(Bar::RatioAtLeast(1.5)) && !passes(Bar::RatioAtLeast(1.6)));
        assert!(passes(Bar::AtMost(30.0)) && !passes(Bar::AtMost(29.0)) && passes(Bar::None));
    }

    #[test]
    fn a_curve_tells_its_points() {
        let row = Row::curve("keys", "us", &[(1, 10.0), (100, 12.344)], 1.234_56, 1.5);
        let json = row.json();
        assert_eq!(
            (&json["100"], &json["ratio"], &json["pass"]),
            (&12.34.into(), &1.235.into(), &true.into())
        );
    }
}
