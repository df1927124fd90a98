//! What travels between a gateway and its readers, version 1: batches of telemetry and receipts.
//!
//! Everything here is pure and works both ways, so that readers use it too: [`Batch`] to parse,
//! [`Coverage`] to drop repeats, [`Receipt`] to answer, [`name`] for the keys they travel under.

mod batch;
mod boot;
mod coverage;
mod gap;
mod latest;
pub mod name;
mod receipt;
mod seen;

pub use batch::{
    Batch, ClockState, InvalidBatch, Record, TIMEFIX, envelope, fragment, parse_fragment, retimed,
};
pub use boot::{Boot, InvalidBoot};
pub use coverage::Coverage;
pub use gap::{Cause, Gap};
pub use latest::Latest;
pub use name::{Lane, NoteId};
pub use receipt::{InvalidReceipt, MOST_MISSING, Receipt};
pub use seen::Seen;

/// The version of the wire form that this module reads and writes, the member `atedge` of each message.
pub const VERSION: u32 = 1;
