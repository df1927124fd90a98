//! The certificate that a daemon shows, which may be replaced while it runs.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::client::verifier;
use super::{ClientCertificates, DevAuthority, TlsError, read_certificates};

/// How long before its end a certificate is called old: time for a person to act, and a fraction of the
/// shortest lifetimes in use. The certificate of `dev` is made anew then.
const OLD: Duration = Duration::from_hours(24 * 7);

/// A chain and its key, in two PEM files, which may be one.
///
/// It is what both ends of connections show: the configurations that are made of it ask it at each
/// handshake, so that a [`refresh`](Self::refresh) reaches them all and no connection notices.
#[derive(Debug)]
pub struct OwnCertificate {
    cert: PathBuf,
    key: PathBuf,
    /// Where its authority lives, and what it has to name, if it comes from one of our own.
    authority: Option<(PathBuf, Vec<String>)>,
    shown: RwLock<Arc<CertifiedKey>>,
    watched: Mutex<Watched>,
}

/// What was seen and said when the files were last looked at.
#[derive(Debug)]
struct Watched {
    files: Option<[Stamp; 2]>,
    /// The files are new and cannot be used: perhaps only one of the two is there yet.
    unsettled: bool,
    standing: Standing,
}

/// What of a file changes with its content.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Where a certificate is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    /// It ends within [`OLD`].
    Old,
    /// Clients will refuse it.
    Expired,
}

impl OwnCertificate {
    /// Reads certificate and key. One whose time is over is taken, too, with a warning: who can do without
    /// it, such as a session over a pinned key, goes on.
    ///
    /// # Errors
    /// When a file cannot be read or the two do not belong together.
    pub fn open(cert: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        Self::with(cert, key, None)
    }

    /// One of our own authority in `state`, which is renewed before it ends.
    ///
    /// # Errors
    /// When the folder is not writable or a name is none.
    pub(super) fn made(state: &Path, names: &[String]) -> Result<Arc<Self>, TlsError> {
        let authority = issue(state, names)?;
        Self::with(&authority.cert(), &authority.key(), Some((state.to_owned(), names.to_owned())))
    }

    fn with(
        cert: &Path,
        key: &Path,
        authority: Option<(PathBuf, Vec<String>)>,
    ) -> Result<Arc<Self>, TlsError> {
        let files = stamps(cert, key);
        let shown = read(cert, key)?;
        let standing = standing(&shown, SystemTime::now());
        standing.tell(cert);
        let watched = Watched { files, unsettled: false, standing };
        Ok(Arc::new(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            authority,
            shown: RwLock::new(Arc::new(shown)),
            watched: Mutex::new(watched),
        }))
    }

    /// A listener's configuration with this certificate: TLS 1.3, and TLS 1.2 with AEAD suites (older
    /// atSDKs need it). `protocols` are offered by ALPN; who asks for none is served all the same.
    ///
    /// # Errors
    /// Never, with the suites that are built in.
    pub fn server_config(
        self: &Arc<Self>,
        clients: ClientCertificates,
        protocols: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        self.config_resolved_by(Arc::clone(self) as Arc<dyn ResolvesServerCert>, clients, protocols)
    }

    /// The same, where somebody else decides at each handshake what is shown.
    pub(super) fn config_resolved_by(
        &self,
        resolver: Arc<dyn ResolvesServerCert>,
        clients: ClientCertificates,
        protocols: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        // rustls has AEAD suites only, in both versions.
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|source| self.unusable(source))?
            .with_client_cert_verifier(verifier(clients))
            .with_cert_resolver(resolver);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Looks whether the files were replaced, and shows what they hold from now on; cheap when they were
    /// not. Files that cannot be used are said once, and what was good stays. Blocks on the disk.
    pub fn refresh(&self) {
        self.refresh_at(SystemTime::now());
    }

    fn refresh_at(&self, now: SystemTime) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        self.renew(now);
        let files = stamps(&self.cert, &self.key);
        let is_new = files != watched.files;
        if is_new || watched.unsettled {
            match read(&self.cert, &self.key) {
                Ok(shown) => {
                    *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
                    tracing::info!(file = %self.cert.display(), "a new certificate is shown from now on");
                    watched.unsettled = false;
                }
                // Certificate and key are replaced one after the other: the next look decides.
                Err(_) if is_new => watched.unsettled = true,
                Err(error) => {
                    tracing::error!(%error, "the new certificate is no good, the one before stays");
                    watched.unsettled = false;
                }
            }
            watched.files = files;
        }
        let standing = standing(&self.shown(), now);
        if standing != watched.standing {
            standing.tell(&self.cert);
            watched.standing = standing;
        }
    }

    /// Has our own authority, if it is one's own, issue another before the time of this one is over.
    fn renew(&self, now: SystemTime) {
        let Some((state, names)) = &self.authority else { return };
        if standing(&self.shown(), now) == Standing::Good {
            return;
        }
        if let Err(error) = issue(state, names) {
            tracing::error!(%error, "the certificate cannot be renewed");
        }
    }

    fn shown(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::Unusable { cert: self.cert.clone(), key: self.key.clone(), source }
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown();
        shown.key.choose_scheme(schemes).is_some().then_some(shown)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Standing {
    fn tell(self, cert: &Path) {
        let file = cert.display();
        match self {
            Self::Good => {}
            Self::Old => tracing::warn!(%file, "the certificate ends within {} days, renew it", days(OLD)),
            Self::Expired => {
                tracing::error!(%file, "THE CERTIFICATE HAS EXPIRED: clients refuse it; replace the file, no restart is needed");
            }
        }
    }
}

fn days(time: Duration) -> u64 {
    time.as_secs() / (24 * 60 * 60)
}

fn issue(state: &Path, names: &[String]) -> Result<DevAuthority, TlsError> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Ok(DevAuthority::open_or_create(state, &names)?)
}

fn read(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = read_certificates(cert)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem {
        what: TlsError::KEY,
        path: key.to_owned(),
        source,
    })?;
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())
        .map_err(|source| TlsError::Unusable { cert: cert.to_owned(), key: key.to_owned(), source })
}

/// What a certificate that cannot be read says about its time is left to clients.
fn standing(shown: &CertifiedKey, now: SystemTime) -> Standing {
    let leaf = shown.cert.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let Some((_, leaf)) = leaf else { return Standing::Good };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let left = leaf.validity().not_after.timestamp().saturating_sub(i64::try_from(now).unwrap_or(i64::MAX));
    match u64::try_from(left) {
        Err(_) => Standing::Expired,
        Ok(left) if left < OLD.as_secs() => Standing::Old,
        Ok(_) => Standing::Good,
    }
}

/// `None` while one of them is missing.
fn stamps(cert: &Path, key: &Path) -> Option<[Stamp; 2]> {
    let stamp = |path: &Path| {
        let file: Metadata = path.metadata().ok()?;
        Some(Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        })
    };
    Some([stamp(cert)?, stamp(key)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        folder: tempfile::TempDir,
        own: Arc<OwnCertificate>,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let first = DevAuthority::open_or_create(&folder.path().join("a"), &[]).unwrap();
            let cert = folder.path().join("server.pem");
            std::fs::copy(first.cert(), &cert).unwrap();
            let own = OwnCertificate::open(&cert, &cert).unwrap();
            Self { folder, own }
        }

        fn leaf(&self) -> Vec<u8> {
            self.own.shown().cert[0].to_vec()
        }

        /// Replaces the file as a renewal does, with a rename.
        fn replace(&self, bytes: &[u8]) {
            crate::files::write_private(&self.folder.path().join("server.pem"), bytes).unwrap();
        }

        fn another(&self) -> Vec<u8> {
            let other = DevAuthority::open_or_create(&self.folder.path().join("b"), &[]).unwrap();
            std::fs::read(other.cert()).unwrap()
        }
    }

    #[test]
    fn a_replaced_file_is_shown_at_the_next_look() {
        let files = Files::new();
        let before = files.leaf();
        files.own.refresh();
        assert_eq!(files.leaf(), before);
        files.replace(&files.another());
        files.own.refresh();
        assert_ne!(files.leaf(), before);
    }

    #[test]
    fn a_broken_or_missing_file_keeps_what_was_good() {
        let files = Files::new();
        let before = files.leaf();
        files.replace(b"no certificate");
        for _ in 0..3 {
            files.own.refresh();
            assert_eq!(files.leaf(), before);
        }
        std::fs::remove_file(files.folder.path().join("server.pem")).unwrap();
        files.own.refresh();
        assert_eq!(files.leaf(), before);
        files.replace(&files.another());
        files.own.refresh();
        assert_ne!(files.leaf(), before);
    }

    #[test]
    fn a_pair_that_is_replaced_in_two_steps_is_taken_at_the_second() {
        let files = Files::new();
        let key = files.folder.path().join("key.pem");
        let cert = files.folder.path().join("server.pem");
        std::fs::copy(&cert, &key).unwrap();
        let own = OwnCertificate::open(&cert, &key).unwrap();
        let before = own.shown().cert[0].to_vec();
        files.replace(&files.another());
        own.refresh();
        assert_eq!(own.shown().cert[0].to_vec(), before);
        assert!(own.watched.lock().unwrap().unsettled);
        std::fs::copy(&cert, &key).unwrap();
        own.refresh();
        assert_ne!(own.shown().cert[0].to_vec(), before);
    }

    #[test]
    fn an_old_certificate_is_called_so_and_our_own_authority_renews_it() {
        let folder = tempfile::tempdir().unwrap();
        let own = OwnCertificate::made(folder.path(), &[]).unwrap();
        let before = own.shown();
        let now = SystemTime::now();
        let end = now + Duration::from_hours(24 * 397);
        assert_eq!(standing(&before, now), Standing::Good);
        assert_eq!(standing(&before, end - Duration::from_hours(24)), Standing::Old);
        assert_eq!(standing(&before, end + Duration::from_hours(1)), Standing::Expired);
        own.refresh_at(now);
        assert_eq!(own.shown().cert, before.cert);
        own.refresh_at(end - Duration::from_hours(24));
        assert_ne!(own.shown().cert, before.cert);
    }
}
