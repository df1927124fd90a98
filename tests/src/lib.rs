//! What crosses crates: towns, scenarios, transcripts, the tidy check.

pub mod transcript;
