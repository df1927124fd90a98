//! Records that a reader will never get.

use serde::{Deserialize, Serialize};

/// Why records are lost to a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Their time to live was up.
    Expired,
    /// The queue was full, and one record with their mean, least and greatest stands for them.
    Thinned,
    /// The queue was full, and others were more important.
    Full,
    /// The reader was silent for longer than its records are held.
    Silent,
    /// Its server will never take them.
    Refused,
    /// The disk lost them.
    Damaged,
    /// Somebody took them out of the queue by hand.
    Purged,
    /// A newer one took their place: the stream keeps the newest alone.
    Superseded,
    /// What a gateway newer than this program says.
    #[serde(other)]
    Other,
}

impl Cause {
    /// The word for it, as on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Thinned => "thinned",
            Self::Full => "full",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Damaged => "damaged",
            Self::Purged => "purged",
            Self::Superseded => "superseded",
            Self::Other => "other",
        }
    }

    /// The cause with this word; [`Cause::Other`] if there is none.
    pub fn of(word: &str) -> Self {
        let all = [
            Self::Expired,
            Self::Thinned,
            Self::Full,
            Self::Silent,
            Self::Refused,
            Self::Damaged,
            Self::Purged,
            Self::Superseded,
        ];
        all.into_iter().find(|cause| cause.as_str() == word).unwrap_or(Self::Other)
    }
}

/// Numbers of one lane, from the first to the last, that the reader will not get. On the wire
/// `[first, last, "cause"]`, beside the records of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, Cause)", into = "(u64, u64, Cause)")]
pub struct Gap {
    /// The first number.
    pub first: u64,
    /// The last number, not before the first.
    pub last: u64,
    /// Why.
    pub cause: Cause,
}

impl From<(u64, u64, Cause)> for Gap {
    fn from((first, last, cause): (u64, u64, Cause)) -> Self {
        Self { first, last, cause }
    }
}

impl From<Gap> for (u64, u64, Cause) {
    fn from(gap: Gap) -> Self {
        (gap.first, gap.last, gap.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_reads_like_this_and_a_cause_of_the_future_is_one_too() {
        let gap = Gap { first: 3, last: 9, cause: Cause::Full };
        assert_eq!(serde_json::to_string(&gap).unwrap(), r#"[3,9,"full"]"#);
        let of_the_future: Gap = serde_json::from_str(r#"[3,9,"eaten"]"#).unwrap();
        assert_eq!(of_the_future, Gap { cause: Cause::Other, ..gap });
        assert_eq!(Cause::of(Cause::Thinned.as_str()), Cause::Thinned);
        assert_eq!(Cause::of("eaten"), Cause::Other);
    }
}
