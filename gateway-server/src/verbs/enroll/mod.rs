//! `enroll`: applications ask for keys of their own, and the owner decides (atProtocol wire reference
//! §4.23).

mod decide;
mod list;
mod request;
mod update;

use at_protocol::key::MAX_KEY;
use at_protocol::response::{Failure, Response};
use at_protocol::verb::Enroll;
use at_protocol::{AtKey, AtSign, ErrorCode, Metadata, Timestamp};
use serde::Serialize;

use super::{Effect, Request, json};
use crate::access::Principal;
use crate::enrollment::{Enrollment, Right, State, id_of, record_key};
use crate::store::{Edit, Record};
use crate::tenant::private_key;

pub(super) async fn perform(request: &Request<'_>, enroll: Enroll) -> Effect {
    let done = match enroll {
        Enroll::Request(asked) => request::perform(request, asked).await,
        Enroll::Update(asked) => update::perform(request, asked).await,
        Enroll::Decide { decision, force, target } => decide::perform(request, decision, force, target).await,
        Enroll::Fetch(target) => list::fetch(request, target).await,
        Enroll::List(filter) => list::list(request, filter).await,
        Enroll::ListNamespace(namespace) => list::namespace(request, &namespace).await,
        Enroll::InfoNamespace(namespace) => list::namespace_info(request, &namespace).await,
    };
    done.unwrap_or_else(Effect::Answer)
}

/// Largest record of an enrollment, in bytes: names, namespaces, keys, and what an application says about
/// itself, of which the largest known are packages of a few post-quantum keys.
const MAX_RECORD: usize = 32 * 1024;

/// What an operation comes to, or how it is refused.
type Done<T = Effect> = Result<T, Response>;

/// An enrollment in the store.
struct Stored {
    id: String,
    enrollment: Enrollment,
    expires: Option<Timestamp>,
}

impl Stored {
    /// A record that cannot be read is none.
    fn of(id: &str, record: Record) -> Option<Self> {
        let enrollment = serde_json::from_str(&record.value).ok()?;
        Some(Self { id: id.to_owned(), enrollment, expires: record.expires })
    }

    /// Where it stands: the record says it, unless its time is over.
    fn state(&self, now: Timestamp) -> State {
        match self.expires {
            Some(expires) if expires <= now => State::Expired,
            _ => self.enrollment.approval.state,
        }
    }

    /// Whether it is small enough to be kept.
    fn fits(&self) -> Done<()> {
        match json(&self.enrollment).len() {
            length if length > MAX_RECORD => Err(refused(format!(
                "the enrollment would take {length} bytes, at most {MAX_RECORD} are kept"
            ))),
            _ => Ok(()),
        }
    }

    /// The record as it is to be from now on, for as long as it was to live.
    fn edit(&self, tenant: &AtSign, now: Timestamp) -> Edit {
        let left = self.expires.map_or(0, |expires| expires.as_millis().saturating_sub(now.as_millis()));
        // A lifetime of 0 is for ever; what is over is not written any more.
        self.edit_for(tenant, u64::try_from(left).unwrap_or(1))
    }

    /// The record as it is to be for `ttl` milliseconds from now on, 0 for ever.
    fn edit_for(&self, tenant: &AtSign, ttl: u64) -> Edit {
        let key = record_key(&self.id, tenant).expect("the id of a stored record names one");
        plain(key, json(&self.enrollment), Some(ttl))
    }
}

fn plain(key: AtKey, value: String, ttl: Option<u64>) -> Edit {
    Edit::Update { key, value, metadata: Metadata { ttl, ..Metadata::default() } }
}

/// An enrollment by its id, if there is one under this very spelling.
async fn find(request: &Request<'_>, id: &str) -> Done<Option<Stored>> {
    let Some(key) = record_key(id, request.tenant) else { return Ok(None) };
    let record = request.node.store.record(request.tenant, &key).await?;
    Ok(record.and_then(|record| Stored::of(id, record)))
}

/// All enrollments of the tenant, those whose time is over and that were not yet removed included.
async fn all(request: &Request<'_>) -> Done<Vec<Stored>> {
    let records = request.node.store.enrollments(request.tenant).await?;
    let stored = |(key, record): (AtKey, Record)| id_of(&key).and_then(|id| Stored::of(id, record));
    Ok(records.into_iter().filter_map(stored).collect())
}

fn refused(message: impl Into<String>) -> Response {
    Response::Error(Failure::new(ErrorCode::InternalException, message))
}

/// The answer about an enrollment that is not there, or not any more.
fn gone(id: &str) -> Response {
    let message = format!("enrollment_id: {id} is expired or invalid");
    Response::State(ErrorCode::EnrollmentExpired, message)
}

/// The answer of an operation that has changed an enrollment.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed<'a> {
    enrollment_id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

fn changed(id: &str, status: &str) -> Response {
    Response::Data(json(&Changed { enrollment_id: id, status, message: None }))
}

fn mandatory(id: Option<String>, operation: &str) -> Done<String> {
    let given = id.filter(|id| !id.is_empty());
    given.ok_or_else(|| refused(format!("enrollmentId is mandatory for enroll:{operation}")))
}

fn authenticated(request: &Request<'_>, operation: &str) -> Done<()> {
    if request.who.is_owner() {
        return Ok(());
    }
    let message = format!("Cannot {operation} enrollment without authentication");
    Err(Response::Error(Failure::new(ErrorCode::NotAuthenticated, message)))
}

/// Whether the caller may see or decide about an enrollment that asks for these namespaces: the owner may,
/// and an application that manages enrollments and has itself what it would give.
fn may_decide(request: &Request<'_>, operation: &str, target: &Stored) -> Done<()> {
    let Principal::Enrolled(caller) = request.who else { return Ok(()) };
    let failed = format!("Failed to {operation} enrollment id: {}.", target.id);
    if !caller.enrollment.manages(Right::Write) {
        let lacks = "The approving enrollment does not have access to \"__manage\" namespace";
        return Err(refused(format!("{failed} {lacks}")));
    }
    if !caller.enrollment.covers(&target.enrollment) {
        let lacks = "Client is not authorized for namespaces in the enrollment request";
        return Err(refused(format!("{failed} {lacks}")));
    }
    Ok(())
}

/// The key of clients that know no enrollments, if there is one.
async fn first_key(request: &Request<'_>) -> Done<Option<String>> {
    let record = request.node.store.record(request.tenant, &private_key("at_pkam_publickey")).await?;
    Ok(record.map(|record| record.value))
}

/// The record in which everybody finds an enrollment's public key; none if its names are no key's.
fn published(tenant: &AtSign, enrollment: &Enrollment) -> Option<Edit> {
    let name = format!("{}.{}.pkam.__pkams.__public_keys", enrollment.app_name, enrollment.device_name);
    let key = AtKey::Public { name: name.parse().ok()?, owner: tenant.clone() };
    if key.to_string().chars().count() > MAX_KEY {
        return None;
    }
    let value = serde_json::json!({ "apkamPublicKey": enrollment.apkam_public_key }).to_string();
    Some(plain(key, value, None))
}
