//! The gateway: a real agent as it is packaged, with devices, a server and a reader, against Mosquitto, which keeps
//! what it has in memory and in the clear.

mod drain;
mod growth;
mod idle;
mod ingest;
mod late;
mod memory;
mod mosquitto;
mod path;
mod site;
mod start;

use anyhow::Result;
use clap::ValueEnum;

use crate::report::{Row, progress};

/// What there is to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Row 11: from a device into the queue
    Ingest,
    /// Row 12: instructions and system calls of the whole path
    Path,
    /// Row 13: what has piled up
    Drain,
    /// Row 13: how late what is new is meanwhile
    Late,
    /// Row 14: memory
    Memory,
    /// Row 17: from the start to the first command
    Start,
    /// Row 20: nothing to do
    Idle,
    /// How costs grow
    Growth,
}

impl Part {
    pub(crate) const ALL: [Self; 8] = [
        Self::Ingest,
        Self::Path,
        Self::Drain,
        Self::Late,
        Self::Memory,
        Self::Start,
        Self::Idle,
        Self::Growth,
    ];

    pub(crate) async fn run(self, long: bool) -> Result<Vec<Row>> {
        progress(format_args!("{self:?} of {}", site::packaged()?.display()));
        match self {
            Self::Ingest => ingest::run(long).await,
            Self::Path => path::run().await,
            Self::Drain => drain::run(long).await,
            Self::Late => late::run().await,
            Self::Memory => memory::run(long).await,
            Self::Start => start::run(long).await,
            Self::Idle => idle::run(long).await,
            Self::Growth => growth::run(long).await,
        }
    }
}
