//! What is said to directories and by them: the two messages of old, and signed records.
//!
//! A directory of old is believed as it is. Where a fleet has a *registrar*, nothing is: the registrar, whose
//! private key is on no node, signs a [`Grant`] for each node (its key, and which atSigns it may speak for),
//! and the node signs a [`SignedRecord`] for each of its atSigns. Who knows the registrar's public key checks
//! the chain ([`Registrars::verify`]) and that no record is older than one seen before
//! ([`VerifiedRecord::follows`]), so that a captured directory can refuse, but not misdirect.

mod address;
mod grant;
mod pattern;
mod record;
mod trust;

pub use address::{Address, InvalidAddress, answer, question};
pub use grant::Grant;
pub use pattern::{InvalidPattern, Pattern};
pub use record::{InvalidRecord, Location, SignedRecord};
pub use trust::{Distrust, Registrar, Registrars, VerifiedRecord};

/// The name, for ALPN, under which directories take more than the questions of old; never asked without it,
/// since lines of old are short and folded to lower case.
pub const EXTENDED: &[u8] = b"atdirectory/1";

/// Longest line of an extended connection, in bytes without its end.
pub const LONGEST_EXTENDED: usize = 4096;

/// Asks an extended directory for the signed record of an atSign, on one line.
#[must_use]
pub fn record_question(atsign: &crate::AtSign) -> String {
    format!("record:{atsign}\n")
}

/// Hands a record to an extended directory, on one line.
#[must_use]
pub fn registration(record: &SignedRecord) -> String {
    format!("register:{record}\n")
}

/// Reads what an extended directory answers to [`record_question`]: `None` where it has no record. Prompts
/// before the answer and the line end are taken off.
///
/// # Errors
/// The line is neither `null` nor a record.
pub fn record_answer(line: &str) -> Result<Option<SignedRecord>, InvalidRecord> {
    let text = line.trim().trim_start_matches('@');
    if text == "null" { Ok(None) } else { text.parse().map(Some) }
}

/// An extended directory did not take a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the directory did not take the record: {0}")]
pub struct NotRegistered(pub String);

/// Reads what an extended directory answers to [`registration`]: the number of the record that it keeps now.
/// Prompts before the answer and the line end are taken off.
///
/// # Errors
/// It refuses the record, or says something else.
pub fn registration_answer(line: &str) -> Result<u64, NotRegistered> {
    let text = line.trim().trim_start_matches('@');
    let seq = text.strip_prefix("ok seq=").and_then(|seq| seq.parse().ok());
    seq.ok_or_else(|| NotRegistered(text.strip_prefix("error:").unwrap_or(text).to_owned()))
}

#[cfg(test)]
mod tests;
