//! What another directory said, as long as there is room.

use std::collections::HashMap;

use at_protocol::AtSign;
use at_protocol::directory::Address;
use tokio::time::Instant;

/// An answer and its age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    /// `None` where the other knows no such atSign.
    pub(super) address: Option<Address>,
    /// When it was said.
    pub(super) at: Instant,
}

/// Answers by atSign, of which those that nobody asks for go first: when the newer half is full it becomes the
/// older one, and what nobody has asked for since the last time is gone.
#[derive(Debug)]
pub(super) struct Cache {
    newer: HashMap<AtSign, Heard>,
    older: HashMap<AtSign, Heard>,
    half: usize,
}

impl Cache {
    /// Room for `most` answers, and for two at least.
    pub(super) fn new(most: usize) -> Self {
        Self { newer: HashMap::new(), older: HashMap::new(), half: (most / 2).max(1) }
    }

    pub(super) fn get(&mut self, atsign: &AtSign) -> Option<Heard> {
        if let Some(heard) = self.newer.get(atsign) {
            return Some(heard.clone());
        }
        let (atsign, heard) = self.older.remove_entry(atsign)?;
        self.put(atsign, heard.clone());
        Some(heard)
    }

    pub(super) fn put(&mut self, atsign: AtSign, heard: Heard) {
        if self.newer.len() >= self.half && !self.newer.contains_key(&atsign) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(atsign, heard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let mut cache = Cache::new(100);
        let atsign = |n: u32| format!("@a{n}").parse::<AtSign>().unwrap();
        let heard = Heard { address: Some("a.example:1".parse().unwrap()), at: Instant::now() };
        for n in 0..10_000 {
            cache.put(atsign(n), heard.clone());
            assert_eq!(cache.get(&atsign(0)), Some(heard.clone()), "after {n}");
            assert!(cache.newer.len() + cache.older.len() <= 100);
        }
        assert_eq!(cache.get(&atsign(1)), None);
        assert_eq!(cache.get(&atsign(9_999)), Some(heard));
    }
}
