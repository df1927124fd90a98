//! Structured entries through libsystemd: every field of an event becomes a field of the journal, so
//! `journalctl PEER=@alice` finds it. Behind the feature `libsystemd`, which the packages do not turn on:
//! it links a C library that a cross build does not have.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::prelude::*;

use super::{Started, priority};

pub(super) fn start(filter: Targets) -> Started {
    tracing_subscriber::registry().with(filter).with(JournalLayer).try_init().map_err(Into::into)
}

/// Sends every event to the journal.
struct JournalLayer;

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let entry = entry(event);
        let fields: Vec<&str> = entry.iter().map(String::as_str).collect();
        // Who logs cannot do anything about a log that is not taken.
        systemd::journal::send(&fields).ok();
    }
}

fn entry(event: &Event<'_>) -> Vec<String> {
    let metadata = event.metadata();
    let mut fields = Fields(vec![
        format!("PRIORITY={}", priority(*metadata.level())),
        format!("TARGET={}", metadata.target()),
    ]);
    event.record(&mut fields);
    fields.0
}

struct Fields(Vec<String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push(format!("{}={value}", journal_name(field.name())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut line = journal_name(field.name());
        // Writing to a `String` does not fail.
        write!(line, "={value:?}").ok();
        self.0.push(line);
    }
}

/// The journal's names are upper case letters, digits and `_`, and begin with a letter.
fn journal_name(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    name.trim_start_matches(|c: char| !c.is_ascii_uppercase()).to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Keep(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Keep {
        fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
            self.0.lock().unwrap().extend(entry(event));
        }
    }

    #[test]
    fn every_field_becomes_one_of_the_journal() {
        let kept = Arc::default();
        let subscriber = tracing_subscriber::registry().with(Keep(Arc::clone(&kept)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "agent", peer = %"@alice", free_rows = 3, "full");
        });
        assert_eq!(
            *kept.lock().unwrap(),
            ["PRIORITY=4", "TARGET=agent", "MESSAGE=full", "PEER=@alice", "FREE_ROWS=3"]
        );
    }
}
