//! `enroll:request` (atProtocol wire reference §4.23): the first enrollment, by the activation secret.

use std::sync::Arc;

use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Enroll, EnrollRequest};
use at_protocol::{AtKey, ErrorCode, Metadata};

use super::{Effect, Request, json};
use crate::access::{Enrolled, Principal};
use crate::enrollment::{self, Enrollment};
use crate::store::{Edit, Write};
use crate::tenant::private_key;

pub(super) async fn perform(request: &Request<'_>, enroll: Enroll) -> Result<Effect, Failure> {
    let Enroll::Request(asked) = enroll;
    let (app, device, key) = enrollment::mandatory(&asked)
        .map_err(|message| Failure::new(ErrorCode::InternalException, message))?;
    match request.who {
        Principal::Activation => {}
        Principal::Anonymous | Principal::Peer(_) | Principal::Owner | Principal::Enrolled(_) => {
            let message = "this server grants enrollments to connections authenticated by cram only";
            return Err(Failure::new(ErrorCode::InternalException, message));
        }
    }
    let enrollment = Enrollment::first(request.session, app, device, key);
    let id = crate::random::uuid();
    let edits = records(request, &id, &enrollment, &asked)
        .ok_or_else(|| Failure::new(ErrorCode::InternalException, "the enrollment's keys have no names"))?;
    let write = Write { edits, notification: None, now: request.now };
    request.node.store.write(request.tenant, write).await??;
    let response =
        Response::Data(serde_json::json!({ "enrollmentId": id, "status": "approved" }).to_string());
    Ok(Effect::Bind(Arc::new(Enrolled { id, enrollment, expires: None }), response))
}

/// All that an approved first enrollment leaves in the store.
fn records(
    request: &Request<'_>,
    id: &str,
    enrollment: &Enrollment,
    asked: &EnrollRequest,
) -> Option<Vec<Edit>> {
    let tenant = request.tenant;
    let edit = |key, value| Edit::Update { key, value, metadata: Metadata::default() };
    let published = format!("{}.{}.pkam.__pkams.__public_keys", enrollment.app_name, enrollment.device_name);
    let mut edits = vec![
        edit(enrollment::record_key(id, tenant)?, json(enrollment)),
        // So that clients that know no enrollments authenticate, too.
        edit(private_key("at_pkam_publickey"), enrollment.apkam_public_key.clone()),
    ];
    if let Ok(name) = published.parse() {
        let value = serde_json::json!({ "apkamPublicKey": enrollment.apkam_public_key }).to_string();
        edits.push(edit(AtKey::Public { name, owner: tenant.clone() }, value));
    }
    if let Some(sealed) = &asked.encrypted_default_encryption_private_key {
        let value = enrollment::stored_key(sealed, asked.enc_private_key_iv.as_deref());
        edits.push(edit(enrollment::private_key_key(id, tenant)?, value));
    }
    if let Some(sealed) = &asked.encrypted_default_self_encryption_key {
        let value = enrollment::stored_key(sealed, asked.self_enc_key_iv.as_deref());
        edits.push(edit(enrollment::self_key_key(id, tenant)?, value));
    }
    Some(edits)
}
