//! What a command prints: for people, or one JSON object a line.

use std::io::{self, Write as _};

use serde_json::Value;

/// Where a command's answers go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// For machines if `json`, else for people.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints one answer, in the form that was asked for, and flushes: readers wait for lines.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn say(self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> io::Result<()> {
        let line = if self.json { json().to_string() } else { text() };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    /// Prints answers that came together, likewise, and flushes once.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn say_all<T>(
        self,
        answers: impl IntoIterator<Item = T>,
        text: impl Fn(&T) -> String,
        json: impl Fn(&T) -> Value,
    ) -> io::Result<()> {
        let line = |answer| if self.json { json(&answer).to_string() } else { text(&answer) };
        let lines: String = answers.into_iter().map(|answer| line(answer) + "\n").collect();
        let mut out = io::stdout().lock();
        out.write_all(lines.as_bytes())?;
        out.flush()
    }

    /// Prints what only people want to read.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn remark(self, text: impl FnOnce() -> String) -> io::Result<()> {
        if self.json { Ok(()) } else { self.say(text, || Value::Null) }
    }
}
