//! Records are sealed while they wait: AES-256-GCM under a segment key that is fresh at every start and
//! itself wrapped by the gateway's seal key.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use zeroize::Zeroizing;

/// Bytes of a nonce (NIST SP 800-38D §8.2.2: random, 96 bits).
const NONCE: usize = 12;
/// Bytes of a key.
const KEY: usize = 32;
/// A segment key seals at most this many records, far below the 2^32 that random nonces allow (NIST
/// SP 800-38D §8.3).
pub(super) const SEGMENT_RECORDS: u64 = 1 << 28;
/// How many segment keys are kept unwrapped for reading.
const OPEN_SEGMENTS: usize = 8;

/// The gateway's own key, in a file that only its user can read. It protects a copied database, not a
/// stolen box.
pub(super) struct SealKey(Aes256Gcm);

/// Why there is no seal key.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealKeyError {
    /// The file exists and does not hold a key.
    #[error("the file does not hold a key of {KEY} bytes")]
    Malformed,
    /// The disk.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl SealKey {
    /// Reads the key in `path`, or makes one there if the file does not exist.
    pub(super) fn open_or_create(path: &Path) -> Result<Self, SealKeyError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let fresh = random_key();
                atedge_service::files::write_private(path, &*fresh)?;
                Zeroizing::new(fresh.to_vec())
            }
            Err(error) => return Err(error.into()),
        };
        Aes256Gcm::new_from_slice(&bytes).map(Self).map_err(|_| SealKeyError::Malformed)
    }

    fn wrap(&self, segment: i64, key: &[u8; KEY]) -> Vec<u8> {
        seal(&self.0, &aad_of_segment(segment), key)
    }

    /// `None` if the bytes were not wrapped by this key under this number.
    fn unwrap(&self, segment: i64, wrapped: &[u8]) -> Option<Aes256Gcm> {
        let key = Zeroizing::new(open(&self.0, &aad_of_segment(segment), wrapped)?);
        Aes256Gcm::new_from_slice(&key).ok()
    }
}

/// The segment keys in use: one to seal with, some to open with.
pub(super) struct Segments {
    seal_key: Arc<SealKey>,
    current: Option<(i64, Aes256Gcm, u64)>,
    open: HashMap<i64, Option<Aes256Gcm>>,
}

impl Segments {
    pub(super) fn new(seal_key: Arc<SealKey>) -> Self {
        Self { seal_key, current: None, open: HashMap::new() }
    }

    /// The segment to seal with now; `None` when the next record needs a new one, see
    /// [`Segments::begin`].
    pub(super) fn current(&self) -> Option<i64> {
        self.current.as_ref().filter(|(_, _, sealed)| *sealed < SEGMENT_RECORDS).map(|(id, _, _)| *id)
    }

    /// Makes a key for segment `id` and returns it wrapped, to be stored.
    pub(super) fn begin(&mut self, id: i64) -> Vec<u8> {
        let key = random_key();
        let cipher = Aes256Gcm::new_from_slice(&*key).expect("a key has 32 bytes");
        self.current = Some((id, cipher, 0));
        self.seal_key.wrap(id, &key)
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
        seal(cipher, id.as_bytes(), plain)
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
            return Ok(open(cipher, id.as_bytes(), sealed));
        }
        if !self.open.contains_key(&segment) {
            if self.open.len() >= OPEN_SEGMENTS {
                self.open.clear();
            }
            let cipher = stored()?.and_then(|wrapped| self.seal_key.unwrap(segment, &wrapped));
            self.open.insert(segment, cipher);
        }
        let cipher = self.open.get(&segment).and_then(Option::as_ref);
        Ok(cipher.and_then(|cipher| open(cipher, id.as_bytes(), sealed)))
    }

    /// Whether this gateway's seal key wrapped `wrapped`.
    pub(super) fn is_ours(&self, segment: i64, wrapped: &[u8]) -> bool {
        self.seal_key.unwrap(segment, wrapped).is_some()
    }
}

fn aad_of_segment(segment: i64) -> Vec<u8> {
    format!("atedge segment {segment}").into_bytes()
}

fn random_key() -> Zeroizing<[u8; KEY]> {
    let mut key = Zeroizing::new([0; KEY]);
    getrandom::fill(&mut *key).expect("the kernel gives random bytes");
    key
}

/// Nonce, ciphertext, tag.
fn seal(cipher: &Aes256Gcm, aad: &[u8], msg: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).expect("the kernel gives random bytes");
    let sealed = cipher.encrypt(&Nonce::from(nonce), Payload { msg, aad }).expect("a record is no 64 GiB");
    let mut out = Vec::with_capacity(NONCE + sealed.len());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    out
}

fn open(cipher: &Aes256Gcm, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, msg) = sealed.split_first_chunk::<NONCE>()?;
    cipher.decrypt(&Nonce::from(*nonce), Payload { msg, aad }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(folder: &Path) -> Segments {
        Segments::new(Arc::new(SealKey::open_or_create(&folder.join("seal.key")).ok().unwrap()))
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

    #[test]
    fn the_key_file_is_private_and_one_that_is_no_key_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seal.key");
        assert!(SealKey::open_or_create(&path).is_ok());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, b"torn").unwrap();
        assert!(matches!(SealKey::open_or_create(&path), Err(SealKeyError::Malformed)));
    }
}
