//! One life of a gateway's agent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One run of the agent, `<epoch>-<16 hex digits>`: the epoch grows at every start, whatever the clock
/// says, so boots of a gateway are ordered; the random half keeps two gateways apart that were cloned
/// from one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Boot {
    epoch: u64,
    random: u64,
}

/// A text that is no [`Boot`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no boot: it reads <epoch>-<16 hex digits>")]
pub struct InvalidBoot(String);

impl Boot {
    /// The boot of `epoch`, told apart by 64 random bits.
    pub const fn new(epoch: u64, random: u64) -> Self {
        Self { epoch, random }
    }

    /// Epoch and random half.
    pub(super) const fn halves(self) -> (u64, u64) {
        (self.epoch, self.random)
    }

    /// How many starts the outbox has counted.
    pub const fn epoch(self) -> u64 {
        self.epoch
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{:016x}", self.epoch, self.random)
    }
}

impl FromStr for Boot {
    type Err = InvalidBoot;

    fn from_str(text: &str) -> Result<Self, InvalidBoot> {
        let parse = || {
            let (epoch, random) = text.split_once('-')?;
            let boot = Self { epoch: epoch.parse().ok()?, random: u64::from_str_radix(random, 16).ok()? };
            // One spelling per boot: a leading zero or plus would be another text for the same one.
            (boot.to_string() == text).then_some(boot)
        };
        parse().ok_or_else(|| InvalidBoot(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Boot {
    type Error = InvalidBoot;

    fn try_from(text: String) -> Result<Self, InvalidBoot> {
        text.parse()
    }
}

impl From<Boot> for String {
    fn from(boot: Boot) -> Self {
        boot.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_and_ordered_by_epoch() {
        let boot: Boot = "41-9f0c000000000001".parse().unwrap();
        assert_eq!(boot.to_string(), "41-9f0c000000000001");
        assert!(boot < Boot::new(100, 0), "by number, not by text");
        for bad in
            ["", "41", "41-9f0c", "041-9f0c000000000001", "41-9F0C000000000001", "+41-9f0c000000000001"]
        {
            assert!(bad.parse::<Boot>().is_err(), "{bad}");
        }
    }
}
