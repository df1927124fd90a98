//! TLS with a node whose key is known: no authority vouches, and no host name is compared.

use std::sync::Arc;

use at_protocol::crypto::Ed25519Public;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, SignatureScheme,
};

/// What comes before the 32 bytes of the key in a SubjectPublicKeyInfo (RFC 8410 §10.1).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// TLS 1.3 with exactly the node that has this key, speaking `protocol` (ALPN), or with nobody. `identity` is
/// what nodes show each other.
#[must_use]
pub fn pinned(
    node: &Ed25519Public,
    identity: Option<Arc<dyn ResolvesClientCert>>,
    protocol: &[u8],
) -> ClientConfig {
    config(Some(node.clone()), identity, protocol)
}

/// TLS 1.3 with whatever node is there, which proves its key and nothing else: [`key`] says which, and a grant
/// has to say whose.
#[must_use]
pub fn any_node(identity: Option<Arc<dyn ResolvesClientCert>>, protocol: &[u8]) -> ClientConfig {
    config(None, identity, protocol)
}

/// The key of a node by the certificate that it has shown; `None` for certificates of another kind.
#[must_use]
pub fn key(certificate: &CertificateDer<'_>) -> Option<Ed25519Public> {
    let spki = ParsedCertificate::try_from(certificate).ok()?.subject_public_key_info();
    Ed25519Public::from_bytes(spki.strip_prefix(&SPKI)?.try_into().ok()?).ok()
}

fn config(
    node: Option<Ed25519Public>,
    identity: Option<Arc<dyn ResolvesClientCert>>,
    protocol: &[u8],
) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Pinned { node, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("aws-lc has the suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(identity),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// Takes a certificate over one key, or over any of its kind, whoever signed it and whatever it names.
#[derive(Debug)]
struct Pinned {
    node: Option<Ed25519Public>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match key(end_entity) {
            Some(key) if self.node.as_ref().is_none_or(|node| *node == key) => {
                Ok(ServerCertVerified::assertion())
            }
            Some(_) | None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    /// Nothing else, by which the node knows that its own certificate is wanted.
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

    use super::*;

    #[test]
    fn a_nodes_key_is_read_off_its_certificate_and_off_no_other() {
        let shown = |pair: &KeyPair| CertificateParams::default().self_signed(pair).unwrap().der().clone();
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        assert_eq!(key(&shown(&pair)).unwrap().as_bytes()[..], *pair.public_key_raw());
        assert_eq!(key(&shown(&KeyPair::generate().unwrap())), None, "another kind");
        assert_eq!(key(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
