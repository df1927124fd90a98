//! `cram`, `pkam`, `pol`: checking the answer to a challenge (atProtocol wire reference §3).

use std::sync::Arc;

use at_protocol::crypto::{PkamPublicKey, cram_matches};
use at_protocol::response::{Failure, Response};
use at_protocol::session::server::{Challenge, Proof};
use at_protocol::verb::{Cram, Pkam, SigningAlgo};
use at_protocol::{AtKey, AtSign, ErrorCode};

use super::{Request, missing};
use crate::access::{Enrolled, Principal};
use crate::enrollment::{self, Enrollment, State};
use crate::peers::Certificate;
use crate::tenant::private_key;

/// What a connection shows besides its words.
pub(crate) struct Evidence<'a> {
    /// The certificate of the other end, if it has one.
    pub(crate) certificate: Option<&'a Certificate>,
}

/// Checks a proof; gives who was proved.
pub(crate) async fn verify(
    request: &Request<'_>,
    challenge: Option<Challenge>,
    proof: Proof,
    evidence: &Evidence<'_>,
) -> Result<Principal, Response> {
    let Some(challenge) = challenge else {
        let asked = AtKey::Private { name: session_name(request), owner: request.tenant.clone() };
        return Err(Response::Error(missing(asked)));
    };
    match proof {
        Proof::Cram(cram) => by_secret(request, &challenge, &cram).await,
        Proof::Pkam(pkam) => by_key(request, &challenge, &pkam).await,
        Proof::Pol => by_server(request, &challenge, evidence).await,
    }
}

fn session_name(request: &Request<'_>) -> at_protocol::KeyName {
    request.session.parse().expect("a session's id is an underscore and a UUID")
}

fn failed(message: &str) -> Response {
    Response::Error(Failure::new(ErrorCode::NotAuthenticated, message))
}

async fn by_secret(request: &Request<'_>, challenge: &Challenge, cram: &Cram) -> Result<Principal, Response> {
    let key = private_key("at_secret");
    // An empty one would be known to everybody.
    let secret = stored(request, &key).await?.filter(|secret| !secret.is_empty());
    let secret = secret.ok_or_else(|| Response::Error(missing(&key)))?;
    if cram_matches(&secret, &challenge.text(), &cram.digest) {
        Ok(Principal::Activation)
    } else {
        Err(failed("Authentication Failed"))
    }
}

async fn by_key(request: &Request<'_>, challenge: &Challenge, pkam: &Pkam) -> Result<Principal, Response> {
    let (principal, key) = match &pkam.enrollment {
        None => {
            let key = private_key("at_pkam_publickey");
            let text = stored(request, &key).await?.ok_or_else(|| Response::Error(missing(&key)))?;
            (Principal::Owner, text)
        }
        Some(id) => {
            request.node.sessions().claims(request.session, request.tenant, id);
            let enrolled = enrolled(request, id).await?;
            let key = enrolled.enrollment.apkam_public_key.clone();
            (Principal::Enrolled(Arc::new(enrolled)), key)
        }
    };
    let hash = pkam.hashing.unwrap_or_default();
    match request.node.login_keys.read(&key) {
        Some(key) if is_of(&key, pkam.signing) && key.verify(&challenge.text(), hash, &pkam.signature) => {
            request.node.note_login(request.tenant, request.now);
            Ok(principal)
        }
        Some(_) => Err(failed("pkam authentication failed")),
        None => Err(failed("pkam publickey not found")),
    }
}

/// Whether what the line says about the algorithm fits the stored key, which decides. A caller that could
/// choose would choose the weakest.
fn is_of(key: &PkamPublicKey, said: Option<SigningAlgo>) -> bool {
    match (key, said) {
        (_, None)
        | (PkamPublicKey::Rsa(_), Some(SigningAlgo::Rsa2048))
        | (PkamPublicKey::Ecc(_), Some(SigningAlgo::EccSecp256r1)) => true,
        (PkamPublicKey::Rsa(_), Some(SigningAlgo::EccSecp256r1))
        | (PkamPublicKey::Ecc(_), Some(SigningAlgo::Rsa2048)) => false,
    }
}

/// An approved enrollment; each other state has its own answer (§3.3).
async fn enrolled(request: &Request<'_>, id: &str) -> Result<Enrolled, Response> {
    let gone = || {
        let message = format!("enrollment_id: {id} is expired or invalid");
        Response::State(ErrorCode::EnrollmentExpired, message)
    };
    let key = enrollment::record_key(id, request.tenant).ok_or_else(gone)?;
    let record = request.node.store.record(request.tenant, &key).await;
    let record = record.map_err(|error| Response::Error(error.into()))?;
    let record = record.filter(|record| record.is_active(request.now)).ok_or_else(gone)?;
    let mut enrollment: Enrollment = serde_json::from_str(&record.value).map_err(|_| gone())?;
    // A connection has no use for these, and may live long.
    (enrollment.metadata, enrollment.encrypted_apkam_symmetric_key) = (None, None);
    let state = |code, word| Err(Response::State(code, format!("enrollment_id: {id} is {word}")));
    match enrollment.approval.state {
        State::Approved => Ok(Enrolled { id: id.to_owned(), enrollment, expires: record.expires }),
        State::Denied => state(ErrorCode::EnrollmentDenied, "denied"),
        State::Pending => state(ErrorCode::EnrollmentPending, "pending"),
        State::Revoked => state(ErrorCode::EnrollmentRevoked, "revoked"),
        State::Expired => Err(gone()),
    }
}

async fn by_server(
    request: &Request<'_>,
    challenge: &Challenge,
    evidence: &Evidence<'_>,
) -> Result<Principal, Response> {
    let peer: &AtSign = &challenge.claim;
    match request.node.verify_peer(challenge, evidence.certificate).await {
        Ok(()) => Ok(Principal::Peer(peer.clone())),
        Err(refusal) => {
            tracing::info!(%peer, tenant = %request.tenant, error = %refusal, "a server did not prove itself");
            Err(Response::Error(refusal.into()))
        }
    }
}

/// The value of one of the server's own records.
async fn stored(request: &Request<'_>, key: &AtKey) -> Result<Option<String>, Response> {
    let record = request.node.store.record(request.tenant, key).await;
    let record = record.map_err(|error| Response::Error(error.into()))?;
    Ok(record.filter(|record| record.is_active(request.now)).map(|record| record.value))
}
