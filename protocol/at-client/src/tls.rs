//! Reaching a host: whom to trust, how to prove oneself, and why it failed.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use at_protocol::directory::Address;
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::lenient::{Lenient, TrustedTime};

/// Which authorities may vouch for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those that this machine trusts, and those in the PEM file, if one is given.
    System {
        /// Further authorities.
        and: Option<PathBuf>,
    },
    /// Those in the PEM file and no others.
    Only(PathBuf),
}

/// How to speak TLS to servers. Cheap to clone; clones share sessions, so that they resume.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

/// Why there is no way to speak TLS at all.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file is missing, unreadable, or damaged.
    #[error("cannot read {}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: pem::Error,
    },
    /// A PEM file holds no certificate.
    #[error("{} holds no certificate; it must be the PEM file of an authority", .0.display())]
    NoCertificate(PathBuf),
    /// A certificate that cannot vouch for anybody.
    #[error("{} holds a certificate that is no authority: {source}", path.display())]
    NotAnAuthority {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// Neither the machine nor the settings name an authority.
    #[error("this machine trusts no certificate authority; install ca-certificates or name a CA file")]
    NobodyTrusted,
}

/// Why a host was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve.
    #[error("cannot find the host of {address}: {source}; check the name and this machine's DNS")]
    NoSuchHost {
        /// Where to.
        address: Address,
        /// What the resolver says.
        source: io::Error,
    },
    /// No address of the host takes connections.
    #[error("cannot connect to {address}: {source}; is it running, and is no firewall in between?")]
    Connect {
        /// Where to.
        address: Address,
        /// What the last attempt came to.
        source: io::Error,
    },
    /// Connecting and the handshake took too long.
    #[error("{address} did not complete a handshake within {waited:?}; is it a TLS server?")]
    Timeout {
        /// Where to.
        address: Address,
        /// How long was waited.
        waited: Duration,
    },
    /// The certificate is somebody else's.
    #[error(
        "the certificate of {address} is not for {}, but for {presented}; use a name that it has",
        address.host()
    )]
    WrongName {
        /// Where to.
        address: Address,
        /// The names in the certificate.
        presented: String,
    },
    /// The certificate leads to no authority that we trust.
    #[error("the certificate of {address} comes from an unknown authority; name its CA file")]
    UnknownIssuer {
        /// Where to.
        address: Address,
    },
    /// The certificate's time is over.
    #[error("the certificate of {address} has expired; renew it, or check this machine's clock")]
    Expired {
        /// Where to.
        address: Address,
    },
    /// The certificate's time has not come.
    #[error("the certificate of {address} is not valid yet; check this machine's clock")]
    NotYetValid {
        /// Where to.
        address: Address,
    },
    /// The certificate is refused for a reason that has no variant of its own.
    #[error("the certificate of {address} is refused: {what}")]
    Certificate {
        /// Where to.
        address: Address,
        /// What rustls says.
        what: String,
    },
    /// Somebody else answers than the node that the record names.
    #[error("the node at {address} is not the one that the signed record names; nothing is said to it")]
    WrongNode {
        /// Where to.
        address: Address,
    },
    /// QUIC fails in another way.
    #[error("no QUIC with {address}: {source}")]
    Quic {
        /// Where to.
        address: Address,
        /// What happened.
        source: io::Error,
    },
    /// The handshake failed in another way.
    #[error("no TLS with {address}: {source}")]
    Tls {
        /// Where to.
        address: Address,
        /// What rustls says.
        source: io::Error,
    },
}

impl DialError {
    /// Whether trying again may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoSuchHost { .. } | Self::Connect { .. } | Self::Timeout { .. } => true,
            Self::Tls { .. } | Self::Quic { .. } => true,
            // It may have moved, and its new record be on the way.
            Self::WrongNode { .. } => true,
            Self::WrongName { .. }
            | Self::Certificate { .. }
            | Self::UnknownIssuer { .. }
            | Self::Expired { .. }
            | Self::NotYetValid { .. } => false,
        }
    }
}

impl ClientTls {
    /// TLS 1.3 and 1.2 with the authorities of `trust`, whose files are read once; `identity` is what
    /// atServers show each other, and is asked at each handshake.
    ///
    /// # Errors
    /// A file cannot be read, or nobody is trusted.
    pub fn new(trust: &Trust, identity: Option<Arc<dyn ResolvesClientCert>>) -> Result<Self, TlsError> {
        Self::build(trust, identity, None)
    }

    /// The same on a machine whose clock may not be right: a certificate's time is checked as well as what is
    /// known of the time allows.
    ///
    /// # Errors
    /// As [`ClientTls::new`].
    pub fn with_time(trust: &Trust, time: Arc<dyn TrustedTime>) -> Result<Self, TlsError> {
        Self::build(trust, None, Some(time))
    }

    fn build(
        trust: &Trust,
        identity: Option<Arc<dyn ResolvesClientCert>>,
        time: Option<Arc<dyn TrustedTime>>,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let file = match trust {
            Trust::Only(file) => Some(file),
            Trust::System { and } => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                and.as_ref()
            }
        };
        if let Some(path) = file {
            for certificate in certificates(path)? {
                let refused = |source| TlsError::NotAnAuthority { path: path.clone(), source };
                roots.add(certificate).map_err(refused)?;
            }
        }
        if roots.is_empty() {
            return Err(TlsError::NobodyTrusted);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("aws-lc has the suites of both versions");
        let builder = match time {
            None => builder.with_root_certificates(roots),
            Some(time) => {
                let within = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .expect("there are roots, and no revocation lists");
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Lenient { within, time }))
            }
        };
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_cert_resolver(identity),
        };
        Ok(Self(Arc::new(config)))
    }

    /// The same, offering one protocol by ALPN; servers that do not know it are spoken to all the same.
    #[must_use]
    pub fn speaking(&self, protocol: &[u8]) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = vec![protocol.to_vec()];
        Self(Arc::new(config))
    }

    /// What rustls is told.
    pub(crate) fn rustls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }
}

impl From<ClientConfig> for ClientTls {
    fn from(config: ClientConfig) -> Self {
        Self(Arc::new(config))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let damaged = |source| TlsError::Pem { path: path.to_owned(), source };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(damaged)?.collect::<Result<_, _>>().map_err(damaged)?;
    if found.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(found) }
}

/// Connects over TCP, without Nagle's delay, to the first of the host's addresses that answers, and
/// completes a TLS handshake that names the host and checks its certificate against it; all within
/// `patience`.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(
    address: &Address,
    tls: &ClientTls,
    patience: Duration,
) -> Result<TlsStream<TcpStream>, DialError> {
    let deadline = Instant::now() + patience;
    let late = |_| DialError::Timeout { address: address.clone(), waited: patience };
    let name = ServerName::try_from(address.host().to_owned()).map_err(|error| DialError::NoSuchHost {
        address: address.clone(),
        source: io::Error::new(io::ErrorKind::InvalidInput, error),
    })?;
    let resolved = timeout_at(deadline, resolve(address)).await.map_err(late)??;
    let tcp = connect_any(address, &resolved, deadline).await?;
    let handshake = TlsConnector::from(Arc::clone(&tls.0)).connect(name, tcp);
    timeout_at(deadline, handshake).await.map_err(late)?.map_err(|error| refusal(address, error))
}

/// The addresses of a host.
pub(crate) async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, DialError> {
    let resolved = tokio::net::lookup_host((address.host(), address.port())).await;
    let resolved = resolved.map_err(|source| DialError::NoSuchHost { address: address.clone(), source })?;
    Ok(resolved.collect())
}

/// Each address gets an equal share of the time that is left, so that a silent one (a broken IPv6 way,
/// say) does not use up that of the next.
async fn connect_any(
    address: &Address,
    candidates: &[SocketAddr],
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
    for (tried, candidate) in candidates.iter().enumerate() {
        let left = u32::try_from(candidates.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match tokio::time::timeout(share, TcpStream::connect(candidate)).await {
            Ok(Ok(tcp)) => {
                let failed = |source| DialError::Connect { address: address.clone(), source };
                tcp.set_nodelay(true).map_err(failed)?;
                return Ok(tcp);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(DialError::Connect { address: address.clone(), source: last })
}

fn refusal(address: &Address, error: io::Error) -> DialError {
    let address = address.clone();
    let certificate = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(certificate)) => certificate,
        _ => return DialError::Tls { address, source: error },
    };
    if let CertificateError::NotValidForNameContext { presented, .. } = certificate {
        // rustls shows them as `DnsName("host.example")`.
        let names: Vec<_> = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name)).collect();
        return DialError::WrongName { address, presented: names.join(", ") };
    }
    if matches!(certificate, CertificateError::ApplicationVerificationFailure) {
        return DialError::WrongNode { address };
    }
    if matches!(certificate, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
        return DialError::UnknownIssuer { address };
    }
    if matches!(certificate, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
        return DialError::Expired { address };
    }
    if matches!(certificate, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) {
        return DialError::NotYetValid { address };
    }
    DialError::Tls { address, source: error }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, date_time_ymd};

    use super::*;
    use crate::stub::{Authority, listen};

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn dialled(
        name: &str,
        trusted: Option<&Authority>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Address, Result<(), DialError>) {
        let authority = Authority::new();
        let tls = authority.server_tls(name, change);
        let (address, _tasks) = listen(tls, async |_| ()).await;
        let trusted = trusted.unwrap_or(&authority).client_tls();
        let outcome = dial(&address, &trusted, PATIENCE).await.map(|_| ());
        (address, outcome)
    }

    #[tokio::test]
    async fn a_good_certificate_is_taken() {
        assert!(dialled("localhost", None, |_| ()).await.1.is_ok());
    }

    #[tokio::test]
    async fn bad_certificates_are_told_apart() {
        let (address, outcome) = dialled("other.example", None, |_| ()).await;
        assert_eq!(
            outcome.unwrap_err().to_string(),
            format!(
                "the certificate of {address} is not for localhost, but for other.example; use a name that it has"
            )
        );
        let (_, outcome) = dialled("localhost", Some(&Authority::new()), |_| ()).await;
        assert!(matches!(&outcome, Err(error @ DialError::UnknownIssuer { .. }) if !error.is_transient()));
        let (_, outcome) =
            dialled("localhost", None, |params| params.not_after = date_time_ymd(2001, 1, 1)).await;
        assert!(matches!(outcome, Err(DialError::Expired { .. })));
        let (_, outcome) = dialled("localhost", None, |params| {
            params.not_before = date_time_ymd(3000, 1, 1);
            params.not_after = date_time_ymd(3001, 1, 1);
        })
        .await;
        assert!(matches!(outcome, Err(DialError::NotYetValid { .. })));
    }

    /// A clock that stands where it was last seen.
    #[derive(Debug)]
    struct Seen(Option<u64>);

    impl TrustedTime for Seen {
        fn least(&self) -> Option<Duration> {
            self.0.map(Duration::from_secs)
        }
    }

    #[tokio::test]
    async fn a_clock_that_is_not_right_minds_what_has_ended_and_not_what_has_yet_to_begin() {
        let authority = Authority::new();
        let at = |seen: Option<u64>| {
            let root = authority.ca();
            ClientTls::with_time(&Trust::Only(root), Arc::new(Seen(seen))).unwrap()
        };
        let in_2026 = Some(1_795_305_600);
        let dial = async |name: &str, years: (i32, i32), tls: &ClientTls| {
            let server = authority.server_tls(name, |params| {
                params.not_before = date_time_ymd(years.0, 1, 1);
                params.not_after = date_time_ymd(years.1, 1, 1);
            });
            let (address, _tasks) = listen(server, async |_| ()).await;
            dial(&address, tls, PATIENCE).await.map(|_| ())
        };
        assert!(dial("localhost", (3000, 3001), &at(in_2026)).await.is_ok());
        let right = dial("localhost", (3000, 3001), &at(None)).await;
        assert!(matches!(right, Err(DialError::NotYetValid { .. })), "{right:?}");
        let ended = dial("localhost", (2000, 2001), &at(in_2026)).await;
        assert!(matches!(ended, Err(DialError::Expired { .. })), "{ended:?}");
        let name = dial("other.example", (3000, 3001), &at(in_2026)).await;
        assert!(matches!(name, Err(DialError::WrongName { .. })), "{name:?}");
        let strangers = Authority::new();
        let tls = ClientTls::with_time(&Trust::Only(strangers.ca()), Arc::new(Seen(in_2026))).unwrap();
        let issuer = dial("localhost", (3000, 3001), &tls).await;
        assert!(matches!(issuer, Err(DialError::UnknownIssuer { .. })), "{issuer:?}");
    }

    #[tokio::test]
    async fn hosts_that_are_not_there_or_do_not_speak_are_told_apart() {
        let authority = Authority::new();
        let tls = authority.client_tls();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let silent = dial(&address, &tls, Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(silent, DialError::Timeout { .. }) && silent.is_transient());
        drop(listener);
        let gone = dial(&address, &tls, PATIENCE).await.unwrap_err();
        assert!(matches!(gone, DialError::Connect { .. }) && gone.is_transient());
        let nowhere = dial(&"no-such-host.invalid:1".parse().unwrap(), &tls, PATIENCE).await.unwrap_err();
        assert!(matches!(nowhere, DialError::NoSuchHost { .. } | DialError::Timeout { .. }));
    }

    #[test]
    fn files_that_hold_no_authority_are_named() {
        let authority = Authority::new();
        let error = |path: PathBuf| ClientTls::new(&Trust::Only(path), None).err().unwrap().to_string();
        let missing = authority.folder().join("none.pem");
        assert!(error(missing.clone()).starts_with(&format!("cannot read {}: ", missing.display())));
        let empty = authority.file("empty.pem", "no certificate");
        assert_eq!(
            error(empty.clone()),
            format!("{} holds no certificate; it must be the PEM file of an authority", empty.display())
        );
    }
}
