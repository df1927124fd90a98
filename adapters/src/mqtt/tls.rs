//! TLS for both roles: towards a broker, and towards devices.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::task::AbortOnDropHandle;

use crate::{SecretError, SecretSource};

/// A connection and its handshake may take this long.
const CONNECT: Duration = Duration::from_secs(10);

/// The table `tls`: of a client with `mqtts://`, or of a listener.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the authorities to trust. A client takes the system's where it is left out. A listener
    /// lets in only devices whose certificate comes from these; where it is left out, devices need none.
    pub ca: Option<PathBuf>,
    /// PEM file with our own certificate and the chain behind it. A listener must have one.
    pub cert: Option<PathBuf>,
    /// Where its private key is kept, as PEM: `"file:PATH"` or `"credential:NAME"`.
    pub key: Option<SecretSource>,
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read, or holds no certificate.
    #[error("cannot read certificates from {}: {cause}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// The key cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The key is no key.
    #[error("{place} holds no private key in PEM: {cause}")]
    Key {
        /// Where it is kept.
        place: SecretSource,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// The system has no authorities.
    #[error("the system has no certificate authorities; install ca-certificates, or name them in `tls.ca`")]
    NoAuthorities,
    /// They do not go together, or cannot be used.
    #[error("cannot use the certificates of `tls`: {0}")]
    Unusable(String),
}

fn unusable(cause: impl ToString) -> TlsError {
    TlsError::Unusable(cause.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |cause| TlsError::Certificates { path: path.to_owned(), cause };
    let all: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if all.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(all) }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(roots)
}

fn system_authorities() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoAuthorities) } else { Ok(roots) }
}

impl TlsConfig {
    /// The certificate and its key, where there are both.
    fn identity(&self) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, TlsError> {
        let (Some(cert), Some(place)) = (&self.cert, &self.key) else { return Ok(None) };
        let wrong = |cause| TlsError::Key { place: place.clone(), cause };
        let key = PrivateKeyDer::from_pem_slice(place.read()?.as_bytes()).map_err(wrong)?;
        Ok(Some((certificates(cert)?, key)))
    }

    /// Whether of certificate and key one is missing.
    pub(super) fn is_half(&self) -> bool {
        self.cert.is_some() != self.key.is_some()
    }

    fn client(&self) -> Result<TlsConnector, TlsError> {
        let roots = self.ca.as_deref().map_or_else(system_authorities, authorities)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots);
        let config = match self.identity()? {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(unusable)?,
            None => config.with_no_client_auth(),
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// What takes devices in.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let config = match &self.ca {
            None => config.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(authorities(ca)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                config.with_client_cert_verifier(verifier.build().map_err(unusable)?)
            }
        };
        let (chain, key) = self.identity()?.ok_or_else(|| unusable("`cert` and `key` are missing"))?;
        let config = config.with_single_cert(chain, key).map_err(unusable)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// A connection to a broker over TLS, with a socket at our end that only this process can find. rumqttc
/// has no TLS that we want and takes no streams, but it speaks to sockets.
pub(super) struct Tunnel {
    folder: TempDir,
    _carrying: AbortOnDropHandle<()>,
}

impl Tunnel {
    /// Connects to the broker.
    ///
    /// # Errors
    /// When it cannot be reached, or its certificate does not convince.
    pub(super) async fn connect(config: &TlsConfig, host: &str, port: u16) -> io::Result<Self> {
        // What is in the files may have been renewed.
        let connector = config.client().map_err(io::Error::other)?;
        let name = host.trim_matches(['[', ']']).to_owned();
        let name =
            ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connecting = async {
            let stream = TcpStream::connect(format!("{host}:{port}")).await?;
            stream.set_nodelay(true)?;
            connector.connect(name, stream).await
        };
        let mut far = timeout(CONNECT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the broker does not answer")))?;
        // A folder of its own, which only this user may enter.
        let folder = tempfile::tempdir()?;
        let listener = UnixListener::bind(folder.path().join("broker"))?;
        let carrying = tokio::spawn(async move {
            if let Ok((mut near, _)) = listener.accept().await {
                drop(listener);
                // How it ends is seen at both ends.
                copy_bidirectional(&mut near, &mut far).await.ok();
            }
        });
        Ok(Self { folder, _carrying: AbortOnDropHandle::new(carrying) })
    }

    /// Our end.
    pub(super) fn socket(&self) -> String {
        self.folder.path().join("broker").display().to_string()
    }
}
