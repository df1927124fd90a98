//! What is to be said of which atSign, and when. Time, keys and answers are handed in.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use at_protocol::directory::{Address, Grant, Location, SignedRecord};
use at_protocol::{AtSign, Timestamp};

/// How long a record is good for. Long, so that a directory that is down for weeks misleads nobody; and
/// whoever loses a node can give its atSigns to another one within a month even without any word from it.
const LIFE_MS: i64 = 30 * 24 * 60 * 60 * 1000;
/// When a record is made anew: half a life before its end is time enough for any repair.
const RENEWAL_MS: i64 = LIFE_MS / 2;
/// The pause after a first refusal, which doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause between two attempts that are refused.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// Where an atSign is served, as others are to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Host and TCP port.
    pub(crate) address: Address,
    /// The node's own port.
    pub(crate) quic: u16,
}

/// Signs and believes, for a node.
pub(super) trait Voice {
    /// Whether a record names this node.
    fn is_ours(&self, record: &SignedRecord) -> bool;
    /// Whether a record is to be believed now.
    fn believes(&self, record: &SignedRecord, now: Timestamp) -> bool;
    /// The grant by which the node may say where an atSign is served.
    fn grant(&self, atsign: &AtSign, now: Timestamp) -> Option<Grant>;
    /// Says so.
    fn sign(&self, atsign: &AtSign, at: Location, grant: Grant) -> SignedRecord;
}

/// What the next word about an atSign is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Ask the directory for its record.
    Ask,
    /// Register a record.
    Register {
        /// Which.
        record: Box<SignedRecord>,
        /// Whether it was made just now: it is to be kept before others may see it.
        is_new: bool,
    },
    /// Nothing: the node may not speak for it.
    Silence,
    /// Serve it no more: another node does.
    Elsewhere(Box<SignedRecord>),
}

/// What the directory said.
#[derive(Debug)]
pub(super) enum Heard {
    /// It took the record.
    Taken(Box<SignedRecord>),
    /// It refused the record.
    Refused,
    /// It has this record, or none.
    Has(Option<Box<SignedRecord>>),
}

/// All atSigns of a node, and when the next word about each is due.
#[derive(Debug, Default)]
pub(super) struct Plan {
    entries: HashMap<AtSign, Entry>,
    due: BTreeSet<(Timestamp, AtSign)>,
}

#[derive(Debug, Default)]
struct Entry {
    newest: Option<Newest>,
    /// When the next word is due; never again while it is `None`.
    due: Option<Timestamp>,
    /// Whether the directory is to be asked first, because it refused.
    asks: bool,
    refusals: u32,
}

/// The newest record of an atSign that is known.
#[derive(Debug)]
enum Newest {
    /// This node's own. Signed again it is the same to the last bit, so this much of it will do: a fleet's are
    /// many.
    Ours { seq: u64, not_after: Timestamp, said: Said },
    /// Another node's.
    Other(Box<SignedRecord>),
}

/// All of a record but its number and its end, in few bytes.
#[derive(Debug, PartialEq, Eq)]
struct Said(u64);

impl Newest {
    fn of(record: &SignedRecord, voice: &impl Voice) -> Self {
        if voice.is_ours(record) {
            let said = Said::of(&record.at.address, record.at.quic, &record.grant);
            Self::Ours { seq: record.at.seq, not_after: record.at.not_after, said }
        } else {
            Self::Other(Box::new(record.clone()))
        }
    }

    fn seq(&self) -> u64 {
        match self {
            Self::Ours { seq, .. } => *seq,
            Self::Other(record) => record.at.seq,
        }
    }
}

impl Said {
    fn of(address: &Address, quic: u16, grant: &Grant) -> Self {
        let mut hasher = DefaultHasher::new();
        (address, quic, grant.to_string()).hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Plan {
    /// Takes in those that are new among the hosted, at `now`, and lets those go that are not hosted any more.
    pub(super) fn host(
        &mut self,
        hosted: Vec<AtSign>,
        mut known: impl FnMut(&AtSign) -> Option<SignedRecord>,
        voice: &impl Voice,
        now: Timestamp,
    ) {
        let hosted: HashSet<AtSign> = hosted.into_iter().collect();
        self.entries.retain(|atsign, _| hosted.contains(atsign));
        self.due.retain(|(_, atsign)| hosted.contains(atsign));
        for atsign in hosted {
            if !self.entries.contains_key(&atsign) {
                let entry = Entry {
                    newest: known(&atsign).map(|record| Newest::of(&record, voice)),
                    ..Entry::default()
                };
                self.entries.insert(atsign.clone(), entry);
                self.set_due(&atsign, Some(now));
            }
        }
    }

    /// Everything is due: what records say has changed.
    pub(super) fn begin_anew(&mut self, now: Timestamp) {
        let atsigns: Vec<_> = self.entries.keys().cloned().collect();
        atsigns.iter().for_each(|atsign| self.set_due(atsign, Some(now)));
    }

    /// The first of those that are due.
    pub(super) fn due(&self, most: usize, now: Timestamp) -> Vec<AtSign> {
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        due.take(most).map(|(_, atsign)| atsign.clone()).collect()
    }

    /// How long nothing is due; for ever if it is `None`.
    pub(super) fn rest(&self, now: Timestamp) -> Option<Duration> {
        let (at, _) = self.due.first()?;
        let left = at.as_millis().saturating_sub(now.as_millis());
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// The next word about an atSign that is served at `place`.
    pub(super) fn turn(&self, atsign: &AtSign, place: &Place, voice: &impl Voice, now: Timestamp) -> Turn {
        let Some(entry) = self.entries.get(atsign) else { return Turn::Silence };
        if entry.asks {
            return Turn::Ask;
        }
        if let Some(Newest::Other(record)) = &entry.newest
            && voice.believes(record, now)
        {
            return Turn::Elsewhere(record.clone());
        }
        let Some(grant) = voice.grant(atsign, now) else { return Turn::Silence };
        let (seq, not_after, is_new) = match &entry.newest {
            Some(Newest::Ours { seq, not_after, said })
                if *said == Said::of(&place.address, place.quic, &grant)
                    && is_fresh(*not_after, grant.not_after, now) =>
            {
                (*seq, *not_after, false)
            }
            newest => {
                (newest.as_ref().map_or(1, |newest| newest.seq().saturating_add(1)), end(&grant, now), true)
            }
        };
        let at = Location { address: place.address.clone(), quic: place.quic, seq, not_after };
        Turn::Register { record: Box::new(voice.sign(atsign, at, grant)), is_new }
    }

    /// Notes that a record was made, or brought by somebody, if none that is newer is known.
    pub(super) fn learn(&mut self, record: &SignedRecord, voice: &impl Voice) {
        if let Some(entry) = self.entries.get_mut(&record.atsign)
            && entry.newest.as_ref().is_none_or(|newest| newest.seq() < record.at.seq)
        {
            entry.newest = Some(Newest::of(record, voice));
        }
    }

    /// There is nothing to say about an atSign until something changes.
    pub(super) fn silence(&mut self, atsign: &AtSign) {
        self.set_due(atsign, None);
    }

    /// Takes note of what the directory said of an atSign. `random` spreads what would come together. Gives
    /// whether it refuses for no reason that the next word would remove.
    pub(super) fn hear(
        &mut self,
        atsign: &AtSign,
        heard: Heard,
        voice: &impl Voice,
        random: u8,
        now: Timestamp,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(atsign) else { return false };
        match heard {
            Heard::Taken(record) => {
                (entry.asks, entry.refusals) = (false, 0);
                let due = renewal(record.at.not_after, record.grant.not_after);
                self.set_due(atsign, due);
                false
            }
            // It knows a newer one, most likely.
            Heard::Refused => {
                entry.asks = true;
                false
            }
            Heard::Has(found) => {
                entry.asks = false;
                let own = entry.newest.as_ref().map(Newest::seq);
                // Another one of the same number was there first.
                let is_new = |found: &SignedRecord| {
                    own.is_none_or(|own| found.at.seq > own || found.at.seq == own && !voice.is_ours(found))
                };
                if let Some(found) = found.filter(|found| is_new(found)) {
                    entry.newest = Some(Newest::of(&found, voice));
                    return false;
                }
                let pause = pause(entry.refusals, random);
                entry.refusals = entry.refusals.saturating_add(1);
                self.set_due(atsign, Some(now.plus_millis(millis(pause))));
                true
            }
        }
    }

    fn set_due(&mut self, atsign: &AtSign, due: Option<Timestamp>) {
        let Some(entry) = self.entries.get_mut(atsign) else { return };
        let before = std::mem::replace(&mut entry.due, due);
        if let Some(before) = before {
            self.due.remove(&(before, atsign.clone()));
        }
        if let Some(due) = due {
            self.due.insert((due, atsign.clone()));
        }
    }
}

/// When a record ends that is made now: no later than its grant.
pub(super) fn end(grant: &Grant, now: Timestamp) -> Timestamp {
    Timestamp::from_millis(now.as_millis().saturating_add(LIFE_MS)).min(grant.not_after)
}

/// Whether a record of this end, by a grant of that end, need not be made anew yet.
fn is_fresh(end: Timestamp, granted: Timestamp, now: Timestamp) -> bool {
    end > now && renewal(end, granted).is_none_or(|renewal| now < renewal)
}

/// When a record is to be made anew; never if it lasts as long as its grant, since another would end no later.
fn renewal(end: Timestamp, granted: Timestamp) -> Option<Timestamp> {
    (end < granted).then(|| Timestamp::from_millis(end.as_millis() - RENEWAL_MS))
}

/// The pause after so many refusals, between half and all of what is due.
fn pause(refusals: u32, random: u8) -> Duration {
    let due = FIRST_PAUSE.saturating_mul(1 << refusals.min(20)).min(LONGEST_PAUSE);
    due / 2 + due / 2 * u32::from(random) / 255
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use at_protocol::crypto::Ed25519Secret;
    use at_protocol::directory::{Grant, Pattern, Registrar, Registrars};
    use zeroize::Zeroizing;

    use super::*;

    const DAY_MS: i64 = 24 * 60 * 60 * 1000;

    fn day(days: i64) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000 + days * DAY_MS)
    }

    fn key(first: u8) -> Ed25519Secret {
        Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
    }

    /// A node with a grant of the registrar 1.
    struct Node {
        key: Ed25519Secret,
        grant: Grant,
    }

    impl Node {
        fn new(number: u8, days: i64) -> Self {
            let atsigns: Vec<Pattern> = vec!["@a*".parse().unwrap()];
            Self { key: key(number), grant: Grant::sign(&key(1), key(number).public(), atsigns, day(days)) }
        }

        fn record(&self, seq: u64, days: i64) -> SignedRecord {
            let at = Location { address: place().address, quic: 6464, seq, not_after: day(days) };
            SignedRecord::sign(&self.key, alice(), at, self.grant.clone())
        }
    }

    impl Voice for Node {
        fn is_ours(&self, record: &SignedRecord) -> bool {
            *record.node() == self.key.public()
        }

        fn believes(&self, record: &SignedRecord, now: Timestamp) -> bool {
            let registrar = Registrar { key: key(1).public(), atsigns: Vec::new() };
            Registrars::new(vec![registrar]).verify(record.clone(), now).is_ok()
        }

        fn grant(&self, atsign: &AtSign, now: Timestamp) -> Option<Grant> {
            Some(self.grant.clone()).filter(|grant| grant.covers(atsign) && grant.not_after > now)
        }

        fn sign(&self, atsign: &AtSign, at: Location, grant: Grant) -> SignedRecord {
            SignedRecord::sign(&self.key, atsign.clone(), at, grant)
        }
    }

    fn alice() -> AtSign {
        "@alice".parse().unwrap()
    }

    fn place() -> Place {
        Place { address: "node.example:6464".parse().unwrap(), quic: 6464 }
    }

    fn hosting(newest: Option<SignedRecord>) -> Plan {
        let mut plan = Plan::default();
        plan.host(vec![alice()], |_| newest.clone(), &Node::new(2, 100), day(0));
        plan
    }

    /// What is registered, if something is: its number, its end, and whether it was made just now.
    fn registered(turn: Turn) -> (u64, Timestamp, bool) {
        match turn {
            Turn::Register { record, is_new } => (record.at.seq, record.at.not_after, is_new),
            other @ (Turn::Ask | Turn::Silence | Turn::Elsewhere(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_first_record_is_made_kept_and_made_anew_after_half_its_life() {
        let node = Node::new(2, 100);
        let mut plan = hosting(None);
        assert_eq!(plan.due(9, day(0)), [alice()]);
        let turn = plan.turn(&alice(), &place(), &node, day(0));
        assert_eq!(registered(turn.clone()), (1, day(30), true));
        let Turn::Register { record, .. } = turn else { unreachable!() };
        plan.learn(&record, &node);
        // The answer was lost: the same again, to the last bit.
        assert_eq!(
            plan.turn(&alice(), &place(), &node, day(1)),
            Turn::Register { record: record.clone(), is_new: false }
        );
        assert_eq!(registered(plan.turn(&alice(), &place(), &node, day(1))), (1, day(30), false));
        assert!(!plan.hear(&alice(), Heard::Taken(record), &node, 0, day(1)));
        assert_eq!(plan.due(9, day(14)), []);
        assert_eq!(plan.rest(day(14)), Some(Duration::from_hours(24)));
        assert_eq!(plan.due(9, day(15)), [alice()]);
        assert_eq!(registered(plan.turn(&alice(), &place(), &node, day(15))), (2, day(45), true));
    }

    #[test]
    fn a_record_never_outlives_the_grant_and_is_made_anew_for_another_one() {
        let short = Node::new(2, 10);
        let mut plan = hosting(None);
        let Turn::Register { record, .. } = plan.turn(&alice(), &place(), &short, day(0)) else { panic!() };
        assert_eq!(record.at.not_after, day(10));
        plan.learn(&record, &short);
        plan.hear(&alice(), Heard::Taken(record), &short, 0, day(0));
        assert_eq!(plan.rest(day(0)), None, "there is nothing better to be had");
        assert_eq!(plan.turn(&alice(), &place(), &short, day(10)), Turn::Silence);
        plan.begin_anew(day(9));
        assert_eq!(registered(plan.turn(&alice(), &place(), &Node::new(2, 99), day(9))), (2, day(39), true));
    }

    #[test]
    fn what_changes_is_said_anew_and_what_is_not_granted_is_not_said() {
        let node = Node::new(2, 100);
        let plan = hosting(Some(node.record(7, 30)));
        assert_eq!(registered(plan.turn(&alice(), &place(), &node, day(0))), (7, day(30), false));
        let elsewhere = Place { quic: 7000, ..place() };
        assert_eq!(registered(plan.turn(&alice(), &elsewhere, &node, day(0))).0, 8);
        let bob: AtSign = "@bob".parse().unwrap();
        let mut plan = Plan::default();
        plan.host(vec![bob.clone()], |_| None, &Node::new(2, 100), day(0));
        assert_eq!(plan.turn(&bob, &place(), &node, day(0)), Turn::Silence);
        plan.silence(&bob);
        assert_eq!(plan.rest(day(0)), None);
    }

    #[test]
    fn a_refusal_is_followed_by_a_question_and_a_higher_number() {
        let node = Node::new(2, 100);
        let mut plan = hosting(None);
        plan.hear(&alice(), Heard::Refused, &node, 0, day(0));
        assert_eq!(plan.turn(&alice(), &place(), &node, day(0)), Turn::Ask);
        let known = Box::new(node.record(41, 3));
        assert!(!plan.hear(&alice(), Heard::Has(Some(known)), &node, 0, day(0)));
        assert_eq!(plan.due(9, day(0)), [alice()]);
        assert_eq!(registered(plan.turn(&alice(), &place(), &node, day(0))), (42, day(30), true));
        // Refused though it knows nothing newer: something else is wrong, which time may heal.
        plan.learn(&node.record(42, 30), &node);
        for pause in [10, 20, 40] {
            plan.hear(&alice(), Heard::Refused, &node, 0, day(0));
            assert!(plan.hear(&alice(), Heard::Has(None), &node, 255, day(0)));
            assert_eq!(plan.rest(day(0)), Some(Duration::from_secs(pause)));
        }
        assert!(pause(u32::MAX, 255) <= LONGEST_PAUSE);
    }

    #[test]
    fn who_has_moved_is_served_no_more_until_the_other_record_is_over() {
        let (node, other) = (Node::new(2, 100), Node::new(3, 100));
        let plan = hosting(Some(other.record(5, 30)));
        let turn = plan.turn(&alice(), &place(), &node, day(0));
        assert_eq!(turn, Turn::Elsewhere(Box::new(other.record(5, 30))));
        assert_eq!(registered(plan.turn(&alice(), &place(), &node, day(30))).0, 6);
        // A record that is not to be believed moves nobody.
        let mut forged = other.record(5, 30);
        forged.at.seq = 9;
        assert_eq!(registered(hosting(Some(forged)).turn(&alice(), &place(), &node, day(0))).0, 10);
    }

    #[test]
    fn of_two_records_with_one_number_the_first_counts() {
        let (node, other) = (Node::new(2, 100), Node::new(3, 100));
        let mut plan = hosting(Some(node.record(5, 30)));
        plan.hear(&alice(), Heard::Refused, &node, 0, day(0));
        plan.hear(&alice(), Heard::Has(Some(Box::new(other.record(5, 30)))), &node, 0, day(0));
        assert!(matches!(plan.turn(&alice(), &place(), &node, day(0)), Turn::Elsewhere(_)));
    }

    #[test]
    fn who_is_not_hosted_any_more_is_forgotten() {
        let mut plan = hosting(None);
        plan.host(Vec::new(), |_| None, &Node::new(2, 100), day(0));
        assert_eq!(plan.due(9, day(0)), []);
        let node = Node::new(2, 100);
        assert!(!plan.hear(&alice(), Heard::Refused, &node, 0, day(0)));
        assert_eq!(plan.turn(&alice(), &place(), &node, day(0)), Turn::Silence);
    }
}
