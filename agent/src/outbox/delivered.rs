//! What senders may repeat, so that a repeat is known: one row for all that a session delivered in one group.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use atedge_adapters::{Delivery, Digest};
use rusqlite::params;

use super::store::Store;
use crate::failpoint::Failpoint;

/// The deliveries of one group, by session.
pub(super) type Delivered = BTreeMap<Arc<str>, Packets>;

/// Packet identifiers with digests, in the order that they came.
#[derive(Default)]
pub(super) struct Packets {
    /// The number of the last delivery.
    last: u64,
    /// Packet identifier (2 bytes, big endian) and digest of each.
    bytes: Vec<u8>,
}

/// Bytes of one of them.
const PACKET: usize = 2 + size_of::<Digest>();

/// What the last session that repeats something has delivered: its newest digest under each identifier. A broker may
/// repeat all that piled up for a gateway that was away, and each is looked for.
pub(super) struct Repeating {
    session: Arc<str>,
    newest: HashMap<u16, Digest>,
}

impl Repeating {
    /// Takes what was delivered after all that it has.
    fn extend(&mut self, bytes: &[u8]) {
        self.newest.extend(bytes.chunks_exact(PACKET).filter_map(|entry| {
            let (packet, digest) = entry.split_first_chunk()?;
            Some((u16::from_be_bytes(*packet), digest.try_into().ok()?))
        }));
    }
}

impl Store {
    /// Whether the sender says that this is a repeat, and it is one of what we remember. It is remembered from now
    /// on under its own number: what it repeats is settled before it is.
    pub(super) fn delivered(&mut self, delivery: &Delivery) -> rusqlite::Result<bool> {
        let Delivery { session, number, packet, digest, .. } = delivery;
        let is_repeat = delivery.dup && self.repeating(session)?.newest.get(packet) == Some(digest);
        if let Some(repeating) = self.repeating.as_mut().filter(|repeating| repeating.session == *session) {
            repeating.newest.insert(*packet, *digest);
        }
        if !self.delivered.contains_key(session) {
            self.delivered.insert(Arc::clone(session), Packets::default());
        }
        let packets = self.delivered.get_mut(session).expect("it was just put there");
        packets.last = *number;
        packets.bytes.extend_from_slice(&packet.to_be_bytes());
        packets.bytes.extend_from_slice(digest);
        Ok(is_repeat)
    }

    /// What this session has delivered, this group's among it.
    fn repeating(&mut self, session: &Arc<str>) -> rusqlite::Result<&mut Repeating> {
        let known = self.repeating.take().filter(|known| known.session == *session);
        let repeating = match known {
            Some(known) => known,
            None => self.read_delivered(session)?,
        };
        Ok(self.repeating.insert(repeating))
    }

    fn read_delivered(&self, session: &Arc<str>) -> rusqlite::Result<Repeating> {
        let mut repeating = Repeating { session: Arc::clone(session), newest: HashMap::new() };
        let mut select =
            self.db.prepare_cached("SELECT packets FROM delivered WHERE session = ? ORDER BY epoch, last")?;
        let mut rows = select.query([&**session])?;
        while let Some(row) = rows.next()? {
            repeating.extend(row.get_ref(0)?.as_blob()?);
        }
        if let Some(packets) = self.delivered.get(session) {
            repeating.extend(&packets.bytes);
        }
        Ok(repeating)
    }

    /// Writes down what was delivered in this group.
    pub(super) fn keep_delivered(&mut self) -> rusqlite::Result<()> {
        if self.delivered.is_empty() {
            return Ok(());
        }
        let mut insert = self.db.prepare_cached("INSERT OR REPLACE INTO delivered VALUES(?, ?, ?, ?)")?;
        for (session, Packets { last, bytes }) in std::mem::take(&mut self.delivered) {
            insert.execute(params![&*session, self.boot.epoch(), last, bytes])?;
        }
        Failpoint::DeliveryRemembered.pass();
        Ok(())
    }

    /// The sender will not repeat what it delivered up to this number, nor what it did in earlier runs: forget it.
    pub(super) fn settle(&mut self, session: &str, upto: u64) -> rusqlite::Result<()> {
        self.repeating = None;
        self.db
            .prepare_cached("DELETE FROM delivered WHERE session = ? AND (epoch, last) <= (?, ?)")?
            .execute(params![session, self.boot.epoch(), upto])?;
        Ok(())
    }

    /// The session began anew: what it may repeat is nothing.
    pub(super) fn forget_session(&mut self, session: &str) -> rusqlite::Result<()> {
        self.repeating = None;
        self.db.prepare_cached("DELETE FROM delivered WHERE session = ?")?.execute([session])?;
        Ok(())
    }
}
