//! Why something that a device said did not become a reading.

use std::net::IpAddr;
use std::time::Duration;

use crate::InvalidName;
use crate::decode::DecodeError;
use crate::modbus::Fault;
use crate::serial::FrameError;

/// Why something that a device said did not become a reading.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No route has a topic that matches.
    #[error("no route takes the topic {topic:?}")]
    NoRoute {
        /// The topic, cut to 128 characters.
        topic: String,
    },
    /// Nothing says whose it is.
    #[error("it does not say which device it is of")]
    Nobody,
    /// The topic or the payload offers a name that cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// It is larger than the adapter's `max`.
    #[error("{bytes} bytes are more than the allowed {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The adapter's limit.
        max: usize,
    },
    /// A device publishes to more topics than it may.
    #[error("more than the {max} topics that a device may have; {topic:?} is one too many")]
    TooManyTopics {
        /// The topic, cut to 128 characters.
        topic: String,
        /// The listener's limit.
        max: usize,
    },
    /// A listener has as many connections as it may have.
    #[error("{address} was turned away: {max} connections are allowed{}", if *from_there { " from one address" } else { "" })]
    TooManyConnections {
        /// Who wanted to connect.
        address: IpAddr,
        /// The limit.
        max: usize,
        /// Whether it is the limit of one address, or that of the listener.
        from_there: bool,
    },
    /// What came over a serial line is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A device on a serial line was asked and said nothing whole.
    #[error(
        "no answer within {waited:?} to `poll.send`; is it on, and are `baud` and `parity` as it has them?"
    )]
    Unanswered {
        /// How long it had.
        waited: Duration,
    },
    /// It does not decode as configured.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// A Modbus unit did not answer, or not as it should.
    #[error(transparent)]
    Modbus(#[from] Fault),
}

impl Refusal {
    /// One word for counters: `route`, `name`, `size`, `topics`,
    /// `connections`, `check`, `frame`, `silent`, `decode`, or as [`Fault::kind`] says.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoRoute { .. } => "route",
            Self::Nobody => "name",
            Self::Name(_) | Self::Undecodable(DecodeError::Name(_) | DecodeError::DeviceName(_)) => "name",
            Self::TooLarge { .. } | Self::Frame(FrameError::TooLong { .. }) => "size",
            Self::TooManyTopics { .. } => "topics",
            Self::TooManyConnections { .. } => "connections",
            Self::Frame(FrameError::Check { .. }) => "check",
            Self::Frame(_) => "frame",
            Self::Unanswered { .. } => "silent",
            Self::Undecodable(_) => "decode",
            Self::Modbus(fault) => fault.kind(),
        }
    }
}
