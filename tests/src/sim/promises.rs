//! What is promised, and whether it was kept.

use std::collections::{BTreeMap, BTreeSet};

use at_protocol::AtSign;
use atedge_server::store::Notification;

use super::RESTED;
use super::agenda::Time;
use super::network::{Host, SERVERS};
use super::world::World;

/// A promise that was not kept.
#[derive(Debug)]
pub struct Broken {
    /// Which, and how.
    pub what: String,
    /// What happened before.
    pub trace: String,
}

#[derive(Default)]
pub(super) struct Promises {
    pub(super) broken: Option<Broken>,
    /// What the recipients' servers have taken, by recipient and id.
    taken: BTreeSet<(AtSign, String)>,
    /// What each person has said that was taken, in its order.
    words: BTreeMap<usize, Vec<u64>>,
    /// The stream that committed last, by server and pair, in the order in which streams got their turns.
    streams: BTreeMap<(Host, AtSign, AtSign), u64>,
    /// The highest number of a record by which each server has found anybody.
    records: BTreeMap<(Host, AtSign), u64>,
    /// What goes next in each queue, and since when, while all is well.
    heads: BTreeMap<(Host, AtSign, AtSign), (String, Time)>,
    /// The longest that anything was next in a queue while all was well; and behind an outage.
    pub(super) longest_heads: [Time; 2],
    /// Records that were not believed.
    pub(super) refused: u64,
    /// Streams that nobody was let in for.
    pub(super) turned_away: u64,
    /// What was delivered.
    pub(super) delivered: u64,
}

impl Promises {
    pub(super) fn break_one(&mut self, what: String) {
        self.broken.get_or_insert(Broken { what, trace: String::new() });
    }

    /// A server commits what has come over a stream, which has had its turn since `turn`.
    pub(super) fn commits(&mut self, host: Host, (from, to): (&AtSign, &AtSign), turn: u64, may_speak: bool) {
        if !may_speak {
            self.break_one(format!("{host:?} takes what a node says for {from} that does not host it"));
        }
        let last = self.streams.insert((host, from.clone(), to.clone()), turn);
        if last.is_some_and(|last| turn < last) {
            self.break_one(format!("for {from} to {to}, an older stream goes on behind a newer"));
        }
    }

    /// A server has found somebody at a place by a record of this number.
    pub(super) fn uses(&mut self, host: Host, atsign: &AtSign, (seq, at): (u64, &str), is_home: bool) {
        if !is_home {
            self.break_one(format!("{host:?} believes that {atsign} is at {at}, where it never was"));
        }
        let highest = self.records.entry((host, atsign.clone())).or_default();
        if seq < *highest {
            let highest = *highest;
            self.break_one(format!("{host:?} uses record {seq} of {atsign} behind record {highest}"));
        } else {
            *highest = seq;
        }
    }

    /// A server has taken a notification.
    pub(super) fn received(&mut self, host: Host, notification: &Notification, is_home: bool) {
        if !is_home {
            self.break_one(format!("{host:?} takes {} and does not host its recipient", notification.id));
        }
        let (id, value) = (&notification.id, notification.value.as_deref().unwrap_or_default());
        self.delivered += 1;
        if id.starts_with("ae1-forged") {
            self.break_one(format!("{id} was forged, and taken"));
        }
        if !self.taken.insert((notification.to.clone(), id.clone())) {
            self.break_one(format!("{id} was taken twice"));
        }
        let word = value.strip_prefix('p').and_then(|value| value.split_once('_'));
        let Some((person, number)) = word.and_then(|(p, n)| Some((p.parse().ok()?, n.parse().ok()?))) else {
            return;
        };
        let words: &mut Vec<u64> = self.words.entry(person).or_default();
        if let Some(last) = words.last().filter(|last| **last >= number) {
            let what = if *last == number { "twice" } else { "out of order" };
            let broken = format!("word {number} of person {person} was taken {what}, behind {last}");
            self.break_one(broken);
        } else {
            words.push(number);
        }
    }
}

impl World {
    /// All is well from now on: what waits since before has waited for no time yet.
    pub(super) fn watch_heads(&mut self) {
        self.promises.heads.clear();
    }

    /// Whether what is next in each queue has not been so for too long.
    pub(super) fn check_heads(&mut self) {
        let before = std::mem::take(&mut self.promises.heads);
        for host in SERVERS {
            for ((from, to), id) in self.server(host).heads() {
                let place = (host, from, to);
                let since = before.get(&place).filter(|(head, _)| *head == id).map(|(_, since)| *since);
                let waited = self.now - since.unwrap_or(self.now);
                if waited > self.prompt {
                    let (_, from, to) = &place;
                    self.promises.break_one(format!(
                        "{id} from {from} to {to} is still next at {host:?}, {waited:?} after all is well"
                    ));
                }
                let longest = &mut self.promises.longest_heads[usize::from(self.prompt == RESTED)];
                *longest = waited.max(*longest);
                self.promises.heads.insert(place, (id, since.unwrap_or(self.now)));
            }
        }
    }

    /// Whether nothing waits anywhere; then also whether all has arrived.
    pub(super) fn is_drained(&mut self) -> bool {
        let is_drained = self.people.iter().all(super::people::Person::is_done)
            && self.gateway.is_drained()
            && self.servers.iter().all(super::server::Server::is_drained);
        if is_drained {
            self.check_arrived();
        }
        is_drained
    }

    fn check_arrived(&mut self) {
        for (person, one) in self.people.iter().enumerate() {
            let taken: BTreeSet<u64> =
                self.promises.words.get(&person).into_iter().flatten().copied().collect();
            if let Some(lost) = one.acknowledged.difference(&taken).next() {
                self.promises
                    .break_one(format!("word {lost} of person {person} was acknowledged, and is lost"));
            }
        }
        if self.gateway.acknowledged != self.reader.values {
            let (said, read) = (&self.gateway.acknowledged, &self.reader.values);
            self.promises.break_one(format!("of {said:?}, read was {read:?}"));
        }
    }
}
