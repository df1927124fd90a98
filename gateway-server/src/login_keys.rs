//! Public keys that logins were checked with lately, ready to be used again: to read one costs as much as
//! to check a signature with it.
//!
//! A key is found by its stored text, so nothing here goes out of date.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use at_protocol::crypto::PkamPublicKey;

/// Keys in each of two generations. One has about 2 kB, so all of them have 8 MB at most.
const MOST: usize = 2048;

/// The keys. When the young generation is full it becomes the old one, which is forgotten.
#[derive(Default)]
pub(crate) struct LoginKeys {
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: Keys,
    old: Keys,
}

type Keys = HashMap<Box<str>, Arc<PkamPublicKey>>;

impl LoginKeys {
    /// Reads a key; `None` if the text is none.
    pub(crate) fn read(&self, text: &str) -> Option<Arc<PkamPublicKey>> {
        if let Some(key) = self.with(|keys| keys.young.get(text).or_else(|| keys.old.get(text)).cloned()) {
            self.keep(text, &key);
            return Some(key);
        }
        let key = Arc::new(text.parse().ok()?);
        self.keep(text, &key);
        Some(key)
    }

    fn keep(&self, text: &str, key: &Arc<PkamPublicKey>) {
        self.with(|keys| {
            if keys.young.contains_key(text) {
                return;
            }
            if keys.young.len() >= MOST {
                keys.old = std::mem::take(&mut keys.young);
            }
            keys.young.insert(text.into(), Arc::clone(key));
        });
    }

    fn with<T>(&self, does: impl FnOnce(&mut Generations) -> T) -> T {
        does(&mut self.generations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use at_protocol::crypto::RsaPrivateKey;

    use super::*;

    #[test]
    fn a_key_is_read_once_and_what_is_none_never() {
        let key = RsaPrivateKey::generate();
        let text = key.public().to_base64();
        let ring = LoginKeys::default();
        let first = ring.read(text).unwrap();
        assert!(Arc::ptr_eq(&first, &ring.read(text).unwrap()));
        assert!(ring.read("no key").is_none());
        assert_eq!(ring.with(|keys| keys.young.len()), 1);
    }
}
