//! What the gateway asks of a device.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::{DeviceName, PointName};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Publish over MQTT with QoS 1. Done when the broker, or in the listen role every connected
    /// device that has subscribed to the topic, has acknowledged it; a device that subscribed with
    /// QoS 0 counts as soon as the message is written.
    Publish {
        /// The topic; no wildcards.
        topic: String,
        /// The payload.
        payload: Vec<u8>,
    },
    /// Write bytes to a serial line, or as a line to a program. Done when the operating system has taken them.
    Send {
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Write a point of a device. Done when the device has confirmed it, and has been seen to hold it where
    /// `verify` asks for that.
    Write {
        /// The device.
        device: DeviceName,
        /// The point.
        point: PointName,
        /// The value, in the point's own unit: a number in decimal, or `true` or `false`. It is text
        /// so that whole numbers of 64 bits stay whole.
        value: String,
        /// Which point to read back.
        verify: Option<Verify>,
    },
}

/// A look at what came of a write: a point of the same adapter that must come to hold what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// The device.
    pub device: DeviceName,
    /// The point.
    pub point: PointName,
    /// How long it may take.
    pub within: Duration,
}

impl Order {
    /// One word for it: `publish`, `send` or `write`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Publish { .. } => "publish",
            Self::Send { .. } => "send",
            Self::Write { .. } => "write",
        }
    }
}

/// An order and who waits for its end.
#[derive(Debug)]
pub struct Command {
    /// What is to be done.
    pub order: Order,
    /// Told once how it went. An adapter that is stopped drops it, which means that the outcome is
    /// not known.
    pub done: oneshot::Sender<Result<(), CommandError>>,
}

impl Command {
    /// Tells how it went. Whoever no longer waits is not an error.
    pub(crate) fn finish(self, outcome: Result<(), CommandError>) {
        self.done.send(outcome).ok();
    }
}

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// This kind of adapter cannot do this kind of order.
    #[error("a {adapter} adapter cannot {order}")]
    Unsupported {
        /// The `type` of its table.
        adapter: &'static str,
        /// As [`Order::kind`] says.
        order: &'static str,
    },
    /// The topic is empty, too long, or has a wildcard or a NUL in it.
    #[error("{topic:?} is not a topic that can be published to")]
    InvalidTopic {
        /// The topic given.
        topic: String,
    },
    /// The payload is larger than the adapter's `max`.
    #[error("{bytes} bytes are more than the allowed {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The adapter's limit.
        max: usize,
    },
    /// The adapter has no such point.
    #[error("{device} has no point {point}")]
    NoPoint {
        /// The device.
        device: DeviceName,
        /// The point.
        point: PointName,
    },
    /// The value cannot be written to the point. Nothing was sent.
    #[error("{device}.{point} must be {expected}")]
    Unfit {
        /// The device.
        device: DeviceName,
        /// The point.
        point: PointName,
        /// What it must be.
        expected: String,
    },
    /// The broker or the device cannot be reached now. Nothing was sent.
    #[error("{peer} is not connected")]
    NotConnected {
        /// The broker's address, the serial port, or the program.
        peer: String,
    },
    /// No connected device has subscribed to the topic. Nothing was sent.
    #[error("no connected device has subscribed to {topic:?}")]
    NobodySubscribed {
        /// The topic.
        topic: String,
    },
    /// The device has more unfinished commands than it can take. Nothing was sent.
    #[error("{device} has too many unfinished commands")]
    Busy {
        /// The device's client identifier.
        device: String,
    },
    /// The broker or the device answered that it will not take it.
    #[error("{peer} refused it: {reason}")]
    Refused {
        /// Who refused.
        peer: String,
        /// The reason given.
        reason: String,
    },
    /// The connection was lost after sending and before the acknowledgement: whether the order was
    /// carried out is not known.
    #[error("the connection to {peer} was lost before it answered")]
    Interrupted {
        /// To whom it was sent.
        peer: String,
    },
    /// It was sent, and no answer came that says how it went.
    #[error("{peer} did not say whether it did it: {cause}")]
    NoAnswer {
        /// Who was asked.
        peer: String,
        /// What came instead.
        cause: String,
    },
    /// It was written and confirmed, and the point that shows it holds something else.
    #[error("{device}.{point} is {found} and not {wanted}, {within:?} after it was written")]
    Unverified {
        /// The device.
        device: DeviceName,
        /// The point that was read back.
        point: PointName,
        /// What was written.
        wanted: String,
        /// What it holds.
        found: String,
        /// How long it had.
        within: Duration,
    },
    /// The device could not be written to.
    #[error("writing to {peer} failed: {cause}")]
    Write {
        /// To whom it was to be sent.
        peer: String,
        /// The operating system's words.
        cause: String,
    },
}

impl CommandError {
    /// Whether the order may have been carried out in spite of the error.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Interrupted { .. } | Self::NoAnswer { .. } | Self::Write { .. })
    }
}
