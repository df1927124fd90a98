//! Whose certificate a peer shows.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use at_protocol::directory::Address;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ProofError;

/// The chain of certificates that came with a connection, the peer's own first.
#[derive(Debug, Clone)]
pub struct Certificate(pub Vec<CertificateDer<'static>>);

/// Decides whether a peer's certificate is that of its host.
pub(crate) struct CertificateCheck {
    verifier: Arc<dyn ClientCertVerifier>,
}

impl CertificateCheck {
    /// Trusts the system's authorities and those in the PEM file `ca`.
    ///
    /// # Errors
    /// The file cannot be read, or nobody is trusted at all.
    pub(crate) fn new(ca: Option<&Path>) -> Result<Self, crate::server::StartError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca {
            roots.add_parsable_certificates(atedge_service::tls::read_certificates(path)?);
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
        Ok(Self { verifier: verifier.map_err(|_| crate::server::StartError::NobodyTrusted)? })
    }

    /// Whether the chain leads to a trusted authority and the certificate is for `address`.
    pub(crate) fn check(&self, certificate: &Certificate, address: &Address) -> Result<(), ProofError> {
        let (own, intermediates) = certificate.0.split_first().ok_or(ProofError::NoCertificate)?;
        self.verifier
            .verify_client_cert(own, intermediates, UnixTime::now())
            .map_err(|error| ProofError::Certificate(error.to_string()))?;
        if is_for(own, address.host()) {
            Ok(())
        } else {
            Err(ProofError::Certificate(format!("it is not for {}", address.host())))
        }
    }
}

/// Whether the certificate names exactly this host, as an alternative name or as its common name.
fn is_for(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let mut presented = names.map(|name| {
        if let GeneralName::DNSName(name) = name {
            name.eq_ignore_ascii_case(host)
        } else if let GeneralName::IPAddress(bytes) = name {
            host.parse::<IpAddr>().is_ok_and(|address| match address {
                IpAddr::V4(address) => address.octets() == *bytes,
                IpAddr::V6(address) => address.octets() == *bytes,
            })
        } else {
            false
        }
    });
    let common = |name: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        name.as_str().is_ok_and(|name| name.eq_ignore_ascii_case(host))
    };
    presented.any(|is_host| is_host) || certificate.subject().iter_common_name().any(common)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_is_for_exactly_the_hosts_it_names() {
        let key = KeyPair::generate().unwrap();
        let mut params =
            CertificateParams::new(vec!["bob.example".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "old.example");
        let certificate = params.self_signed(&key).unwrap();
        for host in ["bob.example", "BOB.example", "127.0.0.1", "old.example"] {
            assert!(is_for(certificate.der(), host), "{host}");
        }
        for host in ["example", "a.bob.example", "bob.example.org", "127.0.0.2", ""] {
            assert!(!is_for(certificate.der(), host), "{host}");
        }
        assert!(!is_for(&CertificateDer::from(vec![1, 2, 3]), "bob.example"));
    }
}
