//! What is asked of a running link, a line each.

use std::net::Ipv4Addr;
use std::str::FromStr;

use super::Disguise;

/// A line to the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `counters`: what became of all packets.
    Counters,
    /// `one>two as 10.77.1.11 for 10.77.1.2`: how `two` sees `one`, from now on; `one>two as itself` ends it.
    Show {
        /// Who is seen.
        from: String,
        /// By whom.
        to: String,
        /// As what.
        disguise: Option<Disguise>,
    },
    /// `one>two WORDS`, or `one<>two WORDS` for both ways; `*` is every port.
    Change {
        /// Where packets come from.
        from: String,
        /// Where they go.
        to: String,
        /// The way back as well.
        both: bool,
        /// What to change, as [`Impairment::change`](super::Impairment::change) takes it.
        words: String,
    },
}

/// Why a line is no command.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a command: `{0}`; there are: one>two WORDS, one<>two WORDS, one>two as ADDRESS for ADDRESS, \
         one>two as itself, counters"
)]
pub struct CommandError(String);

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, CommandError> {
        if line.trim() == "counters" {
            return Ok(Self::Counters);
        }
        let change = || {
            let (ends, words) = line.trim().split_once(' ')?;
            let (from, to) = ends.split_once('>')?;
            let (from, both) = match from.strip_suffix('<') {
                Some(from) => (from, true),
                None => (from, false),
            };
            if let Some(shown) = words.strip_prefix("as ") {
                let disguise = match shown.trim() {
                    "itself" => None,
                    shown => {
                        let (shown, own) = shown.split_once(" for ")?;
                        let address = |text: &str| text.parse::<Ipv4Addr>().ok();
                        Some(Disguise { own: address(own)?, shown: address(shown)? })
                    }
                };
                let show = Self::Show { from: from.to_owned(), to: to.to_owned(), disguise };
                return Some(show).filter(|_| !both);
            }
            let is_name = |name: &str| !name.is_empty() && !name.contains(['<', '>']);
            let command =
                Self::Change { from: from.to_owned(), to: to.to_owned(), both, words: words.to_owned() };
            Some(command).filter(|_| is_name(from) && is_name(to))
        };
        change().ok_or_else(|| CommandError(line.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let change = |from: &str, to: &str, both, words: &str| {
            Ok(Command::Change { from: from.into(), to: to.into(), both, words: words.into() })
        };
        assert_eq!("a>b loss=3% cut".parse(), change("a", "b", false, "loss=3% cut"));
        assert_eq!("a<>* heal".parse(), change("a", "*", true, "heal"));
        assert_eq!("counters\n".parse(), Ok(Command::Counters));
        let show = |disguise| Ok(Command::Show { from: "a".into(), to: "b".into(), disguise });
        let (own, shown) = (Ipv4Addr::new(10, 77, 1, 2), Ipv4Addr::new(10, 77, 1, 11));
        assert_eq!("a>b as 10.77.1.11 for 10.77.1.2".parse(), show(Some(Disguise { own, shown })));
        assert_eq!("a>b as itself".parse(), show(None));
        for wrong in ["a>b as x", "a>b as 10.77.1.11", "a<>b as itself", "a>b as x for y"] {
            assert!(wrong.parse::<Command>().is_err(), "{wrong}");
        }
        for wrong in ["", "a>b", "a b cut", ">b cut", "a> cut", "a>b>c cut", "count"] {
            assert!(wrong.parse::<Command>().is_err(), "{wrong}");
        }
    }
}
