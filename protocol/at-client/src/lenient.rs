//! Certificates on a machine that does not know what time it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Certificates of one chain whose time may not have come, more than any chain has.
const MOST_STEPS: usize = 8;

/// What is known about the time where the clock cannot be believed, as on boards without a battery.
pub trait TrustedTime: fmt::Debug + Send + Sync {
    /// `None` while the clock is right; else a time since 1970 that is past for sure.
    fn least(&self) -> Option<Duration>;
}

/// Checks as the verifier within does, but for this: while the clock is not right, it takes the least time it can
/// be, and does not mind a certificate whose time has yet to come by that. A name, a chain or a signature that is
/// wrong stays wrong, and a certificate that had ended at the least time has ended.
#[derive(Debug)]
pub(crate) struct Lenient {
    pub(crate) within: Arc<dyn ServerCertVerifier>,
    pub(crate) time: Arc<dyn TrustedTime>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let check =
            |now| self.within.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Some(least) = self.time.least() else { return check(now) };
        let mut now = UnixTime::since_unix_epoch(least.max(Duration::from_secs(now.as_secs())));
        for _ in 0..MOST_STEPS {
            match check(now) {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before, ..
                })) if not_before > now => {
                    now = not_before;
                }
                verdict => return verdict,
            }
        }
        check(now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.within.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.within.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.within.supported_verify_schemes()
    }
}
