//! Configuration from several TOML files and the environment, with errors that point at the line.
//!
//! The files of one daemon are one document: tables of the same name merge, whatever file they are in
//! and in whatever order, and files may not disagree about a value. The environment has the last word:
//! `ATEDGE__OUTBOX__MAX=1MiB` sets `max` in `[outbox]`.
//!
//! Every source is parsed with the positions of its parts, and the merged document keeps them, so what
//! serde finds wrong is shown where it was written.

mod closest;
mod document;
mod problem;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use config::{Environment, Source as _};
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use document::{Document, Step, Twice};
pub use problem::Told;
use problem::{Finding, Problem};

/// How many problems are reported at once.
const MOST_PROBLEMS: usize = 20;

/// Everything that is wrong with a configuration, each with its place.
///
/// `Display` is what a person reads: per problem the message, the place, the line and what was
/// expected, and at the end how many there are.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// All of `errors` as one, in the order in which they are written, each once.
    ///
    /// # Errors
    /// When there is one at least.
    pub fn all(errors: impl IntoIterator<Item = Self>) -> Result<(), Self> {
        let mut problems: Vec<Problem> = errors.into_iter().flat_map(|error| error.problems).collect();
        problems.sort_by_key(Problem::place);
        problems.dedup();
        problems.truncate(MOST_PROBLEMS);
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }

    /// Each problem, for machines.
    pub fn problems(&self) -> impl Iterator<Item = Told<'_>> {
        self.problems.iter().map(Problem::told)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(out, "{problem}")?;
        }
        let count = self.problems.len();
        let noun = if count == 1 { "error" } else { "errors" };
        write!(out, "{count} {noun}. The running configuration is unchanged.")
    }
}

/// Reads `files` and the environment variables that begin with `prefix` and `__` into a `T`.
///
/// # Errors
/// When a file cannot be read or is not TOML, when two files disagree, and for all that `T` refuses.
pub fn load<T: DeserializeOwned>(files: &[PathBuf], prefix: &str) -> Result<T, ConfigError> {
    Sources::read(files, prefix)?.parse()
}

/// `main` itself and, sorted by name, the `*.toml` of the folder beside it that ends in `.d`:
/// `agent.toml`, `agent.d/boiler.toml`, `agent.d/shop.toml`.
pub fn layered(main: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = std::fs::read_dir(main.with_extension("d"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    parts.sort();
    parts.insert(0, main.to_owned());
    parts
}

/// Sources that are TOML and do not disagree. Kept by who checks more than types can and wants to point
/// at the line as well: see [`Sources::complaint`].
#[derive(Debug, Default)]
pub struct Sources {
    pages: Vec<Page>,
}

/// One file or one environment variable.
#[derive(Debug)]
struct Page {
    name: String,
    /// The source behind as many spaces as the pages before it are long, so that a position in the
    /// document says which page it is on.
    padded: String,
    /// Where the source begins.
    start: usize,
    twice: Twice,
}

impl Sources {
    /// Reads the files and the environment; `prefix` as in [`load`].
    ///
    /// # Errors
    /// When a file cannot be read or is not TOML, or two files disagree.
    pub fn read(files: &[PathBuf], prefix: &str) -> Result<Self, ConfigError> {
        Self::read_with(files, Environment::with_prefix(prefix))
    }

    fn read_with(files: &[PathBuf], environment: Environment) -> Result<Self, ConfigError> {
        let mut sources = Self::default();
        let mut problems = Vec::new();
        for path in files {
            let name = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(text) => sources.add(name, &text, Twice::Refused),
                Err(error) => problems.push(Problem::in_file(name, error.to_string())),
            }
        }
        for (name, text) in overrides(environment)? {
            sources.add(name, &text, Twice::Replaces);
        }
        problems.extend(sources.document().1);
        if problems.is_empty() { Ok(sources) } else { Err(ConfigError { problems }) }
    }

    fn add(&mut self, name: String, text: &str, twice: Twice) {
        let start = self.pages.last().map_or(0, |page| page.padded.len());
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        self.pages.push(Page { name, padded: " ".repeat(start) + text + "\n", start, twice });
    }

    /// Makes a checked `T` of the document.
    ///
    /// # Errors
    /// With everything that `T` refuses, up to twenty problems.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let (mut document, mut problems) = self.document();
        let mut left_out = Vec::new();
        // A culprit is reported, left out, and what is left is tried again: one run names them all.
        while problems.len() < MOST_PROBLEMS {
            let error = match document.read::<T>() {
                Ok(value) if problems.is_empty() => return Ok(value),
                Ok(_) => break,
                Err(error) => error,
            };
            let finding = Finding::of(error.message());
            let at = document.culprit::<T>(&error);
            // What was left out, or misspelt, is missed, but was reported already.
            if !matches!(&finding, Finding::Missing(name) if left_out.contains(name)) {
                problems.push(self.problem(&document, &at, &finding));
            }
            left_out.extend(at.last().and_then(Step::key).map(str::to_owned));
            left_out.extend(finding.meant());
            if !document.remove(&at) {
                break;
            }
        }
        problems.sort_by_key(Problem::place);
        Err(ConfigError { problems })
    }

    /// The error for the value at `path` (`["adapter", "shop", "url"]`) that is well-formed but makes no
    /// sense: `title` says what is wrong, `expected` what to write instead (may be empty). If the value
    /// is absent, the innermost table on the way is shown.
    pub fn complaint(&self, path: &[&str], title: &str, expected: &str) -> ConfigError {
        let steps: Vec<Step> = path.iter().map(|name| Step::Key((*name).to_owned())).collect();
        let span = self.document().0.value_span(&steps);
        ConfigError { problems: vec![self.place(span, title.to_owned(), expected.to_owned())] }
    }

    /// The merged document, and what is wrong with it as TOML.
    fn document(&self) -> (Document<'_>, Vec<Problem>) {
        let mut document = Document::default();
        let mut problems = Vec::new();
        for page in &self.pages {
            match DeTable::parse(&page.padded) {
                Ok(table) => {
                    problems.extend(document.merge(table.into_inner(), page.twice).into_iter().map(|span| {
                        let label = "another file says otherwise".to_owned();
                        self.place(span, "this is set twice".to_owned(), label)
                    }))
                }
                Err(error) => {
                    let span = error.span().unwrap_or(page.start..page.start);
                    let title = "this is not TOML".to_owned();
                    problems.push(self.place(span, title, error.message().to_owned()));
                }
            }
        }
        (document, problems)
    }

    fn problem(&self, document: &Document<'_>, at: &[Step], finding: &Finding) -> Problem {
        let span = if finding.is_about_key() { document.key_span(at) } else { document.value_span(at) };
        let key = at.iter().rev().find_map(Step::key);
        self.place(span, finding.title(key), finding.label())
    }

    fn place(&self, span: Range<usize>, title: String, label: String) -> Problem {
        match self.pages.iter().rev().find(|page| page.start <= span.start) {
            Some(page) => Problem::at(&page.name, &page.padded, page.start, span, title, label),
            None => Problem { title, label, place: None },
        }
    }
}

/// One line of TOML per environment variable, named after it.
fn overrides(environment: Environment) -> Result<Vec<(String, String)>, ConfigError> {
    let environment = environment.prefix_separator("__").separator("__").keep_prefix(true);
    let variables = environment.collect().map_err(|error| ConfigError {
        problems: vec![Problem::in_file("environment".to_owned(), error.to_string())],
    })?;
    let mut lines: Vec<_> = variables
        .into_iter()
        .filter_map(|(key, value)| {
            let value = value.into_string().ok()?;
            // A TOML value, or else the text itself: `5`, `["@a"]` and `5s` all mean what they say.
            let literal = match DeValue::parse(&value) {
                Ok(_) => value,
                Err(_) => toml::Value::String(value).to_string(),
            };
            let (_prefix, path) = key.split_once('.')?;
            Some((key.to_uppercase().replace('.', "__"), format!("{path} = {literal}")))
        })
        .collect();
    lines.sort();
    Ok(lines)
}

#[cfg(test)]
mod tests;
