//! `enroll:update`: an application takes another key, under the same enrollment.

use at_protocol::ErrorCode;
use at_protocol::crypto::{Hash, PkamPublicKey};
use at_protocol::response::{Failure, Response};
use at_protocol::verb::EnrollRequest;

use super::{
    Done, Effect, Request, Stored, authenticated, changed, find, first_key, gone, plain, published, refused,
};
use crate::access::Principal;
use crate::enrollment::State;
use crate::store::Write;
use crate::tenant::private_key;

pub(super) async fn perform(request: &Request<'_>, asked: EnrollRequest) -> Done {
    authenticated(request, "update")?;
    let Principal::Enrolled(caller) = request.who else {
        return Err(refused("enroll:update is self-only: this connection is authenticated as the owner"));
    };
    if let Some(other) = asked.enrollment_id.as_ref().filter(|id| **id != caller.id) {
        return Err(refused(format!(
            "enroll:update is self-only: enrollment {} cannot update enrollment {other}",
            caller.id
        )));
    }
    if asked.namespaces.is_some() {
        return Err(illegal("enroll:update cannot change namespaces"));
    }
    if asked.apkam_public_key.is_none() && asked.signing_algo.is_some() {
        return Err(illegal("signingAlgo cannot be changed without apkamPublicKey"));
    }
    if asked.apkam_public_key.is_none() && asked.metadata.is_none() {
        return Err(illegal("enroll:update names nothing to change"));
    }
    let _turn = request.node.enrolling.turn(request.tenant).await;
    let stored = find(request, &caller.id).await?;
    let stored = stored.filter(|stored| stored.state(request.now) == State::Approved);
    let stored = stored.ok_or_else(|| gone(&caller.id))?;
    let id = caller.id.as_str();
    let has_new_key = asked.apkam_public_key.is_some();
    write(request, stored, asked).await?;
    if has_new_key {
        // They were authenticated by the key that is not good any more.
        request.node.sessions().cut_enrollment(request.tenant, id, Some(request.session));
    }
    Ok(Effect::Answer(changed(id, State::Approved.word())))
}

fn illegal(message: &str) -> Response {
    Response::Error(Failure::new(ErrorCode::IllegalArguments, message))
}

async fn write(request: &Request<'_>, mut stored: Stored, asked: EnrollRequest) -> Done<()> {
    let mut edits = Vec::new();
    if let Some(members) = asked.metadata {
        // Members that are not named stay: others may have written them.
        stored.enrollment.metadata.get_or_insert_default().extend(members);
    }
    if let Some(key) = asked.apkam_public_key {
        let algo = asked.signing_algo.or(stored.enrollment.signing_algo.take());
        proves_itself(&stored.id, &key, algo.as_deref(), asked.apkam_public_key_signature.as_deref())?;
        if first_key(request).await?.as_ref() == Some(&stored.enrollment.apkam_public_key) {
            edits.push(plain(private_key("at_pkam_publickey"), key.clone(), None));
        }
        stored.enrollment.apkam_public_key = key;
        stored.enrollment.signing_algo = algo;
        edits.extend(published(request.tenant, &stored.enrollment));
    }
    stored.fits()?;
    edits.push(stored.edit(request.tenant, request.now));
    let write = Write { edits, notification: None, now: request.now };
    request.node.store.write(request.tenant, write).await??;
    Ok(())
}

/// The connection has proved the old key; that the caller has the new one, too, only a signature shows.
fn proves_itself(id: &str, key: &str, algo: Option<&str>, signature: Option<&str>) -> Done<()> {
    let signature = signature
        .ok_or_else(|| refused("enroll:update of apkamPublicKey requires apkamPublicKeySignature"))?;
    let text = format!("{id}|{key}|{}", algo.unwrap_or("null"));
    match key.parse::<PkamPublicKey>() {
        Ok(new) if new.verify(&text, Hash::Sha256, signature) => Ok(()),
        Ok(_) | Err(_) => {
            Err(refused("apkamPublicKeySignature does not verify against the apkamPublicKey being installed"))
        }
    }
}
