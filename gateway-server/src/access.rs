//! Who may do what: one function, which refuses what it does not know.

mod principal;

use at_protocol::response::Failure;
use at_protocol::verb::{Config, Lookup, MessageType, Notify, Stream, Verb};
use at_protocol::{AtKey, AtSign, ErrorCode, KeyName, Timestamp};

use crate::enrollment::{ALL, Enrollment, Right, State, is_id};

pub use principal::Principal;

/// An application that proved itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The enrollment's id.
    pub id: String,
    /// What it was granted.
    pub enrollment: Enrollment,
    /// When its time is over.
    pub expires: Option<Timestamp>,
}

/// The server's own records, which no verb shows or changes.
const SERVER_ONLY: [&str; 3] = ["at_secret", "at_secret_deleted", "signing_keypair_generated"];

/// Decides whether `who` may perform `verb` at the server of `tenant`. Look-ups of other atSigns' records
/// are decided by their servers.
///
/// # Errors
/// The refusal, as it is answered.
pub fn may(who: &Principal, tenant: &AtSign, verb: &Verb) -> Result<(), Failure> {
    if let Some(denied) = touches_the_servers_own(tenant, verb) {
        return Err(denied);
    }
    match (who, verb) {
        // What anybody may: each shows the anonymous only what is public.
        (_, Verb::From(_) | Verb::To(_) | Verb::Cram(_) | Verb::Pkam(_) | Verb::Pol)
        | (_, Verb::Info(_) | Verb::Noop(_) | Verb::Enroll(_)) => Ok(()),
        // Who takes a stream need not be known here; the stream's id is what he was told.
        (_, Verb::Stream(Stream::Receive { .. } | Stream::Done { .. })) => Ok(()),
        (Principal::Anonymous | Principal::Peer(_), Verb::Lookup(_)) => Ok(()),
        (Principal::Anonymous | Principal::Peer(_), Verb::Scan(scan)) if scan.of.is_none() && !scan.commit_log => Ok(()),

        // What a peer may: notify the tenant of what is the peer's.
        (Principal::Peer(peer), Verb::Notify(notify)) => {
            let owner = notify.owner.as_ref().unwrap_or(peer);
            if notify.to == *tenant && owner == peer {
                return Ok(());
            }
            Err(unauthorized(format!("{owner} is not authorized to send notification as {peer}")))
        }

        (Principal::Peer(_), Verb::Stream(Stream::Init(announced))) if announced.receiver == *tenant => Ok(()),
        (Principal::Peer(_), Verb::Stream(Stream::Resume { receiver, .. })) if receiver == tenant => Ok(()),

        // The owner may do the rest.
        (Principal::Activation | Principal::Owner, Verb::Notify(notify)) => own_notification(notify, tenant),
        (Principal::Activation | Principal::Owner, Verb::NotifyAll(all)) => {
            own_notification(&all.first, tenant)
        }
        (
            Principal::Activation | Principal::Owner,
            Verb::Scan(_)
            | Verb::Update(_)
            | Verb::Delete(_)
            | Verb::LLookup(_)
            | Verb::Lookup(_)
            | Verb::PLookup(_)
            | Verb::NotifyList(_)
            | Verb::NotifyStatus(_)
            | Verb::NotifyFetch(_)
            | Verb::NotifyRemove(_)
            | Verb::Monitor(_)
            | Verb::Stats(_)
            | Verb::Sync(_)
            | Verb::Otp(_)
            // These are an application's; the owner is told so.
            | Verb::Keys(_)
            | Verb::Config(_)
            // Each command of a batch is decided by itself.
            | Verb::Batch(_)
            | Verb::Stream(Stream::Init(_) | Stream::Resume { .. }),
        ) => Ok(()),
        (Principal::Enrolled(enrolled), verb) => enrolled.may(tenant, verb),

        (Principal::Anonymous | Principal::Peer(_), _) => {
            Err(Failure::new(ErrorCode::NotAuthenticated, "Command cannot be executed without auth"))
        }
    }
}

fn unauthorized(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::Unauthorized, message)
}

fn own_notification(notify: &Notify, tenant: &AtSign) -> Result<(), Failure> {
    match &notify.owner {
        Some(owner) if owner != tenant => {
            Err(unauthorized(format!("{owner} is not authorized to send notification as {tenant}")))
        }
        Some(_) | None => Ok(()),
    }
}

/// The activation secret and the key that signs for other servers never cross the wire, and nobody plants
/// others in their place.
fn touches_the_servers_own(tenant: &AtSign, verb: &Verb) -> Option<Failure> {
    let key = if let Verb::LLookup(lookup) = verb {
        Some(&lookup.key).filter(|key| is_servers_own(tenant, key)).cloned()
    } else if let Verb::Lookup(Lookup { name, owner, .. }) = verb {
        let key = AtKey::Shared { name: name.clone(), owner: owner.clone(), with: owner.clone() };
        Some(key).filter(|key| is_servers_own(tenant, key))
    } else if let Verb::Update(update) = verb {
        Some(&update.key).filter(|key| is_servers_own(tenant, key) || is_servers_word(key)).cloned()
    } else if let Verb::Delete(delete) = verb {
        // Deleting the secret is how activation ends; that of shared and public keys has its own rules.
        let may_go = match &delete.key {
            AtKey::PrivateKey { name } => name.as_str() == "at_secret",
            AtKey::Own { .. } | AtKey::Private { .. } => false,
            AtKey::Public { .. }
            | AtKey::Shared { .. }
            | AtKey::CachedPublic { .. }
            | AtKey::CachedShared { .. } => true,
        };
        let key = Some(&delete.key).filter(|_| !may_go);
        key.filter(|key| is_servers_own(tenant, key) || is_servers_word(key)).cloned()
    } else {
        None
    };
    key.map(|key| unauthorized(format!("{key} is the server's own")))
}

/// Records that only the server reads.
pub(crate) fn is_servers_own(tenant: &AtSign, key: &AtKey) -> bool {
    match key {
        AtKey::PrivateKey { name } => SERVER_ONLY.contains(&name.as_str()),
        AtKey::Shared { owner, .. } => owner == tenant && is_signing_key(key),
        AtKey::Private { .. } => true,
        AtKey::Public { .. }
        | AtKey::Own { .. }
        | AtKey::CachedPublic { .. }
        | AtKey::CachedShared { .. } => false,
    }
}

/// The key with which the server signs for other servers.
fn is_signing_key(key: &AtKey) -> bool {
    matches!(key, AtKey::Shared { name, owner, with } if owner == with && name.as_str() == "signing_privatekey")
}

/// Records that everybody may read and only the server writes.
fn is_servers_word(key: &AtKey) -> bool {
    match key {
        AtKey::Public { name, .. } => name.as_str() == "signing_publickey",
        AtKey::Own { .. } => key.is_enrollment(),
        AtKey::Shared { .. }
        | AtKey::CachedPublic { .. }
        | AtKey::CachedShared { .. }
        | AtKey::PrivateKey { .. }
        | AtKey::Private { .. } => false,
    }
}

impl Enrolled {
    fn may(&self, tenant: &AtSign, verb: &Verb) -> Result<(), Failure> {
        // Such a connection is cut, or never was authenticated: whatever becomes of that, it ends here.
        if !self.is_approved() {
            let state = self.enrollment.approval.state.word();
            return Err(unauthorized(format!("enrollment_id: {} is {state}", self.id)));
        }
        let (word, key, needed) = match verb {
            Verb::Update(update) => ("update", update.key.clone(), Right::Write),
            Verb::Delete(delete) => ("delete", delete.key.clone(), Right::Write),
            Verb::LLookup(lookup) => ("llookup", lookup.key.clone(), Right::Read),
            Verb::Lookup(lookup) => {
                let (name, owner) = (lookup.name.clone(), lookup.owner.clone());
                ("lookup", AtKey::Shared { name, owner, with: tenant.clone() }, Right::Read)
            }
            Verb::Notify(notify) => return self.may_notify(tenant, "notify", notify),
            Verb::NotifyAll(all) => return self.may_notify(tenant, "notify:all", &all.first),
            // The list of those who are turned away, like the settings, is the whole atSign's.
            Verb::Config(Config::ShowBlocked | Config::Print { .. }) => return Ok(()),
            Verb::Config(
                Config::Block(_) | Config::Unblock(_) | Config::Set { .. } | Config::Reset { .. },
            ) => {
                return if self.writes_all() {
                    Ok(())
                } else {
                    Err(self.denial("config", "private:blocklist"))
                };
            }
            Verb::Stream(Stream::Init(announced)) => (
                "stream",
                stream_key("stream_id", tenant, announced.namespace.as_ref(), &announced.receiver),
                Right::Write,
            ),
            Verb::Stream(Stream::Resume { receiver, .. }) => {
                ("stream", stream_key("stream_resume", tenant, None, receiver), Right::Write)
            }
            // Who makes passcodes lets others in.
            Verb::Otp(_) if self.enrollment.manages(Right::Write) => return Ok(()),
            Verb::Otp(_) => {
                let message = format!(
                    "Connection with enrollment ID {} does not have access to \"__manage\" namespace",
                    self.id
                );
                return Err(Failure::closing(ErrorCode::InternalException, message));
            }
            // Bounded by the enrollment itself.
            Verb::Keys(_) => return Ok(()),
            // These filter what they show, or name no record.
            Verb::Scan(_)
            | Verb::Sync(_)
            | Verb::Monitor(_)
            | Verb::PLookup(_)
            | Verb::Stats(_)
            | Verb::NotifyList(_)
            | Verb::NotifyStatus(_)
            | Verb::NotifyFetch(_)
            | Verb::NotifyRemove(_) => return Ok(()),
            // Each command of a batch is decided by itself.
            Verb::Batch(_) | Verb::Stream(Stream::Receive { .. } | Stream::Done { .. }) => return Ok(()),
            Verb::From(_)
            | Verb::To(_)
            | Verb::Cram(_)
            | Verb::Pkam(_)
            | Verb::Pol
            | Verb::Info(_)
            | Verb::Noop(_)
            | Verb::Enroll(_) => return Ok(()),
        };
        if self.reaches(&key, needed) { Ok(()) } else { Err(self.denial(word, &key.to_string())) }
    }

    fn may_notify(&self, tenant: &AtSign, word: &str, notify: &Notify) -> Result<(), Failure> {
        own_notification(notify, tenant)?;
        let name = match notify.message_type.unwrap_or_default() {
            MessageType::Key => notify.key.parse::<KeyName>().ok(),
            // A text has no namespace, whatever dots it has.
            MessageType::Text => None,
        };
        let allowed = match name {
            Some(name) => {
                let key = AtKey::Shared { name, owner: tenant.clone(), with: notify.to.clone() };
                self.reaches(&key, Right::Write)
            }
            None => self.writes_all(),
        };
        if allowed { Ok(()) } else { Err(self.denial(word, &notify.key)) }
    }

    /// Whether it was granted everything that is not the server's own.
    fn writes_all(&self) -> bool {
        self.is_approved() && self.enrollment.namespaces.get(ALL) == Some(&Right::Write)
    }

    fn is_approved(&self) -> bool {
        self.enrollment.approval.state == State::Approved
    }

    fn sees_all(&self) -> bool {
        self.is_approved() && self.enrollment.sees_all()
    }

    /// Whether this is a name in the namespace that is this enrollment's alone, `<id>.a.__e`.
    fn owns(&self, name: &KeyName) -> bool {
        let head = name.as_str().strip_suffix(".a.__e").and_then(|head| head.strip_suffix(self.id.as_str()));
        is_id(&self.id) && head.is_some_and(|head| head.ends_with('.'))
    }

    /// Whether the enrollment has this right over a record.
    fn reaches(&self, key: &AtKey, needed: Right) -> bool {
        if !self.is_approved() {
            return false;
        }
        // The first key's place is no application's to take, or it would outgrow its own namespaces.
        if matches!(key, AtKey::PrivateKey { .. }) {
            return self.writes_all();
        }
        if needed == Right::Read && (is_reserved(key) || matches!(key, AtKey::Public { .. })) {
            return true;
        }
        if is_reserved(key) {
            // Whoever shares something must be able to share a key; what others encrypt to is the owner's.
            // So is our copy of what others have us encrypt to, by which a change is noticed.
            let is_public = matches!(key, AtKey::Public { .. } | AtKey::CachedPublic { .. });
            let writes = self.enrollment.namespaces.values().any(|right| *right == Right::Write);
            return if is_public { self.writes_all() } else { writes };
        }
        self.is_granted(key.name(), needed)
    }

    /// Whether its own namespace or one that it was granted covers a name.
    fn is_granted(&self, name: &KeyName, needed: Right) -> bool {
        self.owns(name) || self.enrollment.right_over(name).is_some_and(|right| right >= needed)
    }

    fn denial(&self, word: &str, key: &str) -> Failure {
        unauthorized(format!(
            "Connection with enrollment ID {} is not authorized to {word} key: {key}",
            self.id
        ))
    }
}

/// The record that a stream's announcement names (wire reference §4.22).
pub(crate) fn stream_key(
    word: &str,
    sender: &AtSign,
    namespace: Option<&KeyName>,
    receiver: &AtSign,
) -> AtKey {
    let name = namespace.map_or(word.to_owned(), |namespace| format!("{word}.{namespace}"));
    let name = name.parse().expect("two names and a dot are a name");
    AtKey::Shared { name, owner: sender.clone(), with: receiver.clone() }
}

/// The records that every application shares, whatever its namespaces (wire reference §5.3).
fn is_reserved(key: &AtKey) -> bool {
    match key {
        AtKey::Public { name, .. } => matches!(name.as_str(), "publickey" | "signing_publickey"),
        AtKey::Shared { name, .. } | AtKey::CachedShared { name, .. } => name.as_str() == "shared_key",
        AtKey::CachedPublic { name, .. } => name.as_str() == "publickey",
        AtKey::Own { name, .. } => name.as_str().starts_with("shared_key."),
        AtKey::PrivateKey { .. } | AtKey::Private { .. } => false,
    }
}

#[cfg(test)]
mod tests;
