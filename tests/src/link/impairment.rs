//! What is wrong with a direction, as people write it.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use crate::random::Random;

/// How often something happens, in millionths: written as `3%` or `0.25%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Share(u32);

/// What one [`Share`] is of.
const WHOLE: u32 = 1_000_000;

impl Share {
    /// Never.
    pub const NEVER: Self = Self(0);

    /// In millionths.
    #[must_use]
    pub fn millionths(self) -> u32 {
        self.0
    }

    /// Whether it happens this time.
    pub fn happens(self, random: &mut Random) -> bool {
        self.0 > 0 && random.below(u64::from(WHOLE)) < u64::from(self.0)
    }
}

impl FromStr for Share {
    type Err = ImpairmentError;

    fn from_str(text: &str) -> Result<Self, ImpairmentError> {
        let wrong = || ImpairmentError::Value(text.to_owned());
        let number = text.strip_suffix('%').ok_or_else(wrong)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if part.len() > 4 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let part: u32 = format!("{part:0<4}").parse().map_err(|_| wrong())?;
        // Of a hundred: ten thousand millionths each.
        let share = whole.checked_mul(10_000).and_then(|whole| whole.checked_add(part)).ok_or_else(wrong)?;
        if share > WHOLE { Err(wrong()) } else { Ok(Self(share)) }
    }
}

impl Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04}%", self.0 / 10_000, self.0 % 10_000)
    }
}

/// Everything that can happen to packets in one direction. The default does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impairment {
    /// How long every packet takes.
    pub delay: Duration,
    /// Up to how much longer some take, at random. Packets wait for those before them, as in a router's
    /// queue, so that their order stays.
    pub jitter: Duration,
    /// How many are lost.
    pub loss: Share,
    /// How many in a row are lost on average, from 2 on; without, each is lost or not by itself.
    pub burst: Option<u32>,
    /// How many are overtaken by those behind them.
    pub reorder: Share,
    /// Up to how much longer an overtaken packet takes, at random.
    pub reorder_by: Duration,
    /// How many arrive twice.
    pub duplicate: Share,
    /// Bytes a second.
    pub rate: Option<u64>,
    /// How many bytes wait for the rate before further ones are dropped.
    pub queue: u64,
    /// The longest packet that passes; a longer one vanishes, and nobody is told.
    pub mtu: Option<u16>,
    /// Nothing passes.
    pub cut: bool,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Share::NEVER,
            burst: None,
            reorder: Share::NEVER,
            reorder_by: Duration::from_millis(10),
            duplicate: Share::NEVER,
            rate: None,
            queue: 256 << 10,
            mtu: None,
            cut: false,
        }
    }
}

/// Why a text is no impairment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpairmentError {
    /// There is no such word.
    #[error(
        "no impairment is called `{0}`; there are delay= jitter= loss= burst= reorder= reorder-by= duplicate= \
         rate= queue= mtu= cut heal clear"
    )]
    Word(String),
    /// A value is not of its word's kind.
    #[error("not a value: `{0}`; durations are like 40ms, shares like 3%, sizes and rates are in bytes")]
    Value(String),
}

impl Impairment {
    /// Changes what `words` name and nothing else: `loss=3% delay=40ms`, `cut`, `heal`, `clear`.
    ///
    /// # Errors
    /// At the first word that is none; nothing is changed then.
    pub fn change(&mut self, words: &str) -> Result<(), ImpairmentError> {
        let mut changed = self.clone();
        for word in words.split_whitespace() {
            changed.change_one(word)?;
        }
        *self = changed;
        Ok(())
    }

    fn change_one(&mut self, word: &str) -> Result<(), ImpairmentError> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "delay" => self.delay = duration(value)?,
            "jitter" => self.jitter = duration(value)?,
            "loss" => self.loss = value.parse()?,
            "burst" => self.burst = Some(number(value)?).filter(|length| *length > 1),
            "reorder" => self.reorder = value.parse()?,
            "reorder-by" => self.reorder_by = duration(value)?,
            "duplicate" => self.duplicate = value.parse()?,
            "rate" => self.rate = Some(number(value)?).filter(|rate| *rate > 0),
            "queue" => self.queue = number(value)?,
            "mtu" => self.mtu = Some(number(value)?).filter(|mtu| *mtu > 0),
            "cut" if word == name => self.cut = true,
            "heal" if word == name => self.cut = false,
            "clear" if word == name => *self = Self::default(),
            _ => return Err(ImpairmentError::Word(word.to_owned())),
        }
        Ok(())
    }
}

fn duration(value: &str) -> Result<Duration, ImpairmentError> {
    humantime::parse_duration(value).map_err(|_| ImpairmentError::Value(value.to_owned()))
}

fn number<T: FromStr>(value: &str) -> Result<T, ImpairmentError> {
    value.parse().map_err(|_| ImpairmentError::Value(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_change_what_they_name_and_nothing_else() {
        let mut impairment = Impairment::default();
        impairment.change("loss=3% delay=40ms").unwrap();
        impairment.change("cut mtu=1280 rate=8000 burst=4").unwrap();
        let expected = Impairment {
            loss: Share(30_000),
            delay: Duration::from_millis(40),
            cut: true,
            mtu: Some(1280),
            rate: Some(8000),
            burst: Some(4),
            ..Impairment::default()
        };
        assert_eq!(impairment, expected);
        impairment.change("heal mtu=0 rate=0 burst=1").unwrap();
        assert_eq!(impairment, Impairment { cut: false, mtu: None, rate: None, burst: None, ..expected });
        impairment.change("clear").unwrap();
        assert_eq!(impairment, Impairment::default());
    }

    #[test]
    fn a_wrong_word_changes_nothing_and_is_named() {
        let mut impairment = Impairment::default();
        for wrong in ["loss=3% shake=1", "loss=3% cut=1", "loss=3% delay"] {
            assert!(impairment.change(wrong).is_err(), "{wrong}");
        }
        assert_eq!(impairment.change("shake=1"), Err(ImpairmentError::Word("shake=1".into())));
        assert_eq!(impairment, Impairment::default());
    }

    #[test]
    fn shares_are_read_to_a_millionth() {
        for (text, millionths) in
            [("0%", 0), ("3%", 30_000), ("0.25%", 2_500), ("100%", WHOLE), ("0.0001%", 1)]
        {
            assert_eq!(text.parse(), Ok(Share(millionths)), "{text}");
        }
        for wrong in ["3", "", "%", "101%", "100.0001%", "0.00001%", "-1%", "1.-1%", "99999999999%"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
        assert_eq!(Share(2_500).to_string(), "0.2500%");
    }
}
