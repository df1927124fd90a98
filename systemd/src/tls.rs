//! The server side of TLS: a rustls configuration from PEM files, and an authority of one's own for
//! development and tests.

mod authority;
mod client;
mod node;
mod own;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use serde::Deserialize;

pub use authority::{AuthorityError, DevAuthority};
pub use client::AnyClientCertificate;
pub use node::{BothCertificates, NodeIdentity, NodeIdentityError};
pub use own::OwnCertificate;

/// The `[tls]` table of a daemon that listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// PEM file with the certificate and, after it, the chain that leads to the authority.
    pub cert: Option<PathBuf>,
    /// PEM file with the certificate's private key (PKCS#8, SEC1 or PKCS#1).
    pub key: Option<PathBuf>,
    /// Instead of `cert` and `key`: make an authority and a certificate in the state folder. For
    /// development; clients need its `ca.pem`.
    pub dev: bool,
    /// Further host names and addresses for the certificate that `dev` makes.
    pub names: Vec<String>,
}

/// What a listener does about the certificates of those who connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// It does not ask for one.
    Ignored,
    /// It asks, takes any or none, and leaves the judgement to the session: see
    /// [`AnyClientCertificate`].
    Recorded,
}

/// Why a listener has no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file is missing, unreadable, or holds nothing of the kind.
    #[error("cannot read {what} from {}: {source}", path.display())]
    Pem {
        /// The certificate or the private key.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: pem::Error,
    },
    /// The file holds no certificate.
    #[error("{} holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// Certificate and key do not belong together, or are of a kind that TLS cannot use.
    #[error("cannot use the certificate {} with the key {}: {source}", cert.display(), key.display())]
    Unusable {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// Neither `cert` and `key` nor `dev = true`.
    #[error("[tls] needs `cert` and `key`, or `dev = true`")]
    NotConfigured,
    /// The authority of `dev = true` could not be made.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl TlsSettings {
    /// The certificate of the table; with `dev`, its authority lives in `state`.
    ///
    /// # Errors
    /// When the table is incomplete or its files cannot be used.
    pub fn certificate(&self, state: &Path) -> Result<Arc<OwnCertificate>, TlsError> {
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) if !self.dev => OwnCertificate::open(cert, key),
            (None, None) if self.dev => OwnCertificate::made(state, &self.names),
            _ => Err(TlsError::NotConfigured),
        }
    }

    /// The configuration of a listener that offers no protocols by ALPN.
    ///
    /// # Errors
    /// As [`Self::certificate`].
    pub fn server_config(
        &self,
        state: &Path,
        clients: ClientCertificates,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        self.certificate(state)?.server_config(clients, &[])
    }
}

/// A listener's configuration with the chain and the key of two PEM files, which may be one.
///
/// # Errors
/// When a file cannot be read or the two do not belong together.
pub fn server_config(
    cert: &Path,
    key: &Path,
    clients: ClientCertificates,
) -> Result<Arc<ServerConfig>, TlsError> {
    OwnCertificate::open(cert, key)?.server_config(clients, &[])
}

/// The certificates of a PEM file, in their order: a chain, or a set of trust anchors.
///
/// # Errors
/// When the file cannot be read, is not PEM, or holds no certificate.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let damaged = |source| TlsError::Pem { what: TlsError::CERTIFICATE, path: path.to_owned(), source };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(damaged)?.collect::<Result<_, _>>().map_err(damaged)?;
    if chain.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(chain) }
}

impl TlsError {
    const CERTIFICATE: &str = "a certificate";
    const KEY: &str = "a private key";

    /// The setting to change, as a path in the configuration.
    pub fn setting(&self) -> &'static [&'static str] {
        match self {
            Self::Pem { what: Self::KEY, .. } => &["tls", "key"],
            Self::Pem { .. } | Self::NoCertificate(_) | Self::Unusable { .. } => &["tls", "cert"],
            Self::Authority(_) => &["tls", "dev"],
            Self::NotConfigured => &["tls"],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConnection};

    use super::*;

    fn client(authority: &DevAuthority, shows: Option<&Path>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(read_certificates(&authority.ca()).unwrap());
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match shows {
            None => builder.with_no_client_auth(),
            Some(pem) => builder
                .with_client_auth_cert(
                    read_certificates(pem).unwrap(),
                    PrivateKeyDer::from_pem_file(pem).unwrap(),
                )
                .unwrap(),
        }
    }

    /// A handshake in memory with the server under `name`; the certificates that the server was shown.
    fn handshake(
        server: Arc<ServerConfig>,
        client: ClientConfig,
        name: &'static str,
    ) -> Result<usize, rustls::Error> {
        fn carry<A, B>(
            from: &mut ConnectionCommon<A>,
            to: &mut ConnectionCommon<B>,
        ) -> Result<(), rustls::Error> {
            let mut bytes = Vec::new();
            while from.wants_write() {
                from.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                to.read_tls(&mut rest).unwrap();
                to.process_new_packets()?;
            }
            Ok(())
        }
        let mut server = ServerConnection::new(server).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name.try_into().unwrap()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            carry(&mut client, &mut server)?;
            carry(&mut server, &mut client)?;
        }
        Ok(server.peer_certificates().map_or(0, <[_]>::len))
    }

    #[test]
    fn the_authority_stays_and_its_leaf_names_what_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let first = DevAuthority::open_or_create(folder.path(), &[]).unwrap();
        let trusted = std::fs::read(first.ca()).unwrap();
        let trusting_first = client(&first, None);
        let again = DevAuthority::open_or_create(folder.path(), &["gateway.example"]).unwrap();
        assert_eq!(std::fs::read(again.ca()).unwrap(), trusted);
        let server = again.server_config(ClientCertificates::Ignored).unwrap();
        for name in ["localhost", "127.0.0.1", "gateway.example"] {
            assert_eq!(handshake(server.clone(), trusting_first.clone(), name), Ok(0), "{name}");
        }
        assert!(handshake(server.clone(), trusting_first, "other.example").is_err());
        let stranger = tempfile::tempdir().unwrap();
        let stranger = DevAuthority::open_or_create(stranger.path(), &[]).unwrap();
        assert!(handshake(server, client(&stranger, None), "localhost").is_err());
    }

    #[test]
    fn clients_of_both_versions_are_served() {
        let folder = tempfile::tempdir().unwrap();
        let authority = DevAuthority::open_or_create(folder.path(), &[]).unwrap();
        let server = authority.server_config(ClientCertificates::Recorded).unwrap();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(read_certificates(&authority.ca()).unwrap());
            let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            assert_eq!(handshake(server.clone(), client, "localhost"), Ok(0), "{:?}", version.version);
        }
    }

    #[test]
    fn a_client_certificate_is_recorded_whoever_issued_it_and_not_required() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ours = DevAuthority::open_or_create(ours.path(), &[]).unwrap();
        let theirs = DevAuthority::open_or_create(theirs.path(), &[]).unwrap();
        let server = ours.server_config(ClientCertificates::Recorded).unwrap();
        assert_eq!(handshake(server.clone(), client(&ours, None), "localhost"), Ok(0));
        assert_eq!(handshake(server, client(&ours, Some(&theirs.cert())), "localhost"), Ok(1));
        let server = ours.server_config(ClientCertificates::Ignored).unwrap();
        assert_eq!(handshake(server, client(&ours, Some(&theirs.cert())), "localhost"), Ok(0));
    }

    #[test]
    fn keys_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let authority = DevAuthority::open_or_create(folder.path(), &[]).unwrap();
        for path in [authority.key(), folder.path().join("ca.key")] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
    }

    #[test]
    fn a_missing_file_and_a_foreign_key_are_named() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let authority = DevAuthority::open_or_create(folder.path(), &[]).unwrap();
        let other = DevAuthority::open_or_create(other.path(), &[]).unwrap();
        let missing = folder.path().join("no.pem");
        let error = server_config(&missing, &missing, ClientCertificates::Ignored).unwrap_err();
        assert_eq!(error.setting(), ["tls", "cert"]);
        let error = server_config(&authority.ca(), &authority.ca(), ClientCertificates::Ignored).unwrap_err();
        assert_eq!(error.setting(), ["tls", "key"]);
        let error = server_config(&authority.cert(), &other.key(), ClientCertificates::Ignored).unwrap_err();
        assert!(matches!(error, TlsError::Unusable { .. }), "{error}");
        let nothing = TlsSettings::default().server_config(folder.path(), ClientCertificates::Ignored);
        assert!(matches!(nothing, Err(TlsError::NotConfigured)));
    }
}
