//! What senders may repeat, so that a repeat is known: one row for all that a session delivered in one group.

use std::collections::BTreeMap;
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

/// What was last delivered under an identifier.
fn digest_of(packet: u16, bytes: &[u8]) -> Option<&[u8]> {
    let mut newest_first = bytes.chunks_exact(PACKET).rev();
    newest_first.find_map(|entry| entry.strip_prefix(&packet.to_be_bytes()))
}

impl Store {
    /// Whether the sender says that this is a repeat, and it is one of what we remember. It is remembered from now
    /// on under its own number: what it repeats is settled before it is.
    pub(super) fn delivered(&mut self, delivery: &Delivery) -> rusqlite::Result<bool> {
        let is_repeat = delivery.dup && self.is_known(delivery)?;
        if !self.delivered.contains_key(&delivery.session) {
            self.delivered.insert(Arc::clone(&delivery.session), Packets::default());
        }
        let packets = self.delivered.get_mut(&delivery.session).expect("it was just put there");
        packets.last = delivery.number;
        packets.bytes.extend_from_slice(&delivery.packet.to_be_bytes());
        packets.bytes.extend_from_slice(&delivery.digest);
        Ok(is_repeat)
    }

    fn is_known(&self, Delivery { session, packet, digest, .. }: &Delivery) -> rusqlite::Result<bool> {
        let of_this_group =
            self.delivered.get(session).and_then(|packets| digest_of(*packet, &packets.bytes));
        if let Some(known) = of_this_group {
            return Ok(known == digest);
        }
        let mut select = self.db.prepare_cached(
            "SELECT packets FROM delivered WHERE session = ? ORDER BY epoch DESC, last DESC",
        )?;
        let mut rows = select.query([&**session])?;
        while let Some(row) = rows.next()? {
            if let Some(known) = digest_of(*packet, row.get_ref(0)?.as_blob()?) {
                return Ok(known == digest);
            }
        }
        Ok(false)
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
    pub(super) fn settle(&self, session: &str, upto: u64) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("DELETE FROM delivered WHERE session = ? AND (epoch, last) <= (?, ?)")?
            .execute(params![session, self.boot.epoch(), upto])?;
        Ok(())
    }

    /// The session began anew: what it may repeat is nothing.
    pub(super) fn forget_session(&self, session: &str) -> rusqlite::Result<()> {
        self.db.prepare_cached("DELETE FROM delivered WHERE session = ?")?.execute([session])?;
        Ok(())
    }
}
