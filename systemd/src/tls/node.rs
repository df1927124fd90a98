//! The identity of a node: an Ed25519 key, known to others by their directory's signed records, and a
//! certificate that nobody has to vouch for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureScheme};

use super::{ClientCertificates, OwnCertificate, TlsError};
use crate::files::write_private;

/// A node's key and the certificate that is self-signed over it.
#[derive(Debug)]
pub struct NodeIdentity {
    path: PathBuf,
    public: [u8; 32],
    shown: Arc<CertifiedKey>,
}

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum NodeIdentityError {
    /// The file cannot be read or written.
    #[error("cannot keep the node's key in {}: {source}", path.display())]
    File {
        /// The key's file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} holds no Ed25519 private key in PEM", .0.display())]
    NotAKey(PathBuf),
}

impl NodeIdentity {
    /// Reads the key in the PEM file `path`, or makes one and writes it there (mode 0600).
    ///
    /// # Errors
    /// The file cannot be read or written, or holds something else.
    pub fn open_or_create(path: &Path) -> Result<Self, NodeIdentityError> {
        let in_file = |source| NodeIdentityError::File { path: path.to_owned(), source };
        let not_a_key = || NodeIdentityError::NotAKey(path.to_owned());
        let key = match std::fs::read_to_string(path) {
            Ok(pem) => KeyPair::from_pem(&pem).map_err(|_| not_a_key())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate_for(&PKCS_ED25519).expect("aws-lc makes such keys");
                write_private(path, key.serialize_pem().as_bytes()).map_err(in_file)?;
                key
            }
            Err(error) => return Err(in_file(error)),
        };
        let public = key.public_key_raw().try_into().map_err(|_| not_a_key())?;
        let shown = certified(&key).ok_or_else(not_a_key)?;
        Ok(Self { path: path.to_owned(), public, shown: Arc::new(shown) })
    }

    /// Where its key is kept, in PEM.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// What is shown to others, at both ends of a connection.
    #[must_use]
    pub fn shown(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.shown)
    }
}

fn certified(key: &KeyPair) -> Option<CertifiedKey> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "atedge node");
    let certificate = params.self_signed(key).ok()?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).ok()?;
    let chain = vec![certificate.der().clone()];
    CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider()).ok()
}

/// What a listener shows to everybody: the node's certificate to who takes nothing but Ed25519, as do those
/// who know the node's key, and to all others the one that an authority vouches for.
#[derive(Debug)]
pub struct BothCertificates {
    own: Arc<OwnCertificate>,
    node: Arc<NodeIdentity>,
}

impl BothCertificates {
    /// Shows the one or the other.
    #[must_use]
    pub fn new(own: Arc<OwnCertificate>, node: Arc<NodeIdentity>) -> Arc<Self> {
        Arc::new(Self { own, node })
    }

    /// A listener's configuration, as [`OwnCertificate::server_config`].
    ///
    /// # Errors
    /// Never, with the suites that are built in.
    pub fn server_config(
        self: &Arc<Self>,
        clients: ClientCertificates,
        protocols: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        self.own.config_resolved_by(Arc::clone(self) as Arc<dyn ResolvesServerCert>, clients, protocols)
    }
}

impl ResolvesServerCert for BothCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_pinned = hello.signature_schemes().iter().all(|scheme| *scheme == SignatureScheme::ED25519);
        if is_pinned { Some(self.node.shown()) } else { ResolvesServerCert::resolve(&*self.own, hello) }
    }
}

impl ResolvesClientCert for NodeIdentity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        schemes.contains(&SignatureScheme::ED25519).then(|| self.shown())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::server::ParsedCertificate;

    use super::*;

    #[test]
    fn the_key_is_made_once_kept_private_and_shown_by_the_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let made = NodeIdentity::open_or_create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let read = NodeIdentity::open_or_create(&path).unwrap();
        assert_eq!(read.public(), made.public());
        let shown = read.shown();
        let key = ParsedCertificate::try_from(&shown.cert[0]).unwrap().subject_public_key_info();
        assert!(key.ends_with(made.public()));
        let other = NodeIdentity::open_or_create(&folder.path().join("other.key")).unwrap();
        assert_ne!(other.public(), made.public());
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        let p256 = KeyPair::generate().unwrap();
        for text in ["no key", &p256.serialize_pem()] {
            std::fs::write(&path, text).unwrap();
            let refused = NodeIdentity::open_or_create(&path).unwrap_err();
            assert!(matches!(refused, NodeIdentityError::NotAKey(_)), "{text}");
        }
    }
}
