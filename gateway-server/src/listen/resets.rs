//! The key by which a server tells those who speak to its former life that it has gone (RFC 9000 §10.3). It
//! stays the same over restarts: who was connected when the server was killed does not wait for silence to
//! become unbearable.

use std::io;
use std::path::Path;
use std::sync::Arc;

use atedge_service::files::write_private;
use zeroize::Zeroizing;

use crate::random;

/// Its file in the state folder. Without it nothing is lost but that time.
const FILE: &str = "quic.key";

/// Whoever has it can end connections, and do nothing else to them.
#[derive(Clone)]
pub(crate) struct ResetKey(Arc<Zeroizing<[u8; 32]>>);

impl ResetKey {
    /// Reads the key in the folder `state`, or makes one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn open_or_create(state: &Path) -> io::Result<Self> {
        let path = state.join(FILE);
        let kept = std::fs::read(&path).map(Zeroizing::new);
        if let Some(key) = kept.ok().and_then(|kept| <[u8; 32]>::try_from(kept.as_slice()).ok()) {
            return Ok(Self(Arc::new(Zeroizing::new(key))));
        }
        let key = random::key();
        write_private(&path, key.as_slice())?;
        Ok(Self(Arc::new(key)))
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_stays_and_a_broken_one_is_made_anew() {
        let state = tempfile::tempdir().unwrap();
        let key = || *ResetKey::open_or_create(state.path()).unwrap().bytes();
        let first = key();
        assert_eq!(key(), first);
        std::fs::write(state.path().join(FILE), b"short").unwrap();
        let second = key();
        assert!(second != first && key() == second);
    }
}
