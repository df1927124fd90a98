//! Who may do what: every verb, as every kind of caller, with every kind of key, against rules that were
//! written down apart from the server's.

#![allow(clippy::unwrap_used, reason = "a test stops where it stands")]
#![allow(clippy::wildcard_enum_match_arm, reason = "rules speak of all others")]

mod cast;
mod deeds;
mod oracle;
mod sessions;
#[path = "../wire/mod.rs"]
mod wire;

use std::collections::BTreeSet;

use at_protocol::{AtKey, AtSign, Verb};
use atedge_server::access::{Principal, may};

use oracle::{TENANT, Want, Who, allows};

/// The number of cells below which the matrix would not be one.
const LEAST: usize = 5_000;

/// Counts cells and keeps what differs.
#[derive(Default)]
struct Tally {
    cells: usize,
    allowed: usize,
    differences: Vec<String>,
}

impl Tally {
    fn compare(&mut self, cell: impl FnOnce() -> String, server: bool, oracle: bool) {
        self.cells += 1;
        self.allowed += usize::from(oracle);
        if server != oracle {
            let word = |allowed| if allowed { "allows" } else { "refuses" };
            self.differences.push(format!("{}: the server {} it", cell(), word(server)));
        }
    }

    fn is_clean(&self) {
        let shown: Vec<_> = self.differences.iter().take(50).cloned().collect();
        let (count, cells) = (self.differences.len(), self.cells);
        assert!(shown.is_empty(), "{count} of {cells} cells differ:\n{}", shown.join("\n"));
    }
}

/// Each line that is one of the protocol, decided for each of these principals, whom the oracle knows as
/// somebody; and how many lines are none.
fn decided(cast: &[(&str, &Principal, Who)]) -> (Tally, usize) {
    let tenant: AtSign = TENANT.parse().unwrap();
    let (mut tally, mut seen, mut unreadable) = (Tally::default(), BTreeSet::new(), 0);
    deeds::each(|line, want| {
        if !seen.insert(line.to_owned()) {
            return;
        }
        let Ok(verb) = line.parse::<Verb>() else {
            unreadable += 1;
            return;
        };
        for (name, principal, who) in cast {
            let server = may(principal, &tenant, &verb).is_ok();
            tally.compare(|| format!("{line} as {name}"), server, allows(*who, want));
        }
    });
    // Some keys no line can name (`private:`, copies of own records), and no more than that.
    assert!(unreadable * 5 < seen.len(), "{unreadable} of {} lines are none", seen.len());
    (tally, unreadable)
}

#[test]
fn every_verb_is_decided_as_the_wire_reference_says() {
    let cast = cast::all();
    let cast: Vec<_> = cast.iter().map(|caller| (caller.name, &caller.principal, caller.who)).collect();
    let (tally, unreadable) = decided(&cast);
    tally.is_clean();
    println!("{} cells, {} allowed, {unreadable} lines are none", tally.cells, tally.allowed);
    assert!(tally.cells >= LEAST, "{} cells", tally.cells);
    assert!(tally.allowed * 10 > tally.cells && tally.allowed * 10 < tally.cells * 9, "{}", tally.allowed);
}

#[test]
fn a_server_that_takes_one_for_another_is_found_out() {
    let cast = cast::all();
    let called = |name| cast.iter().find(|caller| caller.name == name).unwrap();
    for (is, taken_for) in [
        ("nobody", "another atSign"),
        ("another atSign", "first key"),
        ("wavi, to read", "wavi"),
        ("dotted namespace", "wavi"),
        ("namespace null", "only __manage"),
        ("all, to read", "all and __manage"),
        ("revoked", "all and __manage"),
    ] {
        let (tally, _) = decided(&[(is, &called(taken_for).principal, called(is).who)]);
        assert!(!tally.differences.is_empty(), "{is} taken for {taken_for}");
    }
}

#[test]
fn what_lists_and_streams_show_is_what_may_be_read() {
    let (cast, mut tally) = (cast::all(), Tally::default());
    for text in deeds::KEYS {
        let key: AtKey = text.parse().unwrap();
        for caller in &cast {
            let (who, principal) = (caller.who, &caller.principal);
            for (what, server, want) in [
                ("scan", principal.may_list(&key), Want::Listed(text)),
                ("sync", principal.may_sync(&key), Want::Synced(text)),
                ("monitor", principal.may_watch(Some(&key)), Want::Watched(Some(text))),
                ("notify:remove", principal.may_manage(Some(&key)), Want::Removed(Some(text))),
            ] {
                let oracle = allows(who, want);
                tally.compare(|| format!("{what} of {text} as {}", caller.name), server, oracle);
            }
        }
    }
    for caller in &cast {
        let (watch, manage) = (caller.principal.may_watch(None), caller.principal.may_manage(None));
        tally.compare(|| format!("text as {}", caller.name), watch, allows(caller.who, Want::Watched(None)));
        tally.compare(
            || format!("-text as {}", caller.name),
            manage,
            allows(caller.who, Want::Removed(None)),
        );
    }
    tally.is_clean();
    assert!(tally.cells > 3_000, "{} cells", tally.cells);
}
