//! What went wrong with a unit, in plain words.

use std::time::Duration;

use super::UnitId;
use super::pdu::{Exception, WrongResponse};
use super::rtu::Noise;
use crate::PointName;

/// Why there is no reading of a unit, or less of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing came.
    #[error("unit {unit} did not answer within {waited:?}: it is off, not connected, or has another number")]
    Silent {
        /// Who was asked.
        unit: UnitId,
        /// How long it had.
        waited: Duration,
    },
    /// No answer came, but something else did; or it came beside the answer.
    #[error("unit {unit} was asked and there was {noise}")]
    Noise {
        /// Who was asked.
        unit: UnitId,
        /// What there was.
        noise: Noise,
    },
    /// An answer came when nothing was asked any more, or to a former request.
    #[error("an answer came too late, before unit {unit} was asked")]
    Late {
        /// Who was about to be asked.
        unit: UnitId,
    },
    /// The unit refuses.
    #[error("unit {unit} refuses function {function} at address {address}: {exception}")]
    Exception {
        /// Who was asked.
        unit: UnitId,
        /// The function.
        function: u8,
        /// The first address on the wire, from 0.
        address: u16,
        /// Its reason.
        exception: Exception,
    },
    /// The unit's answer is not the answer to what it was asked.
    #[error("unit {unit} answers wrongly: {wrong}")]
    Wrong {
        /// Who was asked.
        unit: UnitId,
        /// What is wrong.
        wrong: WrongResponse,
    },
    /// A float is infinite or no number.
    #[error("{point} of unit {unit} is not a finite number; is its `order` right?")]
    NotFinite {
        /// Who was asked.
        unit: UnitId,
        /// The point.
        point: PointName,
    },
}

impl Fault {
    /// One word for counters: `silent`, `noise`, `late`, `exception` or `value`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Silent { .. } => "silent",
            Self::Noise { .. } | Self::Wrong { .. } => "noise",
            Self::Late { .. } => "late",
            Self::Exception { .. } => "exception",
            Self::NotFinite { .. } => "value",
        }
    }

    /// Whether the unit has said nothing that counts: such a unit costs the others time.
    pub(super) fn is_failure(&self) -> bool {
        match self {
            Self::Silent { .. } | Self::Noise { .. } | Self::Wrong { .. } => true,
            Self::Exception { exception, .. } => exception.is_silence(),
            Self::Late { .. } | Self::NotFinite { .. } => false,
        }
    }
}
