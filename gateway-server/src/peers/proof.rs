//! Having another atServer prove itself: we call it back and check its signature (atProtocol wire
//! reference §3.6).

use at_protocol::crypto::{Hash, RsaPublicKey};
use at_protocol::response::Failure;
use at_protocol::session::server::Challenge;
use at_protocol::{AtSign, ErrorCode, KeyName};

use super::{AskError, Certificate};
use crate::config::Certificates;
use crate::node::Node;
use crate::tenant::signing_public_key;

/// Why another atServer is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProofError {
    /// It showed no certificate.
    #[error("Certificate Verification Failed: no certificate")]
    NoCertificate,
    /// The certificate is not its own.
    #[error("Certificate Verification Failed: {0}")]
    Certificate(String),
    /// It could not be called back.
    #[error("{0} could not be called back: {1}")]
    CallBack(AtSign, AskError),
    /// It is known by its node's key, and by nothing that is worth less.
    #[error("{0} proves itself by the key of its node, and in no other way")]
    Bound(AtSign),
    /// Its signature is wrong.
    #[error("pol authentication failed")]
    Signature,
}

impl From<ProofError> for Failure {
    fn from(error: ProofError) -> Self {
        let code = match &error {
            ProofError::NoCertificate
            | ProofError::Certificate(_)
            | ProofError::Bound(_)
            | ProofError::Signature => ErrorCode::NotAuthenticated,
            ProofError::CallBack(..) => ErrorCode::Handshake,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ProofError> for at_protocol::Response {
    fn from(error: ProofError) -> Self {
        Self::Error(error.into())
    }
}

impl Node {
    /// Checks that who answered `challenge` with `pol` is the server of the atSign that it claims.
    pub(crate) async fn verify_peer(
        &self,
        challenge: &Challenge,
        certificate: Option<&Certificate>,
    ) -> Result<(), ProofError> {
        let peer = &challenge.claim;
        if self.links().is_ok_and(|links| links.directory().is_bound(peer)) && !self.is_hosted(peer) {
            return Err(ProofError::Bound(peer.clone()));
        }
        let shown = if self.is_hosted(peer) {
            self.shown_here(challenge).await
        } else {
            self.check_certificate(peer, certificate).await?;
            self.shown_there(challenge).await
        };
        let (signature, key) = shown.map_err(|error| ProofError::CallBack(peer.clone(), error))?;
        let key = RsaPublicKey::from_spki_base64(&key).map_err(|_| ProofError::Signature)?;
        if key.verify(challenge.proof.as_bytes(), Hash::Sha256, &signature) {
            Ok(())
        } else {
            Err(ProofError::Signature)
        }
    }

    async fn check_certificate(
        &self,
        peer: &AtSign,
        certificate: Option<&Certificate>,
    ) -> Result<(), ProofError> {
        if self.config.peers.certificates == Certificates::Optional {
            return Ok(());
        }
        let call_back = |error| ProofError::CallBack(peer.clone(), error);
        let certificate = certificate.ok_or(ProofError::NoCertificate)?;
        let links = self.links().map_err(call_back)?;
        let address = links.address(peer).await.map_err(call_back)?;
        links.certificates.check(certificate, &address)
    }

    /// The signature and the key as the peer's server shows them to anybody.
    async fn shown_there(&self, challenge: &Challenge) -> Result<(String, String), AskError> {
        let peer = &challenge.claim;
        let links = self.links()?;
        let mut link = links.open(peer).await?;
        let signature = links.request(&mut link, &format!("lookup:{}", challenge.cookie())).await?;
        let key = links.request(&mut link, &format!("lookup:signing_publickey{peer}")).await?;
        Ok((signature, key))
    }

    async fn shown_here(&self, challenge: &Challenge) -> Result<(String, String), AskError> {
        let peer = &challenge.claim;
        let missing = || AskError::Missing(format!("{} does not exist in keystore", challenge.cookie()));
        let name: KeyName = challenge.session.parse().map_err(|_| missing())?;
        let signature = self.cookies.find(&name, peer).ok_or_else(missing)?;
        let record = self.store.record(peer, &signing_public_key(peer)).await;
        let record = record.map_err(|error| AskError::Unreachable(error.to_string()))?;
        Ok((signature, record.ok_or_else(missing)?.value))
    }
}
