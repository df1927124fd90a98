//! A reader's answer: what it has committed.

use serde::{Deserialize, Serialize};

use super::{Boot, Seen, VERSION};

/// Most ranges that one receipt names as missing.
pub const MOST_MISSING: usize = 64;

/// What a reader has of one (device, stream, boot): everything up to `upto` but `missing`.
///
/// Cumulative, so a lost receipt costs nothing: the next one says it all. A reader sends it after its own
/// commit, at most once a second, and again when a batch is repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    boot: Boot,
    upto: u64,
    missing: Vec<(u64, u64)>,
}

/// Why bytes are no [`Receipt`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidReceipt {
    /// Not the JSON of a receipt.
    #[error("not a receipt: {0}")]
    Json(#[from] serde_json::Error),
    /// A version that this program does not read.
    #[error("a receipt of version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// More than [`MOST_MISSING`] ranges, or ranges out of order or above `upto`.
    #[error("a receipt whose missing ranges make no sense")]
    Ranges,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    atedge: u32,
    boot: Boot,
    upto: u64,
    #[serde(default)]
    missing: Vec<(u64, u64)>,
}

impl Receipt {
    /// The receipt for all that `seen` holds. With more than [`MOST_MISSING`] gaps it stops before the
    /// first gap that does not fit; a later receipt says the rest.
    pub fn of(boot: Boot, seen: &Seen) -> Self {
        let mut gaps = seen.missing();
        let missing: Vec<_> = gaps.by_ref().take(MOST_MISSING).collect();
        let upto = gaps.next().map_or_else(|| seen.upto(), |(first, _)| first - 1);
        Self { boot, upto, missing }
    }

    /// The boot whose records it is about.
    pub const fn boot(&self) -> Boot {
        self.boot
    }

    /// The highest number it speaks of.
    pub const fn upto(&self) -> u64 {
        self.upto
    }

    /// The ranges up to [`Receipt::upto`] that the reader has not got, ascending and apart.
    pub fn missing(&self) -> &[(u64, u64)] {
        &self.missing
    }

    /// Its JSON.
    pub fn to_json(&self) -> String {
        let wire = Wire { atedge: VERSION, boot: self.boot, upto: self.upto, missing: self.missing.clone() };
        serde_json::to_string(&wire).expect("numbers and a boot are always JSON")
    }

    /// Reads what [`Receipt::to_json`] wrote.
    ///
    /// # Errors
    /// When the bytes are something else, or their ranges make no sense.
    pub fn from_json(json: &[u8]) -> Result<Self, InvalidReceipt> {
        let wire: Wire = serde_json::from_slice(json)?;
        if wire.atedge != VERSION {
            return Err(InvalidReceipt::Version(wire.atedge));
        }
        let apart = wire.missing.windows(2).all(|pair| pair[0].1 < pair[1].0);
        let inside =
            wire.missing.iter().all(|(first, last)| 1 <= *first && first <= last && *last <= wire.upto);
        if wire.missing.len() > MOST_MISSING || !apart || !inside {
            return Err(InvalidReceipt::Ranges);
        }
        Ok(Self { boot: wire.boot, upto: wire.upto, missing: wire.missing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_there_and_what_is_not() {
        let seen = Seen::from(vec![(1, 84_099), (84_108, 84_220)]);
        let receipt = Receipt::of(Boot::new(41, 0x9f0c), &seen);
        let json = r#"{"atedge":1,"boot":"41-0000000000009f0c","upto":84220,"missing":[[84100,84107]]}"#;
        assert_eq!(receipt.to_json(), json);
        assert_eq!(Receipt::from_json(json.as_bytes()).unwrap(), receipt);
    }

    #[test]
    fn stops_before_the_gap_that_does_not_fit() {
        let seen = Seen::from((1..=100).map(|n| (2 * n, 2 * n)).collect::<Vec<_>>());
        let receipt = Receipt::of(Boot::new(1, 1), &seen);
        assert_eq!(receipt.missing().len(), MOST_MISSING);
        assert_eq!(receipt.upto(), 128, "the 65th gap is 129");
        assert_eq!(Receipt::from_json(receipt.to_json().as_bytes()).unwrap(), receipt);
    }

    #[test]
    fn refuses_ranges_that_make_no_sense() {
        for missing in ["[[5,4]]", "[[3,11]]", "[[0,1]]", "[[4,6],[6,8]]", "[[6,8],[2,3]]"] {
            let json = format!(r#"{{"atedge":1,"boot":"1-0000000000000001","upto":10,"missing":{missing}}}"#);
            assert!(matches!(Receipt::from_json(json.as_bytes()), Err(InvalidReceipt::Ranges)), "{missing}");
        }
        let other = r#"{"atedge":2,"boot":"1-0000000000000001","upto":10}"#;
        assert!(matches!(Receipt::from_json(other.as_bytes()), Err(InvalidReceipt::Version(2))));
    }
}
