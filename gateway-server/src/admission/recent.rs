//! A map that forgets: bounded, without a timer.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// Keeps at least the last `most` keys that were asked for or written, and at most twice as many.
///
/// Two generations: a full one becomes the old one, and what is used moves over from there. So each step
/// costs the same, however many strangers make up keys.
pub(super) struct Recent<K, V> {
    most: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Clone, V: Default> Recent<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, young: HashMap::new(), old: HashMap::new() }
    }

    /// What is known of `key`.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// What is known of `key`, to be changed; a new value if nothing is known.
    pub(super) fn entry(&mut self, key: &K) -> &mut V {
        if !self.young.contains_key(key) && self.young.len() >= self.most {
            self.old = mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young.entry(key.clone()).or_insert_with(|| old.remove(key).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recent_keys_go_first() {
        let mut recent = Recent::<u32, u32>::new(10);
        for key in 0..10_000 {
            *recent.entry(&0) += 1;
            *recent.entry(&key) += 1;
            assert!(recent.young.len() + recent.old.len() <= 20);
        }
        assert_eq!(recent.get(&0), Some(&10_001), "what is used stays");
        assert_eq!(recent.get(&9_999), Some(&1));
        assert_eq!(recent.get(&5), None);
    }
}
