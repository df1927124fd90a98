//! The directory: its real conversation over a map, and what may be wrong with it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use at_protocol::crypto::{Ed25519Public, Ed25519Secret};
use at_protocol::directory::{Grant, Location, Registrar, Registrars, SignedRecord};
use at_protocol::{AtSign, Timestamp};
use atedge_directory::wire::{Conversation, Dialect, Known, Step, registered};
use zeroize::Zeroizing;

/// What it says instead of the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lie {
    /// That it knows nobody.
    Nobody,
    /// What was true once.
    Older,
    /// Somebody else's record.
    Another,
    /// That a stranger's node serves it, whom another registrar has granted.
    Stranger,
    /// That another node is where it is, whom another registrar has granted.
    WrongKey,
    /// The true record, with another place in it.
    Forged,
    /// The record of a node that was never granted this atSign.
    Beyond,
    /// What is no record.
    Nonsense,
}

pub(super) const LIES: [Lie; 8] = [
    Lie::Nobody,
    Lie::Older,
    Lie::Another,
    Lie::Stranger,
    Lie::WrongKey,
    Lie::Forged,
    Lie::Beyond,
    Lie::Nonsense,
];

pub(super) struct Directory {
    pub(super) is_up: bool,
    pub(super) lie: Option<Lie>,
    /// All that was ever registered, newest last.
    records: BTreeMap<AtSign, Vec<SignedRecord>>,
}

/// The public halves of all keys: deriving them is dear.
static PUBLIC: LazyLock<[Ed25519Public; 10]> = LazyLock::new(|| {
    let key = |first: usize| key(u8::try_from(first).expect("there are ten")).public();
    std::array::from_fn(key)
});

/// The public half of a key.
pub(super) fn public(first: u8) -> Ed25519Public {
    PUBLIC[usize::from(first)].clone()
}

/// A key that everybody can tell.
fn key(first: u8) -> Ed25519Secret {
    Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
}

/// Whom all trust.
pub(super) fn registrar() -> Registrar {
    Registrar { key: public(1), atsigns: Vec::new() }
}

fn registrars() -> Registrars {
    Registrars::new(vec![registrar()])
}

/// A registrar that nobody trusts.
pub(super) fn other_registrar() -> Registrar {
    Registrar { key: public(9), atsigns: Vec::new() }
}

/// A record as a node with a grant for `pattern` by `registrar` signs it.
pub(super) fn record(
    (registrar, node): (u8, u8),
    pattern: &str,
    (atsign, host, seq): (&AtSign, &str, u64),
) -> SignedRecord {
    let end = Timestamp::from_millis(4_000_000_000_000);
    let pattern = pattern.parse().expect("a pattern");
    let grant = Grant::sign(&key(registrar), public(node), vec![pattern], end);
    let address = format!("{host}:6464").parse().expect("an address");
    SignedRecord::sign(
        &key(node),
        atsign.clone(),
        Location { address, quic: 6464, seq, not_after: end },
        grant,
    )
}

impl Directory {
    pub(super) fn new() -> Self {
        Self { is_up: true, lie: None, records: BTreeMap::new() }
    }

    /// The highest number that was ever registered of an atSign.
    pub(super) fn highest(&self, atsign: &AtSign) -> u64 {
        self.records.get(atsign).and_then(|all| all.last()).map_or(0, |record| record.at.seq)
    }

    /// Another takes its place that has not seen the last registrations.
    pub(super) fn set_back(&mut self) {
        for all in self.records.values_mut().filter(|all| all.len() > 1) {
            all.pop();
        }
    }

    /// Answers one line, as on a connection of its own.
    pub(super) fn answer(&mut self, line: &str, now: Timestamp) -> String {
        let mut conversation = Conversation::new(Dialect::Extended);
        conversation.read(line.as_bytes());
        let mut out = Vec::new();
        match conversation.next(|_, _| Known::Nowhere, &mut out) {
            Step::Record(atsign) => {
                let said = self.says(&atsign);
                drop(conversation.heard(said.as_deref(), &mut out));
            }
            Step::Register(record) => registered(&self.register(*record, now), &mut out),
            Step::Read | Step::Answered | Step::Hold { .. } | Step::Ask(_) | Step::Close => {}
        }
        String::from_utf8(out).unwrap_or_default()
    }

    fn says(&self, atsign: &AtSign) -> Option<String> {
        let truth = self.records.get(atsign).and_then(|all| all.last())?;
        let stranger = ("stranger", truth.at.seq + 5);
        let record = match self.lie {
            None => truth.clone(),
            Some(Lie::Nobody) => return None,
            Some(Lie::Nonsense) => return Some("{\"atsign\":1}".to_owned()),
            Some(Lie::Older) => self.records[atsign][0].clone(),
            Some(Lie::Another) => {
                self.records.values().find_map(|all| all.last().filter(|one| *one != truth))?.clone()
            }
            Some(Lie::Stranger) => record((9, 8), "*", (atsign, stranger.0, stranger.1)),
            Some(Lie::WrongKey) => record((9, 8), "*", (atsign, truth.at.address.host(), stranger.1)),
            Some(Lie::Beyond) => record((1, 8), "@nobody", (atsign, stranger.0, stranger.1)),
            Some(Lie::Forged) => {
                let mut forged = truth.clone();
                forged.at.seq += 5;
                forged.at.address = "stranger:6464".parse().ok()?;
                forged
            }
        };
        Some(record.to_string())
    }

    /// The rule of the real one: the chain holds, and the number does not fall.
    fn register(&mut self, record: SignedRecord, now: Timestamp) -> Result<u64, String> {
        if self.records.get(&record.atsign).and_then(|all| all.last()) == Some(&record) {
            return Ok(record.at.seq);
        }
        let record = registrars().verify(record, now).map_err(|why| why.to_string())?;
        let all = self.records.entry(record.atsign.clone()).or_default();
        let seq = record.at.seq;
        if let Some(known) = all.last() {
            let known = registrars().verify(known.clone(), now).map_err(|why| why.to_string())?;
            if !record.follows(&known).map_err(|why| why.to_string())? {
                return Ok(seq);
            }
        }
        all.push(SignedRecord::clone(&record));
        Ok(seq)
    }
}
