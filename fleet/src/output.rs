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

    /// Prints what only people want to read.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn remark(self, text: impl FnOnce() -> String) -> io::Result<()> {
        if self.json { Ok(()) } else { self.say(text, || Value::Null) }
    }
}
