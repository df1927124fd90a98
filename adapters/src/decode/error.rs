use super::{MAX_ID, MAX_POINTS};
use crate::InvalidName;

/// Why a payload does not become points. Payloads themselves are never shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is not UTF-8.
    #[error("the payload is not UTF-8 text")]
    NotText,
    /// It is not JSON.
    #[error("the payload is not JSON: {category} error at line {line}, column {column}")]
    NotJson {
        /// What kind of mistake.
        category: &'static str,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The JSON document is not an object, and nothing says what to pick.
    #[error("the payload is not a JSON object")]
    NotObject,
    /// What a JSON Pointer leads to is an object or an array.
    #[error("{pointer} leads to an object or an array, not to one value")]
    NotScalar {
        /// The pointer.
        pointer: String,
    },
    /// The regular expression does not match.
    #[error("the pattern does not match")]
    NoMatch,
    /// A value is not of the type that was configured.
    #[error("{point} is not {expected}")]
    WrongType {
        /// The point.
        point: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The payload ends before a field does.
    #[error("{point} ends at byte {end}, the payload at {bytes}")]
    TooShort {
        /// The field's point.
        point: String,
        /// The first byte behind the field.
        end: usize,
        /// The payload's size.
        bytes: usize,
    },
    /// There are fewer columns than are to be read.
    #[error("{point} is column {at}, counted from 0, and there are {columns}")]
    NoColumn {
        /// The column's point.
        point: String,
        /// Its position, from 0.
        at: usize,
        /// How many columns there are.
        columns: usize,
    },
    /// There are more columns than can be meant.
    #[error("the payload has more than {max} columns")]
    TooManyColumns {
        /// The limit.
        max: usize,
    },
    /// There is more than one record.
    #[error("the payload has more than one record")]
    NotOneRecord,
    /// It does not say whose it is.
    #[error("{pointer} leads to no text, where the device's name should stand")]
    NoDevice {
        /// The pointer.
        pointer: String,
    },
    /// What it says whose it is cannot be a device's name.
    #[error(transparent)]
    DeviceName(InvalidName),
    /// The device's own time is not written as configured, or not a time that can be.
    #[error("the time is not {expected}")]
    Time {
        /// The notation configured.
        expected: &'static str,
    },
    /// The device's own id is too long.
    #[error("the id has more than {MAX_ID} bytes")]
    IdTooLong,
    /// There is no point in it.
    #[error("the payload has no point in it")]
    NoPoints,
    /// There are too many points in it.
    #[error("{count} points are more than {MAX_POINTS}")]
    TooManyPoints {
        /// How many.
        count: usize,
    },
    /// A member's name cannot be a point's name. `pick` gives it another.
    #[error("{0}; `pick` can give it another name")]
    Name(#[from] InvalidName),
}
