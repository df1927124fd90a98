//! The scenarios, a file each.

use crate::scenario::Scenario;

/// All there are, in the order in which they run.
pub const ALL: &[Scenario] = &[];
