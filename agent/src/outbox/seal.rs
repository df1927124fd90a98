//! Records are sealed while they wait: under a segment key that is fresh at every start and itself wrapped by
//! the gateway's [seal key](crate::seal).

use std::collections::HashMap;
use std::sync::Arc;

use crate::seal::{NONCE, Seal, SealKey, random_key};

/// A segment key seals at most this many records, far below the 2^32 that random nonces allow (NIST
/// SP 800-38D §8.3).
pub(super) const SEGMENT_RECORDS: u64 = 1 << 28;
/// How many segment keys are kept unwrapped for reading.
const OPEN_SEGMENTS: usize = 8;
/// Nonces that are drawn at once: each draw is a system call.
const NONCES: usize = 64;

/// The segment keys in use: one to seal with, some to open with.
pub(super) struct Segments {
    seal_key: Arc<Seal>,
    current: Option<(i64, SealKey, u64)>,
    open: HashMap<i64, Option<SealKey>>,
    /// Random, for the next records.
    nonces: Vec<[u8; NONCE]>,
}

impl Segments {
    pub(super) fn new(seal_key: Arc<Seal>) -> Self {
        Self { seal_key, current: None, open: HashMap::new(), nonces: Vec::new() }
    }

    /// The seal key.
    pub(super) fn seal_key(&self) -> Arc<Seal> {
        Arc::clone(&self.seal_key)
    }

    /// The segment to seal with now; `None` when the next record needs a new one, see
    /// [`Segments::begin`].
    pub(super) fn current(&self) -> Option<i64> {
        self.current.as_ref().filter(|(_, _, sealed)| *sealed < SEGMENT_RECORDS).map(|(id, _, _)| *id)
    }

    /// Makes a key for segment `id` and returns it wrapped, to be stored.
    pub(super) fn begin(&mut self, id: i64) -> Vec<u8> {
        let key = random_key();
        let cipher = SealKey::new(&*key).expect("a key has 32 bytes");
        self.current = Some((id, cipher, 0));
        self.seal_key.seal(&aad_of_segment(id), &*key)
    }

    /// Forgets the segment to seal with: its row may not have been stored.
    pub(super) fn forget(&mut self) {
        self.current = None;
        self.open.clear();
    }

    /// Seals `plain` under the current segment, bound to `id`; the caller has made sure there is one.
    pub(super) fn seal(&mut self, id: &str, plain: &[u8]) -> Vec<u8> {
        let (_, cipher, sealed) = self.current.as_mut().expect("a segment was begun");
        *sealed += 1;
        let nonce = self.nonces.pop().unwrap_or_else(|| {
            let mut drawn = [[0; NONCE]; NONCES];
            getrandom::fill(drawn.as_flattened_mut()).expect("the kernel gives random bytes");
            let [first, rest @ ..] = drawn;
            self.nonces.extend(rest);
            first
        });
        cipher.seal_with(nonce, id.as_bytes(), plain)
    }

    /// Opens what was sealed for `id` in `segment`, whose wrapped key `stored` fetches when it is not
    /// known yet. `None` if it was damaged or tampered with.
    pub(super) fn open<E>(
        &mut self,
        segment: i64,
        stored: impl FnOnce() -> Result<Option<Vec<u8>>, E>,
        id: &str,
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>, E> {
        if let Some((current, cipher, _)) = &self.current
            && *current == segment
        {
            return Ok(cipher.open(id.as_bytes(), sealed));
        }
        if !self.open.contains_key(&segment) {
            if self.open.len() >= OPEN_SEGMENTS {
                self.open.clear();
            }
            let cipher = stored()?.and_then(|wrapped| self.unwrap(segment, &wrapped));
            self.open.insert(segment, cipher);
        }
        let cipher = self.open.get(&segment).and_then(Option::as_ref);
        Ok(cipher.and_then(|cipher| cipher.open(id.as_bytes(), sealed)))
    }

    /// Whether this gateway's seal key wrapped `wrapped`.
    pub(super) fn is_ours(&self, segment: i64, wrapped: &[u8]) -> bool {
        self.unwrap(segment, wrapped).is_some()
    }

    fn unwrap(&self, segment: i64, wrapped: &[u8]) -> Option<SealKey> {
        let (key, _) = self.seal_key.open_sealed(&aad_of_segment(segment), wrapped)?;
        SealKey::new(&key)
    }

    /// The key in `wrapped`, wrapped anew, if a former seal key did that.
    pub(super) fn rewrap(&self, segment: i64, wrapped: &[u8]) -> Option<Vec<u8>> {
        let about = aad_of_segment(segment);
        let (key, former) = self.seal_key.open_sealed(&about, wrapped)?;
        former.then(|| self.seal_key.seal(&about, &key))
    }
}

fn aad_of_segment(segment: i64) -> Vec<u8> {
    format!("atedge segment {segment}").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::seal::Place;

    fn segments(folder: &Path) -> Segments {
        let place = Place { folder: folder.to_owned(), credentials: None };
        Segments::new(Arc::new(Seal::open(place).ok().unwrap()))
    }

    #[test]
    fn what_is_sealed_opens_under_its_own_id_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = segments(folder.path());
        let wrapped = first.begin(1);
        let sealed = first.seal("boiler/process/1-00/1", b"62.1");
        assert!(!sealed.windows(4).any(|window| window == b"62.1"));

        // The next start has another current segment and unwraps the old one.
        let mut later = segments(folder.path());
        later.begin(2);
        let mut open = |id: &str, sealed: &[u8]| {
            later.open(1, || Ok::<_, ()>(Some(wrapped.clone())), id, sealed).unwrap()
        };
        assert_eq!(open("boiler/process/1-00/1", &sealed).as_deref(), Some(b"62.1".as_slice()));
        assert_eq!(open("boiler/process/1-00/2", &sealed), None, "moved to another id");
        let mut bent = sealed.clone();
        bent[NONCE] ^= 1;
        assert_eq!(open("boiler/process/1-00/1", &bent), None);
        assert_eq!(open("boiler/process/1-00/1", b"short"), None);
    }
}
