//! The merged document: where everything in it was written, and which entry an error is about.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Error, ValueDeserializer};

/// Keys that choose the variant of an enum. Leaving one out changes every error of its table, so they
/// are suspected last.
const TAGS: [&str; 3] = ["type", "kind", "as"];

/// What happens to a value that an earlier page has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Twice {
    /// It must be the same.
    Refused,
    /// The later one holds.
    Replaces,
}

/// A step from a table or an array to what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::Key(name) => Some(name),
            Self::Index(_) => None,
        }
    }
}

/// The tables of all pages, merged.
#[derive(Debug, Clone)]
pub(super) struct Document<'a> {
    root: Spanned<DeValue<'a>>,
}

impl Default for Document<'_> {
    fn default() -> Self {
        Self { root: Spanned::new(0..0, DeValue::Table(DeTable::new())) }
    }
}

impl<'a> Document<'a> {
    /// Adds a page. Returns where it contradicts the pages before.
    pub(super) fn merge(&mut self, page: DeTable<'a>, twice: Twice) -> Vec<Range<usize>> {
        let mut contradictions = Vec::new();
        if let DeValue::Table(root) = self.root.get_mut() {
            merge(root, page, twice, &mut contradictions);
        }
        contradictions
    }

    /// What serde makes of it.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(ValueDeserializer::from(self.root.clone()))
    }

    /// The entry that `error`, from [`Self::read`], is about; empty for the whole document.
    ///
    /// Serde says where, except inside a tagged enum: it reads the whole table first and then knows no
    /// positions. So within that table, entries are left out one after the other: without the culprit
    /// the error is gone or another one.
    pub(super) fn culprit<T: DeserializeOwned>(&self, error: &Error) -> Vec<Step> {
        let mut path = Vec::new();
        let Some(span) = error.span().filter(|span| !span.is_empty()) else { return path };
        if !find(&self.root, &span, &mut path) {
            return path;
        }
        if self.key_span(&path) == span {
            return path;
        }
        let missing = error.message().starts_with("missing field");
        'narrow: loop {
            for step in children(self.at(&path)) {
                let mut inner = path.clone();
                inner.push(step);
                // Only a table can lack a field; leaving out a value might make one more missing.
                if missing && children(self.at(&inner)).is_empty() {
                    continue;
                }
                let mut without = self.clone();
                without.remove(&inner);
                let same = without
                    .read::<T>()
                    .err()
                    .is_some_and(|other| other.message() == error.message() && other.span() == error.span());
                if !same {
                    path = inner;
                    continue 'narrow;
                }
            }
            return path;
        }
    }

    /// Leaves out the entry at `path`; false if there is none.
    pub(super) fn remove(&mut self, path: &[Step]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        let mut node = self.root.get_mut();
        for step in parents {
            let inner = match (step, node) {
                (Step::Key(name), DeValue::Table(table)) => table.get_mut(name.as_str()),
                (Step::Index(index), DeValue::Array(array)) => array.get_mut(*index),
                _ => None,
            };
            let Some(inner) = inner else { return false };
            node = inner.get_mut();
        }
        match (last, node) {
            (Step::Key(name), DeValue::Table(table)) => table.remove(name.as_str()).is_some(),
            (Step::Index(index), DeValue::Array(array)) => {
                let mut rest = DeArray::new();
                for (at, item) in array.iter().enumerate() {
                    if at != *index {
                        rest.push(item.clone());
                    }
                }
                let removed = rest.len() < array.len();
                *array = rest;
                removed
            }
            _ => false,
        }
    }

    /// Where the value at `path` was written, or the innermost part of the way that exists.
    pub(super) fn value_span(&self, path: &[Step]) -> Range<usize> {
        self.at(path).span()
    }

    /// Where the key of the entry at `path` was written; the value, if it has no key.
    pub(super) fn key_span(&self, path: &[Step]) -> Range<usize> {
        if let Some((Step::Key(name), parents)) = path.split_last()
            && let DeValue::Table(table) = self.at(parents).get_ref()
            && let Some((key, _)) = table.get_key_value(name.as_str())
        {
            return key.span();
        }
        self.value_span(path)
    }

    fn at(&self, path: &[Step]) -> &Spanned<DeValue<'a>> {
        let mut node = &self.root;
        for step in path {
            let inner = match (step, node.get_ref()) {
                (Step::Key(name), DeValue::Table(table)) => table.get(name.as_str()),
                (Step::Index(index), DeValue::Array(array)) => array.get(*index),
                _ => None,
            };
            let Some(inner) = inner else { break };
            node = inner;
        }
        node
    }
}

fn merge<'a>(
    into: &mut DeTable<'a>,
    page: DeTable<'a>,
    twice: Twice,
    contradictions: &mut Vec<Range<usize>>,
) {
    for (key, value) in page {
        match into.get_mut(key.get_ref().as_ref()) {
            None => {
                into.insert(key, value);
            }
            Some(old) => match (old.get_mut(), value) {
                (DeValue::Table(old), new) if new.get_ref().is_table() => {
                    if let DeValue::Table(new) = new.into_inner() {
                        merge(old, new, twice, contradictions);
                    }
                }
                (_, new) if twice == Twice::Replaces => *old = new,
                (old, new) if agree(old, new.get_ref()) => {}
                _ => contradictions.push(key.span()),
            },
        }
    }
}

fn agree(a: &DeValue<'_>, b: &DeValue<'_>) -> bool {
    match (a, b) {
        (DeValue::String(a), DeValue::String(b)) => a == b,
        (DeValue::Boolean(a), DeValue::Boolean(b)) => a == b,
        (DeValue::Integer(a), DeValue::Integer(b)) => a.as_str() == b.as_str() && a.radix() == b.radix(),
        _ => false,
    }
}

/// Walks to the entry whose key or value stands at `span`.
fn find(node: &Spanned<DeValue<'_>>, span: &Range<usize>, path: &mut Vec<Step>) -> bool {
    let mut steps_to = |step: Step, key: Range<usize>, value: &Spanned<DeValue<'_>>| {
        path.push(step);
        if key == *span || value.span() == *span || find(value, span, path) {
            return true;
        }
        path.pop();
        false
    };
    if let DeValue::Table(table) = node.get_ref() {
        table.iter().any(|(key, value)| steps_to(Step::Key(key.get_ref().to_string()), key.span(), value))
    } else if let DeValue::Array(array) = node.get_ref() {
        array.iter().enumerate().any(|(index, value)| steps_to(Step::Index(index), value.span(), value))
    } else {
        false
    }
}

/// The steps into a table or an array, in the order of suspicion.
fn children(node: &Spanned<DeValue<'_>>) -> Vec<Step> {
    if let DeValue::Table(table) = node.get_ref() {
        let steps = table.keys().map(|key| Step::Key(key.get_ref().to_string()));
        let (tags, others): (Vec<_>, Vec<_>) =
            steps.partition(|step| step.key().is_some_and(|name| TAGS.contains(&name)));
        others.into_iter().chain(tags).collect()
    } else if let DeValue::Array(array) = node.get_ref() {
        (0..array.len()).map(Step::Index).collect()
    } else {
        Vec::new()
    }
}
