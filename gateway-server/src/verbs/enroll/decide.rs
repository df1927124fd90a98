//! `enroll:approve`, `deny`, `revoke`, `unrevoke`, `delete`: what the owner decides.

use std::collections::HashSet;
use std::time::Duration;

use at_protocol::response::{Failure, Response};
use at_protocol::verb::{Decision, EnrollTarget};
use at_protocol::{AtSign, ErrorCode};

use super::{
    Changed, Done, Effect, Request, Stored, all, authenticated, changed, find, first_key, gone, json,
    mandatory, may_decide, plain, published, refused,
};
use crate::access::Principal;
use crate::enrollment::{Approval, State, private_key_key, record_key, self_key_key, stored_key};
use crate::sessions::Sessions;
use crate::store::{Edit, Write};
use crate::tenant::private_key;

/// How long a connection stays that has revoked its own enrollment (wire reference §4.23).
const FAREWELL: Duration = Duration::from_secs(10);

pub(super) async fn perform(
    request: &Request<'_>,
    decision: Decision,
    force: bool,
    mut target: EnrollTarget,
) -> Done {
    let id = mandatory(target.enrollment_id.take(), decision.word())?;
    if decision == Decision::Approve {
        for (given, name) in [
            (&target.encrypted_default_encryption_private_key, "encryptedDefaultEncryptionPrivateKey"),
            (&target.encrypted_default_self_encryption_key, "encryptedDefaultSelfEncryptionKey"),
        ] {
            if given.as_ref().is_none_or(String::is_empty) {
                return Err(refused(format!("{name} is mandatory for enroll:approve")));
            }
        }
    }
    authenticated(request, decision.word())?;
    let _turn = request.node.enrolling.turn(request.tenant).await;
    let stored = find(request, &id).await?;
    if decision == Decision::Delete {
        return delete(request, &id, stored).await;
    }
    let stored = stored.filter(|stored| stored.state(request.now) != State::Expired);
    let stored = stored.ok_or_else(|| gone(&id))?;
    may_decide(request, decision.word(), &stored)?;
    let (from, verb, done) = match decision {
        Decision::Approve => (State::Pending, "approve", "approved"),
        Decision::Deny => (State::Pending, "deny", "denied"),
        Decision::Revoke => (State::Approved, "revoke", "revoked"),
        Decision::Unrevoke | Decision::Delete => (State::Revoked, "un-revoke", "un-revoked"),
    };
    let state = stored.state(request.now);
    if state != from {
        return Err(refused(format!(
            "Failed to {} enrollment id: {id}. Cannot {verb} a {} enrollment. Only {} enrollments can be {done}",
            decision.word(),
            state.word(),
            from.word(),
        )));
    }
    match decision {
        Decision::Approve => approve(request, stored, &target).await,
        Decision::Deny => settle(request, stored, State::Denied).await,
        Decision::Revoke => revoke(request, stored, force, target.keep_approved).await,
        Decision::Unrevoke | Decision::Delete => unrevoke(request, stored).await,
    }
}

async fn write(request: &Request<'_>, edits: Vec<Edit>) -> Done<()> {
    let write = Write { edits, notification: None, now: request.now };
    request.node.store.write(request.tenant, write).await??;
    Ok(())
}

/// The enrollment on whose behalf this connection decides; none where it is the owner itself.
fn caller<'a>(request: &Request<'a>) -> Option<&'a str> {
    match request.who {
        Principal::Enrolled(enrolled) => Some(&enrolled.id),
        Principal::Anonymous | Principal::Peer(_) | Principal::Activation | Principal::Owner => None,
    }
}

async fn approve(request: &Request<'_>, mut stored: Stored, target: &EnrollTarget) -> Done {
    let tenant = request.tenant;
    stored.enrollment.approval = Approval { state: State::Approved };
    stored.enrollment.approved_by = caller(request).map(str::to_owned);
    // From now on it lives as long as its keys, no longer as a request.
    let ttl = stored.enrollment.apkam_keys_expiry_in_millis.unwrap_or(0);
    let mut edits = vec![stored.edit_for(tenant, ttl)];
    edits.extend(published(tenant, &stored.enrollment));
    for (sealed, iv, key) in [
        (
            &target.encrypted_default_encryption_private_key,
            &target.enc_private_key_iv,
            private_key_key(&stored.id, tenant),
        ),
        (
            &target.encrypted_default_self_encryption_key,
            &target.self_enc_key_iv,
            self_key_key(&stored.id, tenant),
        ),
    ] {
        if let (Some(sealed), Some(key)) = (sealed, key) {
            edits.push(plain(key, stored_key(sealed, iv.as_deref()), None));
        }
    }
    write(request, edits).await?;
    Ok(Effect::Answer(changed(&stored.id, State::Approved.word())))
}

async fn settle(request: &Request<'_>, mut stored: Stored, state: State) -> Done {
    stored.enrollment.approval = Approval { state };
    write(request, vec![stored.edit(request.tenant, request.now)]).await?;
    Ok(Effect::Answer(changed(&stored.id, state.word())))
}

/// Takes an enrollment back, with all that was approved by its holder, and ends their connections.
async fn revoke(request: &Request<'_>, stored: Stored, force: bool, keep_approved: bool) -> Done {
    let first_key = first_key(request).await?;
    let is_first = |one: &Stored| first_key.as_ref() == Some(&one.enrollment.apkam_public_key);
    let is_own = match request.who {
        Principal::Enrolled(caller) => caller.id == stored.id,
        // Authenticated by the very key that goes.
        Principal::Owner => is_first(&stored),
        Principal::Anonymous | Principal::Peer(_) | Principal::Activation => false,
    };
    if is_own && !force {
        let message = "Current client cannot revoke its own enrollment";
        return Err(Response::Error(Failure::new(ErrorCode::SelfRevocation, message)));
    }
    let id = stored.id.clone();
    let mut revoked = vec![stored];
    if !keep_approved {
        let spared = caller(request).filter(|caller| **caller != *id);
        let others = all(request).await?;
        revoked.extend(
            descendants(&id, spared, others)
                .into_iter()
                .filter(|other| other.state(request.now) == State::Approved),
        );
    }
    let mut edits = Vec::with_capacity(revoked.len() + 1);
    for one in &mut revoked {
        one.enrollment.approval = Approval { state: State::Revoked };
        one.enrollment.revoked_at = Some(request.now);
        if is_first(one) && !one.enrollment.was_first_key {
            one.enrollment.was_first_key = true;
            // Else its holder would come back as the owner itself.
            edits.push(Edit::Delete { key: private_key("at_pkam_publickey") });
        }
        edits.push(one.edit(request.tenant, request.now));
    }
    let cut = Cut {
        sessions: request.node.sessions(),
        tenant: request.tenant,
        owners: revoked.iter().any(|one| one.enrollment.was_first_key),
        enrollments: revoked.into_iter().map(|one| one.id).collect(),
        except: is_own.then_some(request.session),
    };
    write(request, edits).await?;
    drop(cut);
    if !is_own {
        return Ok(Effect::Answer(changed(&id, State::Revoked.word())));
    }
    let message = Some("Enrollment is revoked. Closing the connection in 10 seconds");
    let answer = Changed { enrollment_id: &id, status: State::Revoked.word(), message };
    Ok(Effect::Farewell(Response::Data(json(&answer)), FAREWELL))
}

/// Those whose approval goes back to an enrollment, but not to the one that is `spared`: who revokes is not
/// its own victim, nor are those for whom it answers.
fn descendants(id: &str, spared: Option<&str>, mut others: Vec<Stored>) -> Vec<Stored> {
    let mut known: HashSet<String> = [id.to_owned()].into();
    let mut found = Vec::new();
    loop {
        let (children, rest) = others.into_iter().partition::<Vec<_>, _>(|other| {
            let by = other.enrollment.approved_by.as_ref();
            by.is_some_and(|by| known.contains(by))
                && !known.contains(&other.id)
                && spared != Some(other.id.as_str())
        });
        if children.is_empty() {
            return found;
        }
        known.extend(children.iter().map(|child| child.id.clone()));
        found.extend(children);
        others = rest;
    }
}

/// Ends connections when dropped: also where the one that revokes is itself ended meanwhile.
struct Cut<'a> {
    sessions: &'a Sessions,
    tenant: &'a AtSign,
    enrollments: Vec<String>,
    owners: bool,
    except: Option<&'a str>,
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let mut ended: usize = self
            .enrollments
            .iter()
            .map(|id| self.sessions.cut_enrollment(self.tenant, id, self.except))
            .sum();
        if self.owners {
            ended += self.sessions.cut_owner(self.tenant, self.except);
        }
        let (tenant, enrollments) = (self.tenant, self.enrollments.len());
        tracing::info!(%tenant, enrollments, connections = ended, "revoked");
    }
}

async fn unrevoke(request: &Request<'_>, mut stored: Stored) -> Done {
    stored.enrollment.approval = Approval { state: State::Approved };
    // Who gives it again answers for it.
    stored.enrollment.approved_by = caller(request).map(str::to_owned);
    let mut edits = Vec::new();
    if std::mem::take(&mut stored.enrollment.was_first_key) && first_key(request).await?.is_none() {
        let key = stored.enrollment.apkam_public_key.clone();
        edits.push(plain(private_key("at_pkam_publickey"), key, None));
    }
    edits.push(stored.edit(request.tenant, request.now));
    write(request, edits).await?;
    Ok(Effect::Answer(changed(&stored.id, State::Approved.word())))
}

async fn delete(request: &Request<'_>, id: &str, stored: Option<Stored>) -> Done {
    let record = record_key(id, request.tenant);
    let Some((stored, record)) = stored.zip(record) else {
        return Err(Response::Error(super::super::missing(format!(
            "{id}.new.enrollments.__manage{}",
            request.tenant
        ))));
    };
    may_decide(request, "delete", &stored)?;
    let state = stored.state(request.now);
    if !matches!(state, State::Denied | State::Revoked) {
        return Err(refused(format!(
            "Failed to delete enrollment id: {id} | Cause: Cannot delete {} enrollments. Only denied and revoked \
             enrollments can be deleted",
            state.word()
        )));
    }
    let keys = [Some(record), private_key_key(id, request.tenant), self_key_key(id, request.tenant)];
    write(request, keys.into_iter().flatten().map(|key| Edit::Delete { key }).collect()).await?;
    Ok(Effect::Answer(changed(id, "deleted")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrollment::Enrollment;

    fn stored(id: &str, approved_by: Option<&str>) -> Stored {
        let mut enrollment = Enrollment::asked("_s", "a".into(), "d".into(), "k".into());
        enrollment.approved_by = approved_by.map(str::to_owned);
        Stored { id: id.to_owned(), enrollment, expires: None }
    }

    #[test]
    fn an_approval_is_worth_what_its_giver_is() {
        // 1 approved 2 and 5; 2 approved 3, 3 approved 4; 6 is the owner's; 7 and 8 approved each other.
        let all = || {
            [("1", None), ("2", Some("1")), ("3", Some("2")), ("4", Some("3")), ("5", Some("1")), ("6", None)]
                .into_iter()
                .chain([("7", Some("8")), ("8", Some("7"))])
                .map(|(id, by)| stored(id, by))
                .collect::<Vec<_>>()
        };
        let below = |id: &str, spared| {
            let mut ids: Vec<_> = descendants(id, spared, all()).into_iter().map(|one| one.id).collect();
            ids.sort();
            ids.concat()
        };
        assert_eq!(below("1", None), "2345");
        assert_eq!(below("3", None), "4");
        assert_eq!(below("6", None), "");
        assert_eq!(below("1", Some("3")), "25", "who revokes keeps what is its own");
        assert_eq!(below("7", None), "8", "a ring ends");
    }
}
