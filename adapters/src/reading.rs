//! What a device said, in our words.

use std::fmt;
use std::time::SystemTime;

use crate::{Delivery, DeviceName, PointName, StreamName};

/// One measured value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number with a fraction; always finite.
    Float(f64),
    /// A whole number.
    Integer(i64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// Bytes as they came, with their media type where one is known.
    Data {
        /// The bytes, unchanged.
        bytes: Vec<u8>,
        /// The media type (RFC 6838), for example `application/octet-stream`.
        content_type: Option<String>,
    },
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float(number) => number.fmt(out),
            Self::Integer(number) => number.fmt(out),
            Self::Bool(truth) => truth.fmt(out),
            Self::Text(text) => text.fmt(out),
            Self::Data { bytes, .. } => write!(out, "{} bytes", bytes.len()),
        }
    }
}

/// A named value.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// What was measured.
    pub name: PointName,
    /// What it was.
    pub value: Value,
    /// The unit, as SenML writes it (RFC 8428 §12.1), for example `Cel`.
    pub unit: Option<String>,
}

/// One thing a device said: points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Who said it.
    pub device: DeviceName,
    /// The stream it belongs to.
    pub stream: StreamName,
    /// The points; never empty.
    pub points: Vec<Point>,
    /// When, by the device's own clock, where the device says so.
    pub time: Option<SystemTime>,
    /// The device's own id of this reading, where it has one: readings of one device and stream with
    /// equal ids are the same reading.
    pub device_id: Option<String>,
    /// How the sender may repeat it; `None` where it cannot.
    pub delivery: Option<Delivery>,
}
