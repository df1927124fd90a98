//! `enroll:request`: granted at once to who knows the activation secret, else for the owner to decide.

use std::collections::BTreeMap;
use std::sync::Arc;

use at_protocol::verb::{EnrollRequest, MessageType, Operation, Passcode, Priority, Strategy};
use at_protocol::{Metadata, Timestamp};
use subtle::ConstantTimeEq;

use super::{Done, Effect, Request, Stored, all, changed, plain, published, refused};
use crate::access::{Enrolled, Principal};
use crate::enrollment::{
    ALL, Enrollment, Right, State, private_key_key, record_key, self_key_key, stored_key,
};
use crate::store::{Edit, Kind, Notification, Status, Write};
use crate::tenant::private_key;
use crate::verbs::otp;

/// How long managers may learn of a request, in milliseconds: a day (wire reference §8.6).
const NOTICE_MS: u64 = 24 * 60 * 60 * 1000;

pub(super) async fn perform(request: &Request<'_>, asked: EnrollRequest) -> Done {
    let enrollment = enrollment(request.session, &asked)?;
    let limits = &request.node.config.enrollment;
    if !request.node.sessions().may_enroll(request.session, limits, request.now) {
        return Err(refused("Enrollment requests have exceeded the limit within the specified time frame"));
    }
    match request.who {
        // Who knows the activation secret may begin again as often as it takes.
        Principal::Activation => grant(request, enrollment, &asked).await,
        Principal::Owner | Principal::Enrolled(_) => ask(request, enrollment).await,
        Principal::Anonymous | Principal::Peer(_) => {
            if !takes_passcode(request, asked.otp.as_ref()).await? {
                // Nothing is held while this waits: neither a turn nor a lock.
                let delay = request.node.enrolling.wrong(request.tenant, limits.delay, request.now);
                tokio::time::sleep(delay).await;
                return Err(refused("invalid otp. Cannot process enroll request"));
            }
            ask(request, enrollment).await
        }
    }
}

/// What is asked for, or the text of what is missing, in the published order.
fn enrollment(session: &str, asked: &EnrollRequest) -> Done<Enrollment> {
    let given = |member: &Option<String>, what: &str| {
        let given = member.clone().filter(|text| !text.is_empty());
        given.ok_or_else(|| refused(format!("{what} is mandatory for enroll:request")))
    };
    let app = given(&asked.app_name, "appName")?;
    let device = given(&asked.device_name, "deviceName")?;
    let key = given(&asked.apkam_public_key, "apkam public key")?;
    let has_namespaces = asked.namespaces.as_ref().is_some_and(|namespaces| !namespaces.is_empty());
    if asked.otp.is_some() {
        if asked.encrypted_apkam_symmetric_key.as_ref().is_none_or(String::is_empty) {
            let message = "encrypted apkam symmetric key is mandatory for new client enroll:request";
            return Err(refused(message));
        }
        if !has_namespaces {
            return Err(refused("At least one namespace must be specified for new client enroll:request"));
        }
    }
    let namespaces = asked.namespaces.iter().flatten().map(|(name, letters)| grant_of(name, letters));
    Ok(Enrollment {
        namespaces: namespaces.collect::<Done<BTreeMap<_, _>>>()?,
        encrypted_apkam_symmetric_key: asked.encrypted_apkam_symmetric_key.clone(),
        apkam_keys_expiry_in_millis: lifetime(asked),
        signing_algo: asked.signing_algo.clone(),
        metadata: asked.metadata.clone(),
        ..Enrollment::asked(session, app, device, key)
    })
}

fn lifetime(asked: &EnrollRequest) -> Option<u64> {
    asked
        .apkam_keys_expiry_in_millis
        .and_then(|millis| u64::try_from(millis).ok())
        .filter(|millis| *millis > 0)
}

/// One namespace as it is granted. A name that is none would end every key's name.
fn grant_of(name: &str, letters: &str) -> Done<(String, Right)> {
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if name != ALL && !name.split('.').all(is_word) {
        return Err(refused(format!("{name:?} is not a namespace")));
    }
    let right = Right::of(letters);
    let right = right.ok_or_else(|| refused(format!("access to namespace {name} must be r or rw")))?;
    Ok((name.to_lowercase(), right))
}

/// Whether this passcode is good. One that was made for a single request is gone when it was looked at.
async fn takes_passcode(request: &Request<'_>, code: Option<&Passcode>) -> Done<bool> {
    let Some(code) = code else { return Ok(false) };
    let store = &request.node.store;
    let _turn = request.node.enrolling.turn(request.tenant).await;
    let lasting = otp::record(request, otp::LASTING).expect("our own names are key names");
    let lasting = store.record(request.tenant, &lasting).await?;
    if let Some(lasting) = lasting.filter(|record| record.is_active(request.now)) {
        let (said, kept) = (code.reveal().to_uppercase(), lasting.value.to_uppercase());
        if said.as_bytes().ct_eq(kept.as_bytes()).into() {
            return Ok(true);
        }
    }
    // Shorter words name other records.
    let once = Some(code.reveal()).filter(|code| code.len() >= otp::LENGTH);
    let once = once.filter(|code| code.chars().all(|c| c.is_ascii_alphanumeric()));
    let Some(once) = once.and_then(|code| otp::record(request, &code.to_lowercase())) else {
        return Ok(false);
    };
    let Some(found) = store.record(request.tenant, &once).await? else { return Ok(false) };
    let write = Write { edits: vec![Edit::Delete { key: once }], notification: None, now: request.now };
    store.write(request.tenant, write).await??;
    Ok(found.is_active(request.now))
}

/// The first enrollment: granted whole, and the connection is bound to it.
async fn grant(request: &Request<'_>, enrollment: Enrollment, asked: &EnrollRequest) -> Done {
    let tenant = request.tenant;
    let enrollment = enrollment.granted_whole();
    let ttl = enrollment.apkam_keys_expiry_in_millis.unwrap_or(0);
    let expires = (ttl > 0).then(|| request.now.plus_millis(ttl));
    let stored = Stored { id: crate::random::uuid(), enrollment, expires };
    stored.fits()?;
    let mut edits = vec![
        stored.edit_for(tenant, ttl),
        // So that clients that know no enrollments authenticate, too.
        plain(private_key("at_pkam_publickey"), stored.enrollment.apkam_public_key.clone(), None),
    ];
    edits.extend(published(tenant, &stored.enrollment));
    for (sealed, iv, key) in [
        (
            &asked.encrypted_default_encryption_private_key,
            &asked.enc_private_key_iv,
            private_key_key(&stored.id, tenant),
        ),
        (
            &asked.encrypted_default_self_encryption_key,
            &asked.self_enc_key_iv,
            self_key_key(&stored.id, tenant),
        ),
    ] {
        if let (Some(sealed), Some(key)) = (sealed, key) {
            edits.push(plain(key, stored_key(sealed, iv.as_deref()), None));
        }
    }
    // Before others can learn of it and revoke it.
    request.node.sessions().claims(request.session, tenant, &stored.id);
    let _turn = request.node.enrolling.turn(tenant).await;
    let write = Write { edits, notification: None, now: request.now };
    request.node.store.write(tenant, write).await??;
    let response = changed(&stored.id, State::Approved.word());
    let Stored { id, enrollment, expires } = stored;
    Ok(Effect::Bind(Arc::new(Enrolled { id, enrollment, expires }), response))
}

/// A request that waits for the owner, who is told.
async fn ask(request: &Request<'_>, enrollment: Enrollment) -> Done {
    let tenant = request.tenant;
    let stored = Stored { id: crate::random::uuid(), enrollment, expires: None };
    stored.fits()?;
    let enrollment = &stored.enrollment;
    let _turn = request.node.enrolling.turn(tenant).await;
    let others = all(request).await?;
    let most = request.node.config.enrollment.most;
    if others.len() >= most {
        return Err(refused(format!(
            "there are {most} enrollments already; delete some that were denied or revoked"
        )));
    }
    let same = others.into_iter().find(|other| {
        (&other.enrollment.app_name, &other.enrollment.device_name)
            == (&enrollment.app_name, &enrollment.device_name)
            && matches!(other.state(request.now), State::Pending | State::Approved)
    });
    if let Some(other) = same {
        return Err(refused(format!(
            "Another enrollment with id {} exists with the app name: {} and device name: {} in {} state",
            other.id,
            enrollment.app_name,
            enrollment.device_name,
            other.state(request.now).word(),
        )));
    }
    let pending = u64::try_from(request.node.config.enrollment.pending.as_millis()).unwrap_or(u64::MAX);
    let edits = vec![stored.edit_for(tenant, pending)];
    let write = Write { edits, notification: Some(notice(request, &stored)), now: request.now };
    request.node.store.write(tenant, write).await??;
    Ok(Effect::Answer(changed(&stored.id, State::Pending.word())))
}

/// What those are told who manage enrollments.
fn notice(request: &Request<'_>, stored: &Stored) -> Notification {
    let Stored { id, enrollment, .. } = stored;
    let key = record_key(id, request.tenant).expect("a fresh id names a record");
    let value = serde_json::json!({
        // Both spellings are in use.
        "encryptedApkamSymmetricKey": enrollment.encrypted_apkam_symmetric_key,
        "encryptedAPKAMSymmetricKey": enrollment.encrypted_apkam_symmetric_key,
        "appName": enrollment.app_name,
        "deviceName": enrollment.device_name,
        "namespace": enrollment.namespaces,
    });
    Notification {
        kind: Kind::Own,
        id: crate::random::uuid(),
        from: request.tenant.clone(),
        to: request.tenant.clone(),
        key: key.to_string(),
        value: Some(value.to_string()),
        operation: Operation::Update,
        message_type: MessageType::Key,
        priority: Priority::Low,
        strategy: Strategy::All,
        latest_n: 1,
        notifier: "SYSTEM".to_owned(),
        ttln: NOTICE_MS,
        is_encrypted: false,
        metadata: Metadata::default(),
        created: request.now,
        expires: Timestamp::plus_millis(request.now, NOTICE_MS),
        status: Status::Delivered,
        attempts: 0,
    }
}
