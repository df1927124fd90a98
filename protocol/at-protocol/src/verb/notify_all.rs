//! `notify:all`: sends a notification to several (wire reference §4.14).

use std::fmt;

use super::notify::Target;
use super::params::Params;
use super::{Notify, VerbError};
use crate::AtSign;

/// `notify:all[:update|:delete][:messageType:…]…<metadata>:@bob,@carol:<key>[@owner][:<value>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyAll {
    /// Who gets it, each once, in the order in which they were named; never empty.
    pub to: Vec<AtSign>,
    /// What the first of them gets; the others get the same.
    pub first: Notify,
}

const USAGE: &str = "e.g notify:all:update:messageType:key:@bob,@carol:phone.wavi@alice:+1 555";
const SYNTAX: VerbError = VerbError::Syntax { usage: USAGE };

/// Reads what follows `notify:all:`.
pub(super) fn parse(rest: &str) -> Result<NotifyAll, VerbError> {
    let mut params = Params { rest };
    let mut first = Notify::parameters(&mut params)?;
    // Each notification gets an id of its own.
    if first.id.is_some() {
        return Err(SYNTAX);
    }
    let (named, target) = params.rest.split_once(':').ok_or(SYNTAX)?;
    let mut to: Vec<AtSign> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for name in named.split(',') {
        if !name.starts_with('@') {
            return Err(SYNTAX);
        }
        let atsign: AtSign = name.parse()?;
        if seen.insert(atsign.clone()) {
            to.push(atsign);
        }
    }
    first.to = to.first().cloned().ok_or(SYNTAX)?;
    first.target(target)?;
    Ok(NotifyAll { to, first })
}

impl fmt::Display for NotifyAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = self.first.to_string();
        let parameters = one.strip_prefix("notify").unwrap_or_default();
        let target = format!(":{}:{}", self.first.to, Target(&self.first));
        write!(f, "notify:all{}:", parameters.strip_suffix(&target).unwrap_or_default())?;
        for (place, atsign) in self.to.iter().enumerate() {
            write!(f, "{}{atsign}", if place == 0 { "" } else { "," })?;
        }
        write!(f, ":{}", Target(&self.first))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Verb, refused, round_trip};

    #[test]
    fn reads_what_the_sdks_write() {
        round_trip(
            &[
                "notify:all:update:messageType:key:ttr:-1:@bob,@carol:phone@alice:+1 555",
                "notify:all:@bob:phone.wavi@alice",
                "notify:all:delete:@bob,@carol:phone.wavi@alice",
                "notify:all:messageType:text:@bob,@carol:hello, you",
                "notify:all:ttl:5:ttb:6:ttr:7:ccd:true:@bob:phone.wavi@alice:v",
            ],
            &[("notify:all:@Bob,@carol,@bob:K@alice:v", "notify:all:@bob,@carol:k@alice:v")],
        );
    }

    #[test]
    fn refuses_what_names_nobody_or_nothing() {
        refused(&[
            "notify:all",
            "notify:all:",
            "notify:all:@bob",
            "notify:all:bob:x@alice:v",
            "notify:all:@bob,:x@alice:v",
            "notify:all:@bob,carol:x@alice:v",
            "notify:all:id:1:@bob:x@alice:v",
            "notify:all:@bob:",
            "notify:all:ttr:-2:@bob:x@alice:v",
        ]);
    }

    #[test]
    fn each_is_named_once() {
        let Verb::NotifyAll(all) = "notify:all:@bob,@carol,@B.ob:x@alice".parse().unwrap() else { panic!() };
        assert_eq!(all.to.iter().map(ToString::to_string).collect::<Vec<_>>(), ["@bob", "@carol"]);
    }
}
