//! The seal key: with it alone can be read what the agent keeps on disk.
//!
//! It comes from systemd, as the credential [`CREDENTIAL`], or else lies in a file beside what it seals. A credential
//! takes over from a file: what is there is sealed anew, and when all of it is, the file goes.

pub mod file;
pub mod holder;

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use at_protocol::crypto::{GCM_KEY, GCM_NONCE, GcmKey};
use atedge_service::files::{create_private, wipe, write_private};
use tracing::{error, info};
use zeroize::Zeroizing;

/// Its name among the credentials that systemd passes on.
pub const CREDENTIAL: &str = "atedge-agent.seal";
/// How such a credential is made, once, as root.
pub(crate) const MAKE: &str = "`mkdir -p /etc/credstore.encrypted && head -c 32 /dev/urandom | systemd-creds encrypt \
     --with-key=host --name=atedge-agent.seal - /etc/credstore.encrypted/atedge-agent.seal`";
/// In the state folder: the key, where no credential has it.
pub(crate) const FILE: &str = "seal.key";
/// In the state folder: it is the credential that things are sealed with, and which it was.
const CHECK: &str = "seal.check";
/// What the key in [`CHECK`] has sealed.
const CHECKED: &[u8] = b"atedge seal key";
/// Bytes of a nonce.
pub(crate) const NONCE: usize = GCM_NONCE;
/// Bytes of a key.
pub(crate) const KEY: usize = GCM_KEY;
/// The state folder of the agent that systemd runs, and where its credentials are while it does.
const SERVICE: (&str, &str) = ("/var/lib/atedge/agent", "/run/credentials/atedge-agent.service");

/// Why there is no seal key.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// What is there was sealed with a credential, which this process has not got.
    #[error(
        "{} was sealed with the credential {CREDENTIAL}, which was not passed to this process: systemd passes it to \
         atedge-agent.service; a command gets it by `systemd-run --pipe --wait -p User=atedge-agent -p \
         LoadCredentialEncrypted={CREDENTIAL} COMMAND`",
        .0.display()
    )]
    NotPassed(PathBuf),
    /// It is not the one that things were sealed with.
    #[error(
        "the credential {CREDENTIAL} is not the one that {} was sealed with; pass that one, or move the folder away to \
         begin anew, without what waits in it and the keys in it",
        .0.display()
    )]
    Another(PathBuf),
    /// Something else was passed.
    #[error("the credential {CREDENTIAL} is no key of {KEY} bytes; make one with {MAKE}")]
    Malformed,
    /// The file holds something else.
    #[error("the seal key {} does not have {KEY} bytes; put back a copy of it, or move it away", .0.display())]
    Damaged(PathBuf),
    /// There is none yet.
    #[error("there is no seal key in {}; the agent makes one when it starts", .0.display())]
    Missing(PathBuf),
    /// The disk.
    #[error("cannot use the seal key {}: {cause}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// A key that seals: AES-256-GCM under random nonces. No `Debug`, no `Clone`, zeroed when dropped.
pub struct SealKey(GcmKey);

impl SealKey {
    /// The key of these bytes; `None` if there are not 32.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        GcmKey::new(bytes).map(Self)
    }

    /// Nonce, ciphertext, tag: `plain` bound to `about`, which must be known to open it.
    pub(crate) fn seal(&self, about: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).expect("the kernel gives random bytes");
        self.seal_with(nonce, about, plain)
    }

    /// The same with a random nonce that was never used.
    pub(crate) fn seal_with(&self, nonce: [u8; NONCE], about: &[u8], plain: &[u8]) -> Vec<u8> {
        self.0.seal(nonce, about, plain)
    }

    /// What was sealed; `None` if it was not by this key, about something else, or is damaged.
    pub(crate) fn open(&self, about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.open(about, sealed)
    }
}

/// Bytes of a key that nobody had before.
pub(crate) fn random_key() -> Zeroizing<[u8; KEY]> {
    let mut key = Zeroizing::new([0; KEY]);
    getrandom::fill(&mut *key).expect("the kernel gives random bytes");
    key
}

/// Where the key is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// By the service manager, which passes it on.
    Credential,
    /// In a file beside what it seals.
    File,
}

/// Where to look for the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The state folder.
    pub folder: PathBuf,
    /// The folder of the credentials that were passed on, if any were.
    pub credentials: Option<PathBuf>,
}

impl Place {
    /// That of the agent with this state folder: with what systemd has passed to this process, or passes to the
    /// service while that runs, for those who may look there.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let (state, credentials) = SERVICE;
        let passed = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let credentials = passed.or_else(|| (folder == Path::new(state)).then(|| credentials.into()));
        Self { folder: folder.to_owned(), credentials }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether a credential seals what is here, as far as the folder says.
    pub(crate) fn is_credentials(&self) -> bool {
        self.path(CHECK).exists()
    }

    fn credential(&self) -> Result<Option<SealKey>, SealError> {
        let Some(folder) = &self.credentials else { return Ok(None) };
        match read(&folder.join(CREDENTIAL))? {
            Some(bytes) => SealKey::new(&bytes).map(Some).ok_or(SealError::Malformed),
            None => Ok(None),
        }
    }
}

/// The seal key of a state folder.
pub struct Seal {
    key: SealKey,
    /// What things were sealed with until a credential took over.
    former: Option<SealKey>,
    kept: Kept,
    is_new: bool,
    place: Place,
}

impl Seal {
    /// The key, as far as there is one: nothing is made.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn look(place: Place) -> Result<Self, SealError> {
        let with = |key, former, kept, place| Self { key, former, kept, is_new: false, place };
        let path = place.path(FILE);
        if let Some(key) = place.credential()? {
            let former = read(&path)?.and_then(|bytes| SealKey::new(&bytes));
            return Ok(with(key, former, Kept::Credential, place));
        }
        if place.is_credentials() {
            return Err(SealError::NotPassed(place.folder));
        }
        match read(&path)?.map(|bytes| SealKey::new(&bytes)) {
            Some(Some(key)) => Ok(with(key, None, Kept::File, place)),
            Some(None) => Err(SealError::Damaged(path)),
            None => Err(SealError::Missing(place.folder)),
        }
    }

    /// The key; one is made in a file where there is none. A file that holds no key is moved away.
    ///
    /// # Errors
    /// When things are sealed with a credential that was not passed, or with another, or the folder cannot be used.
    pub fn open(place: Place) -> Result<Self, SealError> {
        let path = place.path(FILE);
        let failed = |cause| SealError::Io { path: path.clone(), cause };
        match Self::look(place.clone()) {
            Err(SealError::Missing(_)) => {}
            Err(SealError::Damaged(_)) => {
                error!(file = %path.display(), "the seal key is damaged; what was sealed with it cannot be read");
                std::fs::rename(&path, place.path("seal.key.damaged")).map_err(failed)?;
            }
            other => return other,
        }
        let fresh = random_key();
        match create_private(&path, &*fresh) {
            Ok(()) => Ok(Self { is_new: true, ..Self::look(place)? }),
            // Somebody else was faster; it is as good.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::look(place),
            Err(cause) => Err(failed(cause)),
        }
    }

    /// Where the key is kept.
    #[must_use]
    pub const fn kept(&self) -> Kept {
        self.kept
    }

    /// Whether it was made just now.
    pub(crate) const fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether things may still be sealed with another key, from before a credential took over.
    pub(crate) const fn takes_over(&self) -> bool {
        self.former.is_some()
    }

    /// Whether it is certainly not the credential that the folder was sealed with last; what says so can be damaged.
    pub(crate) fn is_suspect(&self) -> bool {
        let check = self.place.path(CHECK);
        let known = || Some(self.key.open(CHECKED, &std::fs::read(&check).ok()?).is_some());
        self.kept == Kept::Credential && !self.takes_over() && known() == Some(false)
    }

    /// Seals, bound to `about`.
    pub(crate) fn seal(&self, about: &[u8], plain: &[u8]) -> Vec<u8> {
        self.key.seal(about, plain)
    }

    /// What was sealed, and whether it was with the former key.
    pub(crate) fn open_sealed(&self, about: &[u8], sealed: &[u8]) -> Option<(Zeroizing<Vec<u8>>, bool)> {
        let former = || self.former.as_ref()?.open(about, sealed).map(|plain| (Zeroizing::new(plain), true));
        self.key.open(about, sealed).map(|plain| (Zeroizing::new(plain), false)).or_else(former)
    }

    /// All that is in the folder is sealed with this key now: a file that it took over from goes.
    ///
    /// # Errors
    /// When the disk does not let it; the next start tries again.
    pub fn settle(&self) -> Result<(), SealError> {
        if self.kept == Kept::File {
            return Ok(());
        }
        let check = self.place.path(CHECK);
        let known = std::fs::read(&check).is_ok_and(|check| self.key.open(CHECKED, &check).is_some());
        if !known {
            let written = write_private(&check, &self.key.seal(CHECKED, b""));
            written.map_err(|cause| SealError::Io { path: check, cause })?;
        }
        let path = self.place.path(FILE);
        let failed = |cause| SealError::Io { path: path.clone(), cause };
        match File::options().write(true).open(&path) {
            Ok(file) => {
                wipe(&file).and_then(|()| std::fs::remove_file(&path)).map_err(failed)?;
                info!(
                    "the seal key comes from the credential {CREDENTIAL} from now on; {FILE} is overwritten and gone"
                );
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The bytes of a key file, at most one more than a key has; `None` if there is no file.
fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY + 1));
    let opened = File::open(path).and_then(|file| file.take(KEY as u64 + 1).read_to_end(&mut bytes));
    match opened {
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(SealError::Io { path: path.to_owned(), cause }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A credential is passed from now on.
    pub(crate) fn pass(place: &mut Place, key: u8) {
        let folder = place.folder.join("credentials");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(CREDENTIAL), [key; KEY]).unwrap();
        place.credentials = Some(folder);
    }

    fn place(folder: &Path) -> Place {
        Place { folder: folder.to_owned(), credentials: None }
    }

    #[test]
    fn the_key_file_is_private_and_one_that_is_no_key_is_put_by() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        assert!(matches!(Seal::look(place.clone()), Err(SealError::Missing(_))));
        let seal = Seal::open(place.clone()).ok().unwrap();
        assert!(seal.is_new() && seal.kept() == Kept::File);
        let path = folder.path().join(FILE);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let sealed = seal.seal(b"a", b"plain");
        let again = Seal::open(place.clone()).ok().unwrap();
        assert_eq!(again.open_sealed(b"a", &sealed).unwrap().0.as_slice(), b"plain");
        assert!(!again.is_new() && again.open_sealed(b"b", &sealed).is_none());
        std::fs::write(&path, b"torn").unwrap();
        assert!(matches!(Seal::look(place.clone()), Err(SealError::Damaged(_))));
        assert!(Seal::open(place).ok().unwrap().is_new());
        assert_eq!(std::fs::read(folder.path().join("seal.key.damaged")).unwrap(), b"torn");
    }

    #[test]
    fn a_credential_takes_over_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = place(folder.path());
        let before = Seal::open(place.clone()).ok().unwrap().seal(b"a", b"plain");
        pass(&mut place, 7);
        let seal = Seal::open(place.clone()).ok().unwrap();
        assert!(seal.takes_over() && seal.kept() == Kept::Credential);
        assert_eq!(
            seal.open_sealed(b"a", &before).map(|(plain, former)| (plain.to_vec(), former)),
            Some((b"plain".to_vec(), true))
        );
        seal.settle().unwrap();
        assert!(!folder.path().join(FILE).exists());
        // Settled, the former key is gone, and nothing is made in the credential's stead.
        let seal = Seal::open(place.clone()).ok().unwrap();
        assert!(!seal.takes_over() && !seal.is_suspect() && seal.open_sealed(b"a", &before).is_none());
        let alone = Place { credentials: None, ..place.clone() };
        assert!(matches!(Seal::open(alone), Err(SealError::NotPassed(_))));
        assert!(!folder.path().join(FILE).exists());
        pass(&mut place, 8);
        assert!(Seal::open(place.clone()).ok().unwrap().is_suspect());
        std::fs::write(place.credentials.as_ref().unwrap().join(CREDENTIAL), b"short").unwrap();
        assert!(matches!(Seal::open(place), Err(SealError::Malformed)));
    }
}
