//! What a store remembers of tenants that move from node to node.

use at_protocol::Timestamp;
use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Address, SignedRecord};
use serde::{Deserialize, Serialize};

/// How far a tenant's move to another node is, for the node that it leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Departure {
    /// It is to move.
    Asked {
        /// Where the other node is.
        to: Address,
    },
    /// It is served no more while it is copied.
    Copying {
        /// Where the other node is.
        to: Address,
    },
    /// It was given away: the other node may serve it, and this one must not, unless the directory takes a
    /// record of this node with the same number first.
    Given {
        /// Where the other node is.
        to: Address,
        /// The other node.
        node: Ed25519Public,
        /// The number of the record that the other node registers.
        seq: u64,
        /// Since when.
        since: Timestamp,
    },
    /// It does not leave: this node is to serve it though a record names another one, which is gone for good.
    Claimed,
    /// It is served by this record. If that is another node's, here is nothing of it any more.
    Done {
        /// The record that says so.
        record: Box<SignedRecord>,
    },
    /// It did not move, and is served here.
    Refused {
        /// Why.
        why: String,
    },
}

/// How far a tenant's move to this node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Arrival {
    /// It is being copied.
    Copying {
        /// From this node.
        from: Ed25519Public,
    },
    /// All of it is here; the other node may still serve it.
    Stored {
        /// From this node.
        from: Ed25519Public,
        /// Since when.
        since: Timestamp,
    },
    /// It was given to this node, which serves it once the directory has taken this record.
    Given {
        /// From this node.
        from: Ed25519Public,
        /// The record.
        record: Box<SignedRecord>,
    },
}

impl Departure {
    /// Whether the tenant moves, or is about to.
    #[must_use]
    pub fn is_underway(&self) -> bool {
        match self {
            Self::Asked { .. } | Self::Copying { .. } | Self::Given { .. } | Self::Claimed => true,
            Self::Done { .. } | Self::Refused { .. } => false,
        }
    }
}

impl Arrival {
    /// The node that it comes from.
    #[must_use]
    pub fn from(&self) -> &Ed25519Public {
        match self {
            Self::Copying { from } | Self::Stored { from, .. } | Self::Given { from, .. } => from,
        }
    }
}
