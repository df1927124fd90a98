//! A server of old, byte by byte from the wire reference (§3.6) and on nothing of ours but the socket: it speaks
//! what is written down for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Beyond this a test has failed; no test waits so long to succeed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An authority that issues what one asks for.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir().expect("a folder");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("a file");
        Self { issuer: Issuer::new(params, key), folder }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a host that serves both ends of connections, after `change`; chain and key in one file.
    pub(crate) fn issue(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> PathBuf {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let (_, path) = tempfile::Builder::new()
            .suffix(".pem")
            .tempfile_in(self.folder.path())
            .expect("a file")
            .keep()
            .expect("a file");
        std::fs::write(&path, format!("{}{}", certificate.pem(), key.serialize_pem())).expect("a file");
        path
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain(&self.ca()));
        roots
    }
}

fn chain(pem: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(pem).expect("a file").collect::<Result<_, _>>().expect("certificates")
}

/// The signing key of a server of old.
pub(crate) struct SigningKey(RsaKeyPair);

impl SigningKey {
    pub(crate) fn new() -> Self {
        Self(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"))
    }

    pub(crate) fn public(&self) -> String {
        use aws_lc_rs::signature::KeyPair as _;
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().expect("a public key");
        BASE64_STANDARD.encode(der.as_ref())
    }

    pub(crate) fn sign(&self, proof: &str) -> String {
        let mut signature = vec![0; self.0.public_modulus_len()];
        let random = SystemRandom::new();
        self.0.sign(&RSA_PKCS1_SHA256, &random, proof.as_bytes(), &mut signature).expect("a signature");
        BASE64_STANDARD.encode(signature)
    }
}

/// Whether the key, as `signing_publickey` shows it, made the signature of the proof.
pub(crate) fn is_signed(key: &str, proof: &str, signature: &str) -> bool {
    let bytes = |text: &str| BASE64_STANDARD.decode(text).expect("base64");
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, bytes(key));
    key.verify(proof.as_bytes(), &bytes(signature)).is_ok()
}

/// One connection, at either end.
pub(crate) struct Talk<S> {
    pub(crate) stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    pub(crate) async fn says(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.expect("a write");
        self.stream.flush().await.expect("a write");
    }

    /// Hears exactly what is written, `{}` standing for anything without a line end; gives what stood there.
    pub(crate) async fn hears(&mut self, written: &str) -> Vec<String> {
        let parts: Vec<_> = written.split("{}").collect();
        let pattern = parts.iter().map(|part| regex::escape(part)).collect::<Vec<_>>().join("([^\n]*)");
        let pattern = regex::Regex::new(&format!("^{pattern}$")).expect("a pattern");
        let mut heard = String::new();
        let mut bytes = [0; 4096];
        let whole = timeout(PATIENCE, async {
            loop {
                if let Some(found) = pattern.captures(&heard) {
                    return found.iter().skip(1).flatten().map(|part| part.as_str().to_owned()).collect();
                }
                let size = self.stream.read(&mut bytes).await.unwrap_or(0);
                assert!(size > 0, "closed after {heard:?}, expected {written:?}");
                heard.push_str(std::str::from_utf8(&bytes[..size]).expect("text"));
            }
        });
        whole.await.unwrap_or_else(|_| panic!("expected {written:?}"))
    }
}

/// Connects as a server of old does, with its certificate, if it has one.
pub(crate) async fn connect(
    authority: &Authority,
    certificate: Option<&Path>,
    port: u16,
) -> Talk<TlsStream<TcpStream>> {
    let config = ClientConfig::builder().with_root_certificates(authority.roots());
    let config = match certificate {
        None => config.with_no_client_auth(),
        Some(pem) => {
            let key = PrivateKeyDer::from_pem_file(pem).expect("a key");
            config.with_client_auth_cert(chain(pem), key).expect("a pair")
        }
    };
    let tcp = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.expect("a connection");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("a handshake");
    let mut talk = Talk { stream };
    talk.hears("@").await;
    talk
}

/// A port where a server of old answers.
pub(crate) struct Listening {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listening {
    /// With a certificate, and asking for that of who connects.
    pub(crate) async fn start(authority: &Authority, certificate: &Path) -> Self {
        let verifier = WebPkiClientVerifier::builder(Arc::new(authority.roots()))
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let key = PrivateKeyDer::from_pem_file(certificate).expect("a key");
        let config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain(certificate), key)
            .expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().expect("an address").port()
    }

    /// The next connection, which is greeted, and whether it showed a certificate.
    pub(crate) async fn accept(&self) -> (Talk<tokio_rustls::server::TlsStream<TcpStream>>, bool) {
        let accepted = timeout(PATIENCE, self.listener.accept()).await.expect("a connection");
        let stream = self.acceptor.accept(accepted.expect("a connection").0).await.expect("a handshake");
        let has_shown = stream.get_ref().1.peer_certificates().is_some();
        let mut talk = Talk { stream };
        talk.says("@").await;
        (talk, has_shown)
    }
}
