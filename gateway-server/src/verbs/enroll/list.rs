//! `enroll:list`, `fetch`, `listns`, `infons`: what there is.

use std::collections::BTreeMap;

use at_protocol::response::{Failure, Response};
use at_protocol::verb::{EnrollFilter, EnrollTarget};
use at_protocol::{ErrorCode, Timestamp};
use serde::Serialize;

use super::{Done, Effect, Request, Stored, all, authenticated, find, json, mandatory, may_decide};
use crate::access::{Enrolled, Principal};
use crate::enrollment::{RECORDS, Right, State};
use crate::verbs::{MAX_ANSWER, missing, too_long};

/// An enrollment as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    app_name: &'a str,
    device_name: &'a str,
    namespace: &'a BTreeMap<String, Right>,
    #[serde(rename = "encryptedAPKAMSymmetricKey")]
    encrypted_apkam_symmetric_key: Option<&'a str>,
    status: &'static str,
}

/// Who shares a namespace.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member<'a> {
    enrollment_id: &'a str,
    access: Right,
    apkam_pub_key: &'a str,
    metadata: Option<&'a serde_json::Map<String, serde_json::Value>>,
}

impl<'a> Shown<'a> {
    fn of(stored: &'a Stored, with_key: bool, now: Timestamp) -> Self {
        let enrollment = &stored.enrollment;
        Self {
            app_name: &enrollment.app_name,
            device_name: &enrollment.device_name,
            namespace: &enrollment.namespaces,
            encrypted_apkam_symmetric_key: enrollment
                .encrypted_apkam_symmetric_key
                .as_deref()
                .filter(|_| with_key),
            status: stored.state(now).word(),
        }
    }
}

/// All enrollments, for who manages them; its own, for any other application. Who may only look at them
/// sees no keys.
pub(super) async fn list(request: &Request<'_>, filter: EnrollFilter) -> Done {
    authenticated(request, "list")?;
    let states = filter.enrollment_status_filter.unwrap_or_default();
    let mut listed = String::new();
    for stored in all(request).await? {
        let (is_seen, with_key) = match request.who {
            Principal::Enrolled(caller) if caller.id == stored.id => (true, true),
            Principal::Enrolled(caller) => {
                (caller.enrollment.manages(Right::Read), caller.enrollment.manages(Right::Write))
            }
            Principal::Activation | Principal::Owner => (true, true),
            Principal::Anonymous | Principal::Peer(_) => (false, false),
        };
        let state = stored.state(request.now).word();
        if !is_seen || !(states.is_empty() || states.iter().any(|wanted| wanted == state)) {
            continue;
        }
        let key = json(&format!("{}{RECORDS}{}", stored.id, request.tenant));
        let shown = json(&Shown::of(&stored, with_key, request.now));
        listed.push_str(if listed.is_empty() { "" } else { "," });
        listed.push_str(&format!("{key}:{shown}"));
        if listed.len() > MAX_ANSWER {
            return Err(Response::Error(too_long()));
        }
    }
    Ok(Effect::Answer(Response::Data(format!("{{{listed}}}"))))
}

pub(super) async fn fetch(request: &Request<'_>, target: EnrollTarget) -> Done {
    let id = mandatory(target.enrollment_id, "fetch")?;
    authenticated(request, "fetch")?;
    let Some(stored) = find(request, &id).await? else {
        return Err(Response::Error(missing(format!("{id}{RECORDS}{}", request.tenant))));
    };
    let is_own = matches!(request.who, Principal::Enrolled(caller) if caller.id == stored.id);
    if !is_own {
        may_decide(request, "fetch", &stored)?;
    }
    let shown = Shown::of(&stored, true, request.now);
    Ok(Effect::Answer(Response::Data(json(&shown))))
}

/// The application that asks, which must itself reach the namespace it asks about.
fn insider<'a>(request: &Request<'a>, operation: &str, namespace: &str) -> Done<&'a Enrolled> {
    let Principal::Enrolled(caller) = request.who else {
        let message = format!("enroll:{operation} requires APKAM authentication");
        return Err(Response::Error(Failure::new(ErrorCode::NotAuthenticated, message)));
    };
    if caller.enrollment.right_in(namespace).is_none() {
        let message = format!(
            "Connection with enrollment ID {} is not authorized to enroll:{operation} namespace: {namespace}",
            caller.id
        );
        return Err(Response::Error(Failure::new(ErrorCode::Unauthorized, message)));
    }
    Ok(caller)
}

/// Which applications share a namespace, so that they can encrypt for each other.
pub(super) async fn namespace(request: &Request<'_>, namespace: &str) -> Done {
    insider(request, "listns", namespace)?;
    let stored = all(request).await?;
    let members = stored.iter().filter(|stored| stored.state(request.now) == State::Approved);
    let members = members.filter_map(|stored| {
        let access = stored.enrollment.right_in(namespace)?;
        Some(Member {
            enrollment_id: &stored.id,
            access,
            apkam_pub_key: &stored.enrollment.apkam_public_key,
            metadata: stored.enrollment.metadata.as_ref(),
        })
    });
    let listed = json(&members.collect::<Vec<_>>());
    if listed.len() > MAX_ANSWER {
        return Err(Response::Error(too_long()));
    }
    Ok(Effect::Answer(Response::Data(listed)))
}

/// When an application last lost a namespace: who encrypts for it takes a new key then.
pub(super) async fn namespace_info(request: &Request<'_>, namespace: &str) -> Done {
    insider(request, "infons", namespace)?;
    let stored = all(request).await?;
    let lost = stored.iter().filter(|stored| {
        stored.enrollment.approval.state == State::Revoked && stored.enrollment.right_in(namespace).is_some()
    });
    let last = lost.filter_map(|stored| stored.enrollment.revoked_at).max();
    let last = last.map(|last| last.to_string().replace(' ', "T"));
    let info = serde_json::json!({ "lastRevokedAt": last });
    Ok(Effect::Answer(Response::Data(info.to_string())))
}
